"""Imports run one way: a user's own part can be written exactly as a built-in one."""

import ast

import pytest

from fedalign.settings.registry import FOLDERS, HOME

CORE = sorted((HOME / "fedalign").rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(HOME)))
def test_the_core_reaches_parts_only_through_the_registry(path):
    assert not set(imported(path)) & set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_three_folders_do_not_know_one_another(folder):
    others = set(FOLDERS) - {folder}
    for path in (HOME / folder).rglob("*.py"):
        assert not set(imported(path)) & others, path


SOURCES = [path for folder in ("fedalign", *FOLDERS) for path in (HOME / folder).rglob("*.py")]
UNPICKLE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADERS = {"torch.load", "pd.read_pickle", "pandas.read_pickle", "np.lib.format.read_array"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_nothing_is_unpickled(path):
    """What comes over a network or from a file is numbers and text; nothing in it is run."""
    assert not set(imported(path)) & UNPICKLE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in LOADERS, node.lineno
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"eval", "exec"}, node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", node.lineno
