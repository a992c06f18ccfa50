"""Ctrl-C ends a run after the round that is going on, and a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

NOTICE = "stopping after this round; Ctrl-C again stops at once"


class Interrupts:
    """Within this context the first Ctrl-C is noted, for `check` between rounds.

    Not so where another handler than Python's own is set, or in another thread than the main one,
    where no handler can be set.

    Args:
        tell: shows the notice that the run is stopping, also from within a signal handler.
        wanted: a stopped run could go on after its last round; otherwise Ctrl-C is as usual.
    """

    def __init__(self, tell: Callable[[str], None], wanted: bool = True):
        self._tell, self._came = tell, False
        here = threading.current_thread() is threading.main_thread()
        usual = here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self._handles = wanted and usual

    def __enter__(self) -> Interrupts:
        if self._handles:
            signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C has been pressed."""
        if self._came:
            raise KeyboardInterrupt

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            signal.default_int_handler(number, frame)
        self._came = True
        self._tell(NOTICE)
