"""The examples in docstrings are right."""

import doctest
from importlib import import_module

import pytest

from fedalign.settings.registry import HOME

FOLDERS = ("fedalign", "strategies", "clients", "partitions")
FILES = [path for folder in FOLDERS for path in sorted((HOME / folder).rglob("*.py"))]
MODULES = [
    ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(import_module(name))
    assert result.attempted
    assert not result.failed
