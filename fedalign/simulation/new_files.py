"""Say which files a Flower app has written, since most apps do not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

MAX_FILES = 20_000  # looked at in a folder, since a home folder may have millions
MAX_NAMED = 5


@contextmanager
def new_files_named(*folders: Path) -> Iterator[None]:
    """Print to standard error which files in these folders are new or changed after the body."""
    before = _times(folders)
    yield
    new = [path for path, time in _times(folders).items() if before.get(path) != time]
    if new:
        names = [os.path.relpath(path) for path in new[:MAX_NAMED]]
        more = f" and {len(new) - MAX_NAMED} more" if len(new) > MAX_NAMED else ""
        print(f"wrote {', '.join(names)}{more}", file=sys.stderr)


def _times(folders: tuple[Path, ...]) -> dict[Path, int]:
    """Return when each file was changed last, in nanoseconds."""
    times = {}
    for folder in folders:
        for path in islice(_files(folder.resolve()), MAX_FILES):
            with suppress(OSError):
                times[path] = path.stat().st_mtime_ns
    return times


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones and compiled code."""
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name[0] != "." and name != "__pycache__")
        yield from (Path(place, file) for file in sorted(files) if file[0] != ".")
