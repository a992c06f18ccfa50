"""Write files so that a crash or a power cut leaves the old content or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedalign.errors import FedalignError


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes to the path it is given.

    It has the permissions of any new file there, whatever `write` does: safetensors lets nobody
    else read its files.

    Raises:
        FedalignError: it cannot be written; the file that was there is unchanged.
    """
    new = path.with_name(f"{path.name}.tmp")
    with reporting(path):
        try:
            new.touch()
            usual = new.stat().st_mode
            write(new)
            new.chmod(usual)
            sync(new)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace the text in a file, see `replace`."""
    replace(path, lambda new: new.write_text(text, "utf-8"))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Raise `FedalignError` with path and reason if a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise FedalignError(f"{path}: cannot be written: {error.strerror or error}") from error
    except SafetensorError as error:
        reason = str(error).rpartition("I/O error: ")[2]
        raise FedalignError(f"{path}: cannot be written: {reason}") from error
