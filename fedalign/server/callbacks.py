"""What happens after each round: measuring, writing, showing; beside the next round if possible."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial

import torch

from fedalign.errors import DeviceError
from fedalign.server.meter import Meter
from fedalign.server.round import Added, Round

SOON = 1.0  # seconds; what a longer round leads to is not put off


class Callback:
    """Something that happens after each round; all of it is optional."""

    def models_wanted(self, number: int, partitions: Sequence[int]) -> Collection[int]:  # noqa: ARG002
        """Return the partitions whose models `on_round` looks at, of those sampled for a round."""
        return ()

    def capture(self, outcome: Round) -> None:
        """Note what the next round will change, and start what a GPU can do beside it.

        Called before the next round starts, in order of rounds.
        """

    def on_round(self, outcome: Round) -> Added | None:
        """Handle a finished round; what is returned is added to it for the next callbacks."""


class CallbackRunner:
    """Calls callbacks after each round, in order, at most one round behind the training.

    Args:
        callbacks: in the order in which they are called.
        overlap: the next round may train before callbacks are called.
        rounds: the number of the last round, after which nothing trains; None: unknown.
        thread: overlapping callbacks have a thread of their own. Without one they are called after
            the next round has trained, unless rounds take long: for a GPU, which needs no thread to
            work on what `capture` started, while two threads of Python only hinder each other.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback] = (),
        overlap: bool = False,
        rounds: int | None = None,
        thread: bool = True,
    ):
        self._callbacks, self._overlap, self._rounds = callbacks, overlap, rounds
        self._has_thread = thread
        self._behind: Callable[[], None] | None = None

    def __enter__(self) -> CallbackRunner:
        # By default a new thread takes as many torch threads as there are cores.
        self._thread = ThreadPoolExecutor(1, "callbacks", torch.set_num_threads, (1,))
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        """Finish the round that is behind, even if the round after it has failed.

        After a `DeviceError` that would fail too, and hide it.
        """
        lost = isinstance(error, DeviceError)
        hidden: AbstractContextManager[object] = suppress(Exception) if lost else nullcontext()
        with self._thread, hidden:
            self._catch_up()

    def models_wanted(self, number: int, partitions: Sequence[int]) -> set[int]:
        """Return the partitions whose models any callback looks at."""
        return {p for own in self._callbacks for p in own.models_wanted(number, partitions)}

    def call(self, outcome: Round, meter: Meter) -> None:
        """Call all callbacks with a round, once the round before it has been handled.

        Args:
            outcome: the round; what it cost is added here. It ends when the next round can start.
            meter: made at the start of the round.
        """
        self._catch_up()
        for callback in self._callbacks:
            callback.capture(outcome)
        late = outcome.plus(meter.read())
        if not self._overlap or outcome.number == self._rounds:
            self._call(outcome, meter)
        elif self._has_thread:
            self._behind = self._thread.submit(self._call, late).result
        elif late.metrics["seconds"] < SOON:
            self._behind = partial(self._call, late)
        else:
            self._call(late)

    def _call(self, outcome: Round, meter: Meter | None = None) -> None:
        for callback in self._callbacks:
            if meter is not None:
                outcome = outcome.plus(meter.read())
            added = callback.on_round(outcome)
            outcome = outcome if added is None else outcome.plus(added)

    def _catch_up(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            behind()
