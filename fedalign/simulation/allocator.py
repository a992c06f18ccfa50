"""The memory of large arrays, used again instead of given back to the system each time."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

LARGEST = 1 << 28  # bytes of an array whose memory is kept once it is free
KEPT = 1 << 28  # bytes that stay with the process at the end of its heap
# glibc's `malloc.h`
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process use freed memory again, also that of large arrays.

    By default, glibc asks the system for the memory of each array of more than 32 MiB, and gives it
    back. The system clears it page by page, which takes several times as long as copying the
    array. There is no effect with other C libraries, nor if `MALLOC_...` or `GLIBC_TUNABLES` in
    the environment says how memory is to be allocated.
    """
    if any(key.startswith("MALLOC_") or key == "GLIBC_TUNABLES" for key in os.environ):
        return
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGEST)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
