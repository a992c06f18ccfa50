"""`run.log`: what a run says, warnings and errors included, each line with its time (UTC)."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

from fedalign.errors import FedalignError

FILE = "run.log"
EARLY = 10_000  # lines that are kept until there is a file for them
_said = logging.getLogger("fedalign.said")  # what is printed anyway
_said.setLevel(logging.INFO)
_said.propagate = False


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line, on standard output by default, and note it."""
    print(line, file=file, flush=True)
    note(line)


def note(line: str) -> None:
    """Let the log of the run that is going on have a line."""
    _said.info("%s", line)


class RunLog:
    """Keeps what is said within its context, and why it ends, in a file once there is one."""

    def __init__(self) -> None:
        self._memory = MemoryHandler(EARLY, logging.CRITICAL + 1, flushOnClose=False)
        self._memory.addFilter(_is_shown)
        self._added: list[tuple[logging.Logger, logging.Handler]] = []

    def __enter__(self) -> RunLog:
        for name in ("fedalign", "flwr", _said.name):
            logger = logging.getLogger(name)
            if logging.lastResort and logger.propagate and not logger.hasHandlers():
                self._add(logger, logging.lastResort)  # a logger with handlers does without it
            self._add(logger, self._memory)
        return self

    def open(self, folder: Path) -> None:
        """Append what has been said, and all that will be, to the log in a run folder."""
        file = logging.FileHandler(folder / FILE, encoding="utf-8")
        form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        form.converter = time.gmtime
        file.setFormatter(form)
        self._memory.setTarget(file)
        self._memory.capacity = 0  # from now on, nothing waits
        note(f"command: {shlex.join(sys.argv)}")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            known = isinstance(error, FedalignError | KeyboardInterrupt)
            line = "stopped" if isinstance(error, KeyboardInterrupt) else f"error: {error}"
            _said.error("%s", line, exc_info=None if known else error)
        for logger, handler in self._added:
            logger.removeHandler(handler)
        if self._memory.target is not None:
            self._memory.target.close()
        self._memory.close()

    def _add(self, logger: logging.Logger, handler: logging.Handler) -> None:
        logger.addHandler(handler)
        self._added.append((logger, handler))


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a record is what the terminal shows too, and not one of Flower's news."""
    return record.levelno >= logging.WARNING or record.name == _said.name
