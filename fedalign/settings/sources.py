"""Settings as they are written: in YAML files, and in words on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from fedalign.errors import InputError, nearest, shortened
from fedalign.settings.registry import HOME
from fedalign.settings.yaml12 import UnusableYAMLError, parse

INLINE = "the configuration given as text"
_parse = lru_cache(maxsize=16)(parse)  # every run of a study reads the same base


def find(path: str, *folders: str) -> Path:
    """Return the YAML file that is meant: a path, or the name of one of fedalign's own.

    Args:
        path: with or without its ending.
        folders: where fedalign's own lie, such as `configs/studies`; by default `configs`.
    """
    homes, folders = (HOME, HOME / "fedalign"), folders or ("configs",)  # checkout, or installed
    for place in (Path(), *homes, *(home / folder for folder in folders for home in homes)):
        for candidate in (place / path, place / f"{path}.yaml"):
            with suppress(OSError):  # such as of a name that is too long
                if candidate.is_file():
                    return candidate
    names = own(*folders)
    if f"algorithms/{path}" in names:
        raise InputError(f"{path}: no such file; did you mean 'algorithms/{path}'?")
    short = [name for name in names if "/" not in name]
    places = " or ".join(folders)
    raise InputError(f"{path}: no such file, nor one in {places}{nearest(path, short)}")


def own(*folders: str) -> dict[str, Path]:
    """Return fedalign's own files in folders of `find`, by the name that `find` knows."""
    homes = [home / folder for folder in folders for home in (HOME, HOME / "fedalign")]
    files = [(f, h) for h in homes for f in (*h.glob("*.yaml"), *h.glob("algorithms/*.yaml"))]
    names = {file.relative_to(home).with_suffix("").as_posix(): file for file, home in files}
    return {name: names[name] for name in sorted(names, key=lambda name: ("/" in name, name))}


def is_inline(source: str) -> bool:
    """Return whether this is the text of a configuration, and not where one is."""
    return source.lstrip().startswith("{") or "\n" in source.strip()


def read_tree(source: str) -> dict[str, Any]:
    """Return the settings in a file of `find`, or in a text of YAML or JSON, as nested tables."""
    if not is_inline(source):
        return read_yaml(find(source), source)
    try:
        tree = json.loads(source, object_pairs_hook=_once)  # with its numbers and characters
    except InputError:
        raise
    except (ValueError, RecursionError):
        return _parsed(source, INLINE)
    return _table(tree, INLINE)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the table of a JSON object; `InputError` if a key is given twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{INLINE}: {twice!r} is given twice")
    return table


def read_yaml(file: Path, called: str | None = None) -> dict[str, Any]:
    """Return the table in a YAML file; errors call the file what the user called it."""
    called = called or str(file)
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{called}: byte {error.start + 1} is not UTF-8") from None
    except OSError as error:
        raise InputError(f"{called}: cannot be read: {error.strerror}") from None
    return _parsed(text, called)


def _parsed(text: str, called: str) -> dict[str, Any]:
    try:
        tree = deepcopy(_parse(text))
    except UnusableYAMLError as error:
        raise InputError(f"{called}: is not YAML for settings: {shortened(str(error))}") from None
    return {} if tree is None else _table(tree, called)


def _table(tree: Any, called: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise InputError(f"{called}: holds {type(tree).__name__}, not a table of settings")
    return tree


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return dotted keys and values from words such as `partition.alpha=0.1`, read as YAML."""
    return {key: _value(key, text) for key, text in map(_split, words)}


def parse_choices(words: Iterable[str]) -> dict[str, list[Any]]:
    """Return dotted keys and the values to choose from, from words such as `seed=0,1,2`.

    Commas inside brackets belong to a value: `keep_models=[5,10]` is one.
    """
    return {key: [_value(key, t) for t in _parts(text)] for key, text in map(_split, words)}


def _parts(text: str) -> list[str]:
    """Return what stands between the commas of a text, except those inside brackets."""
    found, depth = [""], 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += sign
    return found


def combinations(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every way to choose one value for each key; the last key changes fastest."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def _split(word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise InputError(f"command line: {word!r} is not key=value, such as partition.alpha=0.1")
    return key, text


def _value(key: str, text: str) -> Any:
    if not text:  # `strategy.include=` means the empty text; `null` is spelt out
        return ""
    try:
        return parse(text)
    except UnusableYAMLError as error:
        reason = shortened(f"{text!r} is not a YAML value: {error}")
        raise InputError(f"command line: {key}: {reason}") from None


def split_overrides(text: str) -> list[str]:
    """Return the words `key=value` of a text; a value may hold spaces."""
    return re.split(r"\s+(?=[\w.-]+=)", text.strip()) if text.strip() else []
