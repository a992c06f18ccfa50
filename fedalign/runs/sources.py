"""The code that a run uses beside fedalign's own: its files, packages and repositories."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Collection, Iterator
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from fedalign import __version__
from fedalign.errors import INSTALLED as PLACES
from fedalign.settings.config import Config
from fedalign.settings.registry import FOLDERS, HOME, Part, reference

OWN = ("fedalign", *FOLDERS)
COMPUTING = ("flwr", "numpy", "torch")
INSTALLED = tuple(Path(place).resolve() for place in PLACES)
_distributions = cache(packages_distributions)  # reads a file of each installed package


def packages_of(tops: Collection[str]) -> dict[str, str]:
    """Return name and version of the installed packages that top-level modules come from."""
    known = _distributions() if tops else {}
    names = sorted({name for top in tops for name in known.get(top, ())})
    return {name: version(name) for name in names}


def code_of(tops: Collection[str]) -> dict[str, str]:
    """Return versions and hashes of all code that can change a result, by name.

    Args:
        tops: top-level modules of the user's parts.
    """
    own = hashlib.sha256()
    for path in sorted(file for name in OWN for file in (HOME / name).rglob("*.py")):
        own.update(path.read_bytes())
    beside = {name: version(name).partition("+")[0] for name in COMPUTING}
    ours = {"fedalign": f"{__version__}, files {own.hexdigest()[:16]}"}
    return {**ours, **beside, **packages_of(tops), **hashes(files_from(tops))}


def files_of(config: Config) -> dict[str, Path]:
    """Return the files of the parts of a configuration, see `files_from`."""
    return files_from(tops_of(config))


def files_from(tops: Collection[str]) -> dict[str, Path]:
    """Return the files of the user's parts, by the path below the folder they are imported from.

    They are all modules of a part's package, or its one module, and those that they import from
    outside the standard library and the installed packages.
    """
    found: dict[str, Path] = {}
    todo = sorted(tops)
    seen = set(todo)
    while todo:
        for name, file in _files(todo.pop()):
            found[name] = file
            new = _imports(file.read_bytes()) - seen
            seen |= new
            todo += sorted(filter(_is_users, new))
    return dict(sorted(found.items()))


def hashes(files: dict[str, Path]) -> dict[str, str]:
    """Return 16 hex digits of SHA-256 for each file."""
    return {name: hashlib.sha256(f.read_bytes()).hexdigest()[:16] for name, f in files.items()}


def repositories(files: dict[str, Path]) -> dict[str, str]:
    """Return the commit of each git repository of these files and of the current folder.

    Repositories of fedalign itself are left out. A `+` marks changes that are not committed.
    """
    folders = {Path.cwd(), *(file.parent for file in files.values())}
    tops = {top for folder in folders if (top := _git(folder, "rev-parse", "--show-toplevel"))}
    tops -= {str(HOME)}
    commits = {top: commit_of(Path(top)) for top in sorted(tops)}
    return {top: commit for top, commit in commits.items() if commit}


def commit_of(folder: Path) -> str | None:
    """Return the commit of a checkout, with `+` if files have changed; None without git."""
    return _git(folder, "describe", "--always", "--dirty=+", "--abbrev=40")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def tops_of(config: Config) -> set[str]:
    """Return the top-level modules of all parts that are not fedalign's own."""
    parts = [v for _, v in config if isinstance(v, Part)]
    for part in parts:
        parts += [value for value in part.options.values() if isinstance(value, Part)]
    found = (reference(part.kind, part.name) or "" for part in parts)
    return {name.partition(":")[0].partition(".")[0] for name in found} - {*OWN, "flwr", ""}


def _files(top: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of a top-level module or package, each with its name."""
    spec = _spec(top)
    if spec is None:
        return
    for place in spec.submodule_search_locations or ():
        for file in sorted(Path(place).rglob("*.py")):
            yield file.relative_to(Path(place).parent).as_posix(), file
    if not spec.submodule_search_locations and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin).name, Path(spec.origin)


def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None


def _is_users(top: str) -> bool:
    """Return whether a top-level module is neither fedalign's, installed, nor of Python itself."""
    spec = _spec(top)
    if top in OWN or spec is None:
        return False
    places = [*(spec.submodule_search_locations or ()), *filter(None, [spec.origin])]
    paths = [Path(place).resolve() for place in places if Path(place).exists()]
    return bool(paths) and not any(p.is_relative_to(own) for p in paths for own in INSTALLED)


@lru_cache(maxsize=1024)  # runs of a sweep have the same files
def _imports(source: bytes) -> frozenset[str]:
    """Return the top-level modules that a file imports anywhere."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return frozenset(name.partition(".")[0] for name in names)
