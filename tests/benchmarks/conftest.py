import sys

import pytest

from fedalign.settings.registry import HOME


@pytest.fixture(autouse=True, scope="session")
def _importable():
    """Let the benchmarks import each other, as they do when one of them is run."""
    sys.path.insert(0, str(HOME / "benchmarks"))
