"""What a round, or a run, costs: wall time, CPU time and memory."""

from __future__ import annotations

import time

from flwr.serverapp import Grid

from fedalign.server.round import Added
from fedalign.usage import CountsUsage, Usage, own_usage


class Meter:
    """Measures from the moment it is made: this process, and the workers of a grid.

    Args:
        grid: whose workers count too, if it knows what they use.
    """

    def __init__(self, grid: Grid | None = None):
        self._grid = grid if isinstance(grid, CountsUsage) else None
        self.began = time.perf_counter()
        self._before = time.process_time() + self._of_workers().cpu_seconds

    def read(self) -> Added:
        """Return the seconds and CPU seconds since it was made, and the largest memory so far."""
        used = own_usage().plus(self._of_workers())
        seconds = time.perf_counter() - self.began
        return Added(
            {
                "seconds": seconds,
                "cpu_seconds": used.cpu_seconds - self._before,
                "peak_memory": used.peak_memory,
            }
        )

    def _of_workers(self) -> Usage:
        return self._grid.usage() if self._grid else Usage()
