"""Find a Flower app on disk, read its manifest, import its halves, and parse its run config."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedalign.errors import InputError

if TYPE_CHECKING:  # importing Flower takes half a second; finding an app should not
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
    """A Flower app.

    Attributes:
        root: the folder from which `server` and `client` are imported.
        server: the ServerApp, as `"module:attribute"`.
        client: the ClientApp, as `"module:attribute"`.
        defaults: `[tool.flwr.app.config]`, nested tables flattened to dotted keys.
        num_supernodes: `options.num-supernodes` of the default federation in
            `[tool.flwr.federations]`; None if it has none.
        engine: `options.backend` of that federation, such as `client-resources`.
    """

    root: Path
    server: str
    client: str
    defaults: dict[str, UserConfigValue]
    num_supernodes: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)

    def put_on_path(self) -> None:
        """Make `root` the first place where Python looks for modules."""
        root = str(self.root)
        sys.path[:] = [root, *(entry for entry in sys.path if entry != root)]

    def load(self) -> tuple[ServerApp, ClientApp]:
        """Return the ServerApp and the ClientApp, imported from `root`.

        Raises:
            InputError: one of them cannot be found, comes from elsewhere, or has another type.
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
    """Return the Flower app with this name.

    The name is one of

    - a folder that holds the app's `pyproject.toml`,
    - the app's package folder, with the manifest beside it,
    - the app's importable package, with the manifest inside (as in a wheel) or beside it (as in an
      editable install).

    A folder without an app does not hide an importable package of the same name.

    Raises:
        InputError: there is no such app, or its manifest cannot be used.
    """
    for folder in _folders(name):
        if app := _app_in(folder):
            return app
        beside = _app_in(folder.parent)
        if beside and folder.name in _packages(beside.server, beside.client):
            return beside
    raise InputError(
        f"--app: {name!r} is not a Flower app; give a folder whose {MANIFEST} has a "
        "[tool.flwr.app] table, the package folder beside such a file, or the name of an "
        "installed app's package"
    )


def parse_run_config(args: Sequence[str]) -> dict[str, UserConfigValue]:
    """Return settings by dotted key; later ones replace earlier ones.

    Args:
        args: each is a line of `key=value` words with TOML values, or the path of a TOML file.

    Raises:
        InputError: a word is not `key=value`, a value is not a TOML scalar, or a file cannot be
            read; names the word.
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
    """Return the object at `"module:attribute"`.

    Args:
        ref: the reference.
        root: if this folder has the module, the import must not find another one of that name.

    Raises:
        InputError: there is no such module or attribute, or the module came from elsewhere.
            Exceptions raised *inside* the module are passed on unchanged.
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
    """Yield the folders that a name can mean: the folder itself, then the importable package."""
    if not name.strip():  # Path("") would be the current folder
        return
    path = Path(name).expanduser()
    if path.is_dir():
        yield path.resolve()
    if name.isidentifier() and (spec := find_spec(name)):
        yield from (Path(place).resolve() for place in spec.submodule_search_locations or ())


def _app_in(folder: Path) -> FlowerApp | None:
    """Return the app whose manifest is in this folder; None if there is none."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    flower = _read_toml(manifest).get("tool", {}).get("flwr", {})
    if (table := flower.get("app")) is None:
        return None
    parts = table.get("components", {})
    refs = [parts.get(part) for part in ("serverapp", "clientapp")]
    if not all(isinstance(ref, str) and ":" in ref for ref in refs):
        raise InputError(
            f"{manifest}: [tool.flwr.app.components] needs serverapp and clientapp, "
            "each as 'module:attribute'"
        )
    server, client = refs
    # A wheel has the manifest inside the package, and a package itself must not be on sys.path.
    inside = folder.name in _packages(server, client) and not _holds(folder, folder.name)
    return FlowerApp(
        root=folder.parent if inside else folder,
        server=server,
        client=client,
        defaults=_flatten(table.get("config"), f"{manifest}: [tool.flwr.app.config]"),
        **_federation_in(flower.get("federations", {}), f"{manifest}: [tool.flwr.federations]"),
    )


def _federation_in(table: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return what the default federation says of the number of nodes and of the engine."""
    named = {name: value for name, value in table.items() if isinstance(value, dict)}
    name = table.get("default", "") if len(named) != 1 else next(iter(named))
    options = named.get(name, {}).get("options", {})
    count, engine = options.get("num-supernodes"), options.get("backend", {})
    if count is not None and type(count) is not int:
        raise InputError(f"{place}: {name}: num-supernodes: {count!r} is not a whole number")
    if not isinstance(engine, dict):
        raise InputError(f"{place}: {name}: backend: {engine!r} is not a table of settings")
    return {"num_supernodes": count, "engine": engine}


def _packages(*refs: str) -> set[str]:
    """Return the top-level packages of `"package.module:attribute"` references."""
    return {re.split(r"[.:]", ref, maxsplit=1)[0] for ref in refs}


def _holds(folder: Path, package: str) -> bool:
    """Return whether `import package` would find something in this folder."""
    return (folder / package).is_dir() or (folder / f"{package}.py").is_file()


def _comes_from(root: Path, module: str, file: str) -> bool:
    """Return whether a module's file is the one in `root`; True if `root` has no such module."""
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
    """Return a table with dotted keys, by the rules of Flower's run config."""
    from flwr.common.config import flatten_dict

    try:
        return flatten_dict(dict(table or {}))
    except ValueError as error:
        raise InputError(f"{place}: {' '.join(str(error).split())}") from error


def _words(line: str) -> Iterator[re.Match[str]]:
    """Yield the `key=value` words of a line."""
    position = 0
    while rest := line[position:].lstrip():
        position = len(line) - len(rest)
        if not (word := _PAIR.match(line, position)):
            raise InputError(f"--run-config: {rest.split()[0]!r} is not key=value")
        yield word
        position = word.end()


def _parse_word(word: re.Match[str]) -> dict[str, UserConfigValue]:
    """Return the setting in a `key=value` word."""
    place = f"--run-config: {word[0]!r}"
    try:
        table = tomllib.loads(f"{word['key']} = {word['value']}")
    except tomllib.TOMLDecodeError as error:
        hint = f'text needs quotes: {word["key"]}="{word["value"]}"'
        raise InputError(f"{place} is not TOML ({error}); {hint}") from error
    return _flatten(table, place)
