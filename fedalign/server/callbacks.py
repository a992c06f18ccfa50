"""What is done with a round once it is over, beside the next one if it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from fedalign.server.round import Round


class Callback(Protocol):
    """Something that happens after each round: measuring, writing, showing."""

    def on_round(self, outcome: Round) -> None:
        """Look at a round; may add to its metrics for the callbacks that follow."""


class CallbackRunner:
    """Tells callbacks of each round, in order; at most one round is behind.

    Args:
        callbacks: called in this order.
        overlap: of a round's number, whether the next one may train meanwhile.
    """

    def __init__(self, callbacks: Sequence[Callback], overlap: Callable[[int], bool]):
        self._callbacks, self._overlap = callbacks, overlap
        # A thread of its own takes as many torch threads as there are cores, unless told.
        self._thread = ThreadPoolExecutor(1, "measure", torch.set_num_threads, (1,))
        self._behind: Future[None] | None = None

    def __enter__(self) -> CallbackRunner:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the round that is behind, also where the one after it has failed."""
        with self._thread:
            self._catch_up()

    def tell(self, outcome: Round, started: float) -> None:
        """Tell of a round that started at this `time.perf_counter()`, once the last one is done.

        Its metric `seconds` runs to where the next round can start.
        """
        self._catch_up()
        if self._overlap(outcome.number):
            outcome.metrics["seconds"] = time.perf_counter() - started
            self._behind = self._thread.submit(self._call, outcome)
        else:
            self._call(outcome, started)

    def _call(self, outcome: Round, started: float | None = None) -> None:
        for callback in self._callbacks:
            if started is not None:
                outcome.metrics["seconds"] = time.perf_counter() - started
            callback.on_round(outcome)

    def _catch_up(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            behind.result()
