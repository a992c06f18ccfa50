"""One writer for each run folder."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedalign.errors import FedalignError, InputError

LOCK = "lock"  # the file's name in the run folder
log = logging.getLogger("fedalign")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run folder if it is missing, and be its only writer within this context.

    The operating system holds the lock (`flock`), so it ends with the process, however that ends.
    On a network file system the lock counts on all machines that mount it with locking (NFS 4
    does by default). Where a file system has no locks, a warning says so.

    Raises:
        FedalignError: another process writes into the folder.
        InputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(folder / LOCK)
    except OSError as error:
        raise InputError(f"out: cannot write to {str(folder)!r}: {error.strerror}") from None
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()


def _locked(path: Path) -> IO[str]:
    """Return the lock's file, which holds the lock as long as it is open."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            writer = file.read().strip() or "another process"
            file.close()
            raise FedalignError(
                f"{path.parent} is being written by {writer}; wait until that run has ended, "
                "or give another --out"
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no second run", path, error.strerror)
        with suppress(FileNotFoundError):  # the writer before has just removed it
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
