"""A Flower app on disk: where its manifest is, what it is made of, and what it may be told."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedalign.errors import InputError

if TYPE_CHECKING:  # importing Flower takes half a second; looking for an app should not
    from flwr.app import UserConfigValue
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

MANIFEST = "pyproject.toml"
_PAIR = re.compile(
    r"""(?P<key>[\w.-]+) = (?P<value>'[^']*' | "(?:[^"\\]|\\.)*" | [^\s#'"]+) (?=\s|$)""",
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True)
class FlowerApp:
    """A Flower app: the folder that belongs on ``sys.path``, its two halves, its defaults.

    Attributes:
        root: The folder from which ``server`` and ``client`` can be imported.
        server: The ServerApp, as ``"module:attribute"``.
        client: The ClientApp, as ``"module:attribute"``.
        defaults: ``[tool.flwr.app.config]``, nested tables flattened to dotted keys.
    """

    root: Path
    server: str
    client: str
    defaults: dict[str, UserConfigValue]

    def put_on_path(self) -> None:
        """Return nothing; ``root`` is now the first place Python looks for modules."""
        root = str(self.root)
        sys.path[:] = [root, *(entry for entry in sys.path if entry != root)]

    def load(self) -> tuple[ServerApp, ClientApp]:
        """Return the app's two halves, imported from ``root``.

        Raises:
            InputError: If a half cannot be found, comes from elsewhere, or is of another type.
        """
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp

        self.put_on_path()
        server = load_component(self.server, self.root)
        client = load_component(self.client, self.root)
        if not isinstance(server, ServerApp):
            raise InputError(f"{self.server!r} is a {type(server).__name__}, not a ServerApp")
        if not isinstance(client, ClientApp):
            raise InputError(f"{self.client!r} is a {type(client).__name__}, not a ClientApp")
        return server, client


def find_app(name: str) -> FlowerApp:
    """Return the Flower app that ``name`` stands for.

    ``name`` is (a) a directory that holds the app's ``pyproject.toml``, (b) the app's package
    directory, with the manifest beside it, or (c) the app's importable package, with the manifest
    inside the package (as a wheel ships it) or beside it (as an editable install leaves it).
    A directory that holds no app does not hide an importable package of the same name.

    Raises:
        InputError: If no app is there, or its manifest cannot be used.
    """
    for folder in _folders(name):
        if app := _app_in(folder):
            return app
        beside = _app_in(folder.parent)
        if beside and folder.name in _packages(beside.server, beside.client):
            return beside
    raise InputError(
        f"--app: {name!r} is not a Flower app; give a directory whose {MANIFEST} has a "
        "[tool.flwr.app] table, the package directory beside such a file, or the name of an "
        "installed app's package"
    )


def parse_run_config(args: Sequence[str]) -> dict[str, UserConfigValue]:
    """Return the settings in ``args``, keys dotted, a later one replacing an earlier one.

    Args:
        args: Each is a line of ``key=value`` words with TOML values, or the path of a TOML file.

    Raises:
        InputError: If a word is not ``key=value``, a value is not a TOML scalar, or a file cannot
            be read; names the word.
    """
    settings: dict[str, UserConfigValue] = {}
    for arg in args:
        if arg.endswith(".toml") and ("=" not in arg or Path(arg).is_file()):
            settings |= _flatten(_read_toml(Path(arg).expanduser()), f"--run-config: {arg}")
        else:
            for word in _words(arg):
                settings |= _parse_word(word)
    return settings


def load_component(ref: str, root: Path | None = None) -> Any:
    """Return the object that ``ref``, a ``"module:attribute"``, names.

    Args:
        ref: What to import.
        root: Where the module has to come from, if it could also come from elsewhere.

    Raises:
        InputError: If there is no such module or attribute, or another module answered to the
            name. What goes wrong *inside* the module comes out as it is.
    """
    name, _, attribute = ref.partition(":")
    if not (name and attribute):
        raise InputError(f"{ref!r} is not of the form 'module:attribute'")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"{ref!r}: there is no module {error.name!r}") from error
    if root and module.__file__ and not _comes_from(root, name, module.__file__):
        raise InputError(
            f"{ref!r} was imported from {module.__file__}, not from {root}: "
            "an installed or already imported package of the same name hides the app"
        )
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise InputError(f"{ref!r}: module {name!r} has no {attribute!r}") from None


def _folders(name: str) -> Iterator[Path]:
    """Yield the folders ``name`` may mean: the directory, then the importable package."""
    if not name.strip():  # Path("") is the current directory, which nobody named
        return
    path = Path(name).expanduser()
    if path.is_dir():
        yield path.resolve()
    if name.isidentifier() and (spec := find_spec(name)):
        yield from (Path(place).resolve() for place in spec.submodule_search_locations or ())


def _app_in(folder: Path) -> FlowerApp | None:
    """Return the app whose manifest lies in ``folder``, if there is one."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    table = _read_toml(manifest).get("tool", {}).get("flwr", {}).get("app")
    if table is None:
        return None
    parts = table.get("components", {})
    refs = [parts.get(part) for part in ("serverapp", "clientapp")]
    if not all(isinstance(ref, str) and ":" in ref for ref in refs):
        raise InputError(
            f"{manifest}: [tool.flwr.app.components] needs serverapp and clientapp, "
            "each as 'module:attribute'"
        )
    server, client = refs
    # A wheel puts the manifest into the package, and a package must never be on sys.path itself.
    inside = folder.name in _packages(server, client) and not _holds(folder, folder.name)
    return FlowerApp(
        root=folder.parent if inside else folder,
        server=server,
        client=client,
        defaults=_flatten(table.get("config"), f"{manifest}: [tool.flwr.app.config]"),
    )


def _packages(*refs: str) -> set[str]:
    """Return the top-level packages of ``"package.module:attribute"`` references."""
    return {re.split(r"[.:]", ref, maxsplit=1)[0] for ref in refs}


def _holds(folder: Path, package: str) -> bool:
    """Return whether ``import package`` would find something in ``folder``."""
    return (folder / package).is_dir() or (folder / f"{package}.py").is_file()


def _comes_from(root: Path, module: str, file: str) -> bool:
    """Return whether ``file`` is the one that ``root`` has for ``module``, if it has one."""
    stem = root.joinpath(*module.split("."))
    ours = [path for path in (stem / "__init__.py", Path(f"{stem}.py")) if path.is_file()]
    return not ours or any(path.samefile(file) for path in ours)


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise InputError(f"{path}: {error}") from error


def _flatten(table: Mapping[str, Any] | None, place: str) -> dict[str, UserConfigValue]:
    """Return ``table`` with dotted keys, by the rules of Flower's own run config."""
    from flwr.common.config import flatten_dict

    try:
        return flatten_dict(dict(table or {}))
    except ValueError as error:
        raise InputError(f"{place}: {' '.join(str(error).split())}") from error


def _words(line: str) -> Iterator[re.Match[str]]:
    """Yield the ``key=value`` words of ``line``."""
    position = 0
    while rest := line[position:].lstrip():
        position = len(line) - len(rest)
        if not (word := _PAIR.match(line, position)):
            raise InputError(f"--run-config: {rest.split()[0]!r} is not key=value")
        yield word
        position = word.end()


def _parse_word(word: re.Match[str]) -> dict[str, UserConfigValue]:
    """Return the one setting of a word."""
    place = f"--run-config: {word[0]!r}"
    try:
        table = tomllib.loads(f"{word['key']} = {word['value']}")
    except tomllib.TOMLDecodeError as error:
        hint = f'a text needs quotes: {word["key"]}="{word["value"]}"'
        raise InputError(f"{place} is not TOML ({error}); {hint}") from error
    return _flatten(table, place)
