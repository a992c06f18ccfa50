"""All that a run may be told: one YAML file, dotted overrides, and their way through Flower.

Every value is a scalar, so a whole configuration travels in Flower's run config, key by dotted key,
and server and clients read the same one on any engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from flwr.app import UserConfigValue
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from fedalign.errors import InputError
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import (
    BadValueError,
    Part,
    explain,
    load,
    nearest,
    options,
    parse,
)
from fedalign.settings.sections import Evaluation, Section, Simulation
from fedalign.settings.sources import find, parse_overrides, read_yaml

M = TypeVar("M", bound=BaseModel)

KINDS = {
    "data": "datasets",
    "partition": "partitioners",
    "model": "models",
    "client": "clients",
    "strategy": "strategies",
}
DEFAULT_PARTS = {
    "data": "digits",
    "partition": "dirichlet",
    "model": "mlp",
    "client": "local",
    "strategy": "fedavg",
}


def _part(section: Any, info: ValidationInfo) -> Part:
    place = str(info.field_name)
    if isinstance(section, Part):
        return section
    if not isinstance(section, dict | str):
        raise BadValueError(place, f"{section!r} is not a name, or a table with a name")
    table = {"name": section} if isinstance(section, str) else section
    return parse(KINDS[place], {"name": DEFAULT_PARTS[place]} | table, place)


PartField = Annotated[Part, BeforeValidator(_part), PlainSerializer(Part.dump)]


def _default(place: str) -> Any:
    return Field(
        default_factory=lambda: parse(KINDS[place], {"name": DEFAULT_PARTS[place]}, place),
        description=f"one of: {', '.join(BUILTIN[KINDS[place]])}, or package.module:Name",
    )


class Config(Section):
    """A run: what is trained, on what, by whom, and what is measured."""

    name: str = Field("run", pattern=r"^[\w.-]+$", description="first part of the folder's name")
    seed: int = Field(0, ge=0, description="decides every random draw of the run")
    rounds: int = Field(10, gt=0, description="rounds of train, fuse, measure")
    num_clients: int = Field(10, gt=0, description="virtual clients, one partition each")
    clients_per_round: int | None = Field(
        None, gt=0, description="clients drawn for each round; null: all of them"
    )
    init: Literal["shared", "own"] = Field(
        "shared",
        description="own: a client starts from first weights of its own in round 1, and shares "
        "with the others only those that are fixed",
    )
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for the replies of a round")
    min_available_nodes: int | None = Field(
        None,
        gt=0,
        description="nodes that must be there before a round begins; null: as many as there are",
    )
    min_replies: int = Field(
        1, gt=0, description="usable replies that a round must have; with fewer the run ends"
    )
    checkpoint_every: int = Field(10, ge=0, description="rounds between checkpoints; 0: none")
    out: str = Field("runs", description="folder that holds the run folders")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto: a GPU if there is one"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: forward and backward under autocast, updates in float32"
    )
    wire: Literal["float32", "float16"] = Field(
        "float32", description="float16: models travel in half precision, replies as changes"
    )
    max_update_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="clients whose model moved further from what they were sent than this L2 norm "
        "over all parameters are left out; null: no limit",
    )
    data: PartField = _default("data")
    partition: PartField = _default("partition")
    model: PartField = _default("model")
    client: PartField = _default("client")
    strategy: PartField = _default("strategy")
    evaluation: Evaluation = Evaluation()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _one_mask_plan(self) -> Config:
        """Refuse a masked strategy around another: a client would follow some of both plans."""
        masked = [p.name for p in _chain(self.strategy) if hasattr(load(p.kind, p.name), "plan")]
        if len(masked) > 1:
            told = f"{masked[0]!r} and {masked[1]!r} both plan masks, and clients can follow one"
            raise BadValueError("strategy", told)
        return self

    @model_validator(mode="after")
    def _halves_belong_together(self) -> Config:
        """Refuse one half of an algorithm without the other, and halves that disagree."""
        wanted = {needed for part in _chain(self.strategy) if (needed := _other_half(part))}
        needed = _other_half(self.client)
        for name in wanted - {self.client.name}:
            if not _is_a("clients", self.client.name, name):
                told = f"{self.client.name!r} is not the client of the strategy: it needs {name!r}"
                raise BadValueError("client.name", told)
        if needed and not any(_is_a("strategies", p.name, needed) for p in _chain(self.strategy)):
            told = f"{self.strategy.name!r} is not the strategy of client {self.client.name!r}"
            raise BadValueError("strategy.name", f"{told}: it needs {needed!r}")
        own = self.client.options
        for half in filter(_other_half, _chain(self.strategy)):
            for key in half.options.keys() & own.keys():
                if half.options[key] != own[key]:
                    told = (
                        f"{own[key]!r} is not the {half.options[key]!r} of strategy {half.name!r}"
                    )
                    raise BadValueError(f"client.{key}", told)
        return self

    @model_validator(mode="after")
    def _nothing_keeps_an_old_order(self) -> Config:
        """Refuse to move neurons while something else counts on their order."""
        outer, *inner = _chain(self.strategy)
        for part in inner:
            if _says(part, "moves_neurons"):
                told = f"{outer.name!r} would see neurons before {part.name!r} moves them, which "
                raise BadValueError("strategy.name", f"{told}must be the outermost strategy")
        if _says(outer, "moves_neurons") and _says(self.client, "stateful"):
            told = f"{self.client.name!r} keeps weights from round to round in an order of neurons "
            raise BadValueError("client.name", f"{told}that {outer.name!r} changes; local does not")
        return self

    def run_config(self) -> dict[str, UserConfigValue]:
        """Return the configuration as Flower carries it: dotted keys, scalars, no nulls."""
        return {
            key: value for key, value in flatten(self.model_dump()).items() if value is not None
        }

    def digest(self) -> str:
        """Return 8 hex digits that name these settings; where and how it is run do not count."""
        aside = (
            *("name", "out", "checkpoint_every", "simulation"),
            *(
                "timeout",
                "min_available_nodes",
                "min_replies",
            ),  # a run may go on with more patience
        )
        told = self.model_dump(
            exclude={"evaluation": {"threads", "overlap"}} | dict.fromkeys(aside, True)
        )
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _chain(part: Part) -> list[Part]:
    """Return a strategy and those that it wraps."""
    inner = [o for o in part.options.values() if isinstance(o, Part) and o.kind == part.kind]
    return [part, *(deeper for own in inner for deeper in _chain(own))]


def _other_half(part: Part) -> str | None:
    """Return the name of the part that this one makes no sense without."""
    found: str | None = _says(part, "other_half")
    return found


def _says(part: Part, key: str) -> Any:
    """Return what a part's class says of itself under this name."""
    return getattr(load(part.kind, part.name), key, None)


def _is_a(kind: str, name: str, other: str) -> bool:
    own, wanted = load(kind, name), load(kind, other)
    return own is wanted or (isinstance(own, type) and issubclass(own, wanted))  # type: ignore[arg-type]


def read(path: str | None, overrides: Mapping[str, Any]) -> Config:
    """Return the configuration in a YAML file (`None`: the defaults) with dotted overrides.

    Raises `InputError` naming the file or the command line, the dotted place, the value and what
    is allowed there.
    """
    try:
        return resolve(path, overrides)
    except BadValueError as error:
        at_fault = path if path and not holds(overrides, error.place) else "command line"
        raise InputError(f"{at_fault}: {error}") from None


def resolve(path: str | None, *layers: Mapping[str, Any]) -> Config:
    """Return the configuration in a YAML file with layers of dotted settings on top.

    A layer that names another part drops the options of the part before which the new one does not
    have; the names in a layer come first, whatever its order. Raises `BadValueError`.
    """
    tree = read_yaml(find(path), path) if path else {}
    for place in KINDS:
        if isinstance(tree.get(place), str):
            tree[place] = {"name": tree[place]}
    for layer in layers:
        named = {f"{key}.name" if key in KINDS else key: value for key, value in layer.items()}
        for key in sorted(named, key=lambda key: (not key.endswith(".name"), key.count("."))):
            _override(tree, key, named[key])
    return validate(Config, tree)


def holds(layer: Mapping[str, Any], place: str) -> bool:
    """Return whether what stands at a dotted place comes from this layer of settings."""
    given = any(f"{key}.".startswith(f"{place}.") for key in layer)
    return given or place.removesuffix(".name") in layer


def from_run_config(run_config: Mapping[str, UserConfigValue]) -> Config:
    """Return the configuration that a Flower run config carries; an empty string means unset.

    The key `config` names a YAML file, which the other keys override; `overrides` holds more of
    them as `key=value key=value`, for options of parts that Flower has not heard of.
    """
    given = {key: value for key, value in run_config.items() if value != ""}
    path, more = given.pop("config", None), str(given.pop("overrides", ""))
    return read(None if path is None else str(path), given | parse_overrides(more.split()))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _override(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, leaf = key.split(".")
    place = tree
    for table in tables:
        inner = place.setdefault(table, {})
        if isinstance(inner, str) and tables[0] in KINDS:
            inner = place[table] = {"name": inner}
        if not isinstance(inner, dict):
            raise BadValueError(key, f"{table!r} holds the value {inner!r}, not a table")
        place = inner
    if leaf == "name" and tables and tables[0] in KINDS and place.get("name") != value:
        kept = _options_or_none(KINDS[tables[0]], str(value))
        for old in [old for old in place if kept is not None and old not in kept]:
            del place[old]
    place[leaf] = value


def _options_or_none(kind: str, name: str) -> Mapping[str, Any] | None:
    try:
        return options(kind, name)
    except InputError:  # to be refused later, with its place
        return None


def validate(model: type[M], tree: Mapping[str, Any]) -> M:
    """Return the tree as a model; `BadValueError` with the place of the first thing wrong.

    A key that nobody knows is told before what is missing: it may be meant for that.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        place = unknown[0] if unknown else error.errors()[0]["loc"]
        dotted = ".".join(map(str, place))
        if not unknown:
            raise BadValueError(dotted, explain(error)) from None
        fields = model.model_fields
        for step in place[:-1]:
            fields = fields[str(step)].annotation.model_fields  # type: ignore[union-attr]
        told = f"no such setting{nearest(str(place[-1]), fields)}"
        raise BadValueError(dotted, told) from None
