"""A few of the runs of `benchmarks/crashes.py`, each in processes of its own."""

import subprocess
import sys

import pytest

from fedalign.settings.registry import HOME


@pytest.mark.slow
@pytest.mark.parametrize("only", ["SIGKILL while", "SIGTERM", "disk", "two", "clock", "workers"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(only):
    words = ["benchmarks/crashes.py", "--count", "2", "--only", only]
    done = subprocess.run([sys.executable, *words], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " of " in done.stdout
