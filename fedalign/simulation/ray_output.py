"""Print what Ray's workers print, which Ray's log monitor would do in a process of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PAUSE = 0.2  # seconds between two looks at the logs
LOGS = ("worker-*.out", "worker-*.err", "raylet.err")
MARKS = (":job_id:", ":actor_name:", ":task_name:")  # lines that Ray writes for its log monitor


@contextmanager
def workers_heard(folder: Path) -> Iterator[None]:
    """Print the lines that workers write to the logs in `folder`, from now to the context's end."""
    ended, output = threading.Event(), WorkerOutput(folder)

    def listen() -> None:
        while not ended.wait(PAUSE):
            output.forward()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        output.forward()


class WorkerOutput:
    """The logs of Ray's workers in a folder, as far as they have been printed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._printed: dict[Path, int] = {}  # bytes

    def forward(self) -> None:
        """Print all new lines, each with the process that wrote it."""
        for pattern in LOGS:
            for path in sorted(self._folder.glob(pattern)):
                for line in self._new_lines(path):
                    print(f"({_writer(path)}) {line}", file=_stream(path))

    def _new_lines(self, path: Path) -> list[str]:
        """Return the whole lines that have been added to a file."""
        begin = self._printed.get(path, 0)
        with path.open("rb") as file:
            file.seek(begin)
            text, end, _ = file.read().rpartition(b"\n")
        self._printed[path] = begin + len(text + end)
        lines = text.decode("utf-8", "replace").splitlines() if end else []
        return [line for line in lines if not line.startswith(MARKS)]


def _writer(path: Path) -> str:
    """Return who writes a log, by Ray's names of the files."""
    name, _, pid = path.stem.rpartition("-")
    return f"Worker pid={pid}" if name else path.stem


def _stream(path: Path) -> TextIO:
    return sys.stdout if path.suffix == ".out" else sys.stderr
