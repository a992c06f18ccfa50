"""What processes use of a machine: CPU time and memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

STATUS = Path("/proc/self/status")  # on Linux


class Usage(NamedTuple):
    """What one process has used so far, or several together.

    Attributes:
        cpu_seconds: user and system time of all threads.
        peak_memory: the largest resident set, in bytes; of several processes, the sum of theirs.
    """

    cpu_seconds: float = 0.0
    peak_memory: int = 0

    def plus(self, other: Usage) -> Usage:
        """Return what both have used."""
        memory = self.peak_memory + other.peak_memory
        return Usage(self.cpu_seconds + other.cpu_seconds, memory)


@runtime_checkable
class CountsUsage(Protocol):
    """A grid that knows what its workers use."""

    def usage(self) -> Usage:
        """Return what all workers have used, as far as they have said."""
        ...


def own_usage() -> Usage:
    """Return what this process has used."""
    return Usage(time.process_time(), _peak_memory())


def _peak_memory() -> int:
    try:
        lines = STATUS.read_text("utf-8").splitlines()
        # What `getrusage` says may be of the process that started this one.
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
