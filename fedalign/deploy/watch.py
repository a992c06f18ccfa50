"""Keep the nodes of a federation on this machine running, or end the wait for its run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Self

import psutil

from fedalign.errors import FedalignError

STARTS = 3  # of each node
PAUSE = 0.5  # seconds between two looks


class Watch:
    """Starts nodes that end again; a context manager for the main thread. Handles SIGTERM.

    A node ends by itself if, for example, its port is taken. Leaving raises `SystemExit` after
    SIGTERM, and `FedalignError` with a node's last words after its last start.

    Args:
        nodes: returns the processes of the nodes by name.
        start: starts the node with this name.
        log: returns the end of its log.
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, psutil.Popen]],
        start: Callable[[str], None],
        log: Callable[[str], str],
    ):
        self._nodes, self._start, self._log = nodes, start, log
        self._starts, self._reason = Counter[str](), ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._stop)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        signal.signal(signal.SIGTERM, self._before)

    def _watch(self) -> None:
        while not self._reason and not self._done.wait(PAUSE):
            for name, process in self._nodes().items():
                if (code := process.poll()) is not None:
                    self._ended(name, code)

    def _ended(self, name: str, code: int) -> None:
        self._starts[name] += 1
        line = f"{name} ended with exit code {code}: {self._log(name)}"
        if self._starts[name] == STARTS:
            self._reason = line
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            print(f"{line}; starting it again", file=sys.stderr, flush=True)
            self._start(name)

    def _stop(self, number: int, _: Any) -> None:
        if self._reason:
            raise FedalignError(self._reason)
        raise SystemExit(128 + number)
