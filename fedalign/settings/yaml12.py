"""YAML 1.2 as settings are written in it, and no more than that.

`seed: 010` is ten, `1e-3` a number, `yes` and `2024-01-01` are texts. What could blow up, or mean
two things, is refused: tags, keys given twice, aliases that grow, deep nesting.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 30
MAX_VALUES = 100_000  # with aliases written out


MERGE = "tag:yaml.org,2002:merge"


class UnusableYAMLError(ValueError):
    """A text that is not YAML, or not YAML for settings; says where and why."""


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        UnusableYAMLError: it is not YAML, or holds what settings cannot.
    """
    if len(text) > MAX_CHARACTERS:
        raise UnusableYAMLError(f"holds {len(text)} characters, more than {MAX_CHARACTERS}")
    try:
        _check(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UnusableYAMLError(f"{where}{reason}") from None
    except (ValueError, OverflowError) as error:  # of a number
        raise UnusableYAMLError(str(error)) from None


def dump(tree: Any) -> str:
    """Return the text of a value, which `parse` reads as that value."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def _check(text: str) -> None:
    """Raise for tags, and for what is too deep or too large once its aliases are written out."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # each with its anchor, and its first value
    count = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            _refuse(event, f"tags such as {tag} are not allowed")
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                _refuse(event, f"*{anchor} stands for nothing before it")
            count += sizes[str(anchor)]
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes |= {anchor: 1} if anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, first = open_nodes.pop()
            sizes |= {anchor: count - first} if anchor else {}
        if len(open_nodes) > MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            _refuse(event, f"holds more than {MAX_VALUES} values")


def _refuse(place: yaml.Event | yaml.Node, reason: str) -> NoReturn:
    line = place.start_mark.line + 1 if place.start_mark else 1
    raise UnusableYAMLError(f"line {line}: {reason}")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, which refuses keys given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(key_node, f"the key {key!r} is not a text")
            if key in seen:
                _refuse(key_node, f"{key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which puts quotes around what would be a number in YAML 1.2."""


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0x": 16, "0o": 8}.get(text.lstrip("+-")[:2], 10)
    return int(text, base)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)).replace(".inf", "inf").replace(".nan", "nan"))


_RULES = {  # YAML 1.2, section 10.3.2, in lower case; in the order in which they are tried
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
    "merge": ("<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
_usual = yaml.SafeDumper.yaml_implicit_resolvers
_Dumper.yaml_implicit_resolvers = {first: list(rules) for first, rules in _usual.items()}
for _name, (_pattern, _first) in _RULES.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    for _own in (_Loader, _Dumper):
        _own.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
