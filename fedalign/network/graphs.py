"""Captures work on a GPU once, so that it runs again without Python and without launches.

Captured work has a fixed shape and reads and writes the same memory each time: whatever changes is
data in tensors that stay where they are. A replay is compared with a plain run before it is used.
"""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

Work = Callable[[], None]
Kept = TypeVar("Kept")
log = logging.getLogger("fedalign")

ALIKE = 1e-4  # how far a replay may be from a plain run, in sums over a tensor
MOST = 16  # shapes, after which no more are captured
KEPT = 4  # how many shapes of a stack keep their tensors and graphs
capturing = Lock()
"""Held while work is captured, during which no other thread may capture, wait or free memory."""


class Graph(Protocol):
    """Captured work."""

    def replay(self) -> None:
        """Do the work again."""


class Recording:
    """A CUDA graph, which can be referred to weakly."""

    def __init__(self, graph: Any):
        self._graph = graph

    def replay(self) -> None:
        """Do the work again."""
        self._graph.replay()


class Graphs:
    """Captures work on one GPU; an instance keeps what it captured.

    Attributes:
        refused: why work was not captured, in the order in which that was found.
        off: nothing is worth capturing any more.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.off = False
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._pool: Any = None
        self._alive: WeakSet[Recording] = WeakSet()  # those whose memory is in the pool
        self._stream: torch.cuda.Stream | None = None
        self._broken: list[Any] = []
        self._made = 0

    def kept(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what `make` returned for this key; the least recently used is given up."""
        if key not in self._kept:
            self._kept[key] = make()
            self._made += 1
            if self._made > MOST:
                self.off = True
                self._refuse("data or shapes change from round to round")
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        found: Kept = self._kept[key]
        return found

    def forget(self) -> None:
        """Give up all that was captured, and its memory."""
        self._kept.clear()

    def capture(self, work: Work, state: Sequence[Tensor]) -> Graph | None:
        """Do the work and return it as a graph; None if it can only be done plainly.

        Args:
            work: reads and writes tensors that stay where they are.
            state: all that it changes, and reads again when it is replayed.
        """
        before = [tensor.clone() for tensor in state]
        self._plainly(work)
        after = sums(state)
        _restore(state, before)
        try:
            graph = self._captured(work)
            _restore(state, before)
            graph.replay()
            differs = not alike(sums(state), after)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._recover()
            graph, differs = None, False
            self._refuse(f"it cannot be captured: {str(error).strip().splitlines()[0]}")
        if differs:
            self._refuse("a replay differs from a plain run")
        if graph is None or differs:
            _restore(state, before)
            work()
            return None
        return graph

    def check(self, graph: Graph, work: Work, state: Sequence[Tensor]) -> bool:
        """Do the work; return whether a replay still does the same as a plain run.

        For work of another round, from which a number may have been left in the graph.
        """
        before = [tensor.clone() for tensor in state]
        graph.replay()
        replayed = sums(state)
        _restore(state, before)
        work()
        same = alike(replayed, sums(state))
        if not same:
            self._refuse("it depends on something that changes from round to round")
        return same

    def _refuse(self, why: str) -> None:
        if why not in self.refused:
            self.refused.append(why)
            log.warning("steps run without a CUDA graph, and slower: %s", why)

    def _plainly(self, work: Work) -> None:
        """Do the work on the stream of captures, so that libraries are set up there before."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _recover(self) -> None:
        """Go on after a capture that failed; raises again what has ended all work on the GPU."""
        with capturing:
            torch.cuda.synchronize()

    def _captured(self, work: Work) -> Graph:
        """Return what the work launches; on a stream of our own, which a failure does not keep.

        `torch.cuda.graph` has one stream for all threads, and stays on it if a capture fails.
        """
        if self._pool is None or not self._alive:  # a pool ends with the last of its graphs
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # so that nothing of the GPU is let go of meanwhile
        with capturing:
            torch.cuda.synchronize()
            with torch.cuda.stream(self._stream):
                try:
                    graph.capture_begin(self._pool, capture_error_mode="thread_local")
                    work()
                    graph.capture_end()
                except BaseException:
                    with suppress(RuntimeError):
                        graph.capture_end()
                    self._broken.append(graph)  # the allocator may still ask it
                    self._pool = None
                    raise
        recording = Recording(graph)
        self._alive.add(recording)
        return recording


class Captured:
    """Work that is captured when it is done first, and replayed from then on.

    In a later round it is compared once more, since a number of that round may be in the graph.
    """

    def __init__(self, graphs: Graphs):
        self._graphs = graphs
        self._graph: Graph | None = None
        self._since: int | None = None  # the round of the capture
        self._is_checked = False

    @property
    def is_plain(self) -> bool:
        """Whether the work could not be captured."""
        return self._since is not None and self._graph is None

    def do(self, work: Work, state: Sequence[Tensor], number: int) -> None:
        """Do the work in the round of this number; see `Graphs.capture` for the rest."""
        if self._since is None:
            self._graph, self._since = self._graphs.capture(work, state), number
        elif self._graph is None:
            work()
        elif number > self._since and not self._is_checked:
            self._is_checked = True
            if not self._graphs.check(self._graph, work, state):
                self._graph = None
        else:
            self._graph.replay()


def free_memory() -> None:
    """Give memory that is not used back to the GPU, unless a failed capture forbids it."""
    with capturing, suppress(RuntimeError):
        torch.cuda.empty_cache()


def sums(state: Sequence[Tensor]) -> Tensor:
    """Return the sum and the norm of each floating-point tensor, `(n, 2)` float64."""
    floats = [tensor for tensor in state if tensor.is_floating_point()]
    found = [
        torch.stack([t.sum(dtype=torch.float64), torch.linalg.vector_norm(t, dtype=torch.float64)])
        for t in floats
    ]
    return torch.stack(found)


def alike(one: Tensor, other: Tensor) -> bool:
    """Return whether sums and norms are the same, but for rounding and for NaN in both."""
    near = (one - other).abs() <= ALIKE * other[:, 1:].clamp(min=1e-30)
    return bool((near | (one == other) | (one.isnan() & other.isnan())).all())


def _restore(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)
