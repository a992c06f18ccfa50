"""What each fuzzed reader keeps: it refuses in plain words or returns what was written.

It takes no more than a few seconds, and asks for no more memory than a constant beside twice the
input. `FUZZ_CASES` is the number of cases of all kinds together in the slow lane.
"""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KINDS = 14
QUICK = 500 // KINDS
ALL = int(os.environ.get("FUZZ_CASES", "30000")) // KINDS
SECONDS = 30.0  # the machine may be busy
MEMORY = 256 << 20  # bytes beside twice the input; new threads reserve 64 MiB each
PAGE = resource.getpagesize()

fuzzed = pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(QUICK), id="quick"),
        pytest.param(range(QUICK, max(QUICK, ALL)), id="slow", marks=pytest.mark.slow),
    ],
)


@contextmanager
def bounded(seed: int, size: int, allowed: type[Exception] | tuple[type[Exception], ...]):
    """Let a case raise what is allowed, and nothing else; a note names its seed."""
    with _seconds(SECONDS), _memory(2 * size + MEMORY):
        try:
            yield
        except allowed as error:
            words = str(error)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        else:
            return
    assert words.strip(), f"seed {seed}: no words"
    assert len(words) < 2000, f"seed {seed}: {len(words)} characters: {words[:200]}"


@contextmanager
def _seconds(most: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {most} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, most)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _memory(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
