"""All that a run may be told: one YAML file, dotted overrides, and their way through Flower.

Every value is a scalar, so a whole configuration travels in Flower's run config, key by dotted key,
and server and clients read the same one on any engine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fedalign.errors import InputError
from fedalign.registry import (
    BUILTIN,
    HOME,
    BadValueError,
    Part,
    explain,
    load,
    nearest,
    options,
    parse,
)

Scalar = bool | int | float | str

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


class Section(BaseModel):
    """Settings that refuse a key they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Evaluation(Section):
    """What the server measures after each round."""

    pairs: int = Field(3, ge=0, description="pairs of client models to interpolate between")
    alphas: int = Field(11, ge=0, description="points on each path, ends included; 0: no paths")
    examples: int | None = Field(
        1000, gt=0, description="test examples a path is measured on; null: all of them"
    )
    bn_examples: int = Field(
        1000, gt=1, description="training examples for re-estimating BatchNorm statistics"
    )
    client_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the clients that evaluate the new model themselves"
    )
    client_every: int = Field(
        1, gt=0, description="rounds from one evaluation by clients to the next; the last has one"
    )
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of its examples that a client only tests on; 0: none"
    )
    finetune_epochs: int = Field(
        0, ge=0, description="epochs of local fine-tuning before clients evaluate a second time"
    )
    batch_size: int = Field(200, gt=0, description="examples in one forward pass")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        gt=0,
        description="threads that share the server's measuring; default: one a core",
    )

    @field_validator("alphas")
    @classmethod
    def _ends_and_a_middle(cls, alphas: int) -> int:
        if alphas in (1, 2):
            raise ValueError("a path has 3 points or more; 0 measures none")
        return alphas

    @field_validator("finetune_epochs")
    @classmethod
    def _only_to_evaluate(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs and not info.data.get("client_fraction", 1):
            raise ValueError("clients fine-tune to evaluate; give evaluation.client_fraction too")
        return epochs


class Simulation(Section):
    """How virtual clients are run; `cohort: 1` and `fuse: false` give the same bits everywhere.

    Otherwise sums are taken in another order, which changes a result in its last bits.
    """

    backend: Literal["inline", "ray", "flower"] = Field(
        "inline",
        description="inline: in this process; ray: Ray workers; flower: Flower's own Ray engine",
    )
    client_cpus: float = Field(1, gt=0, description="CPUs that Ray reserves for a client")
    client_gpus: float = Field(0, ge=0, description="GPUs, or a fraction, that Ray reserves")
    address: str | None = Field(None, description="a running Ray cluster's; null: this machine")
    cohort: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="clients trained as one stacked block; auto: what is fastest here"
    )
    fuse: bool = Field(
        True, description="sum client models where they are trained, if the strategy averages them"
    )

    def backend_config(self) -> dict[str, Any]:
        """Return these settings as the engine takes them."""
        if self.backend == "inline":
            return {}
        resources = {"num_cpus": self.client_cpus, "num_gpus": self.client_gpus}
        config: dict[str, Any] = {"client_resources": resources}
        return config | ({"init_args": {"address": self.address}} if self.address else {})


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
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for the replies of a round")
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

    def run_config(self) -> dict[str, Scalar]:
        """Return the configuration as Flower carries it: dotted keys, scalars, no nulls."""
        return {
            key: value for key, value in flatten(self.model_dump()).items() if value is not None
        }

    def digest(self) -> str:
        """Return 8 hex digits that name these settings; where and how it is run do not count."""
        told = self.model_dump(
            exclude={"name": True, "out": True, "simulation": True, "evaluation": {"threads"}}
        )
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _chain(part: Part) -> list[Part]:
    """Return a strategy and those that it wraps."""
    inner = [o for o in part.options.values() if isinstance(o, Part) and o.kind == part.kind]
    return [part, *(deeper for own in inner for deeper in _chain(own))]


def _other_half(part: Part) -> str | None:
    """Return the name of the part that this one makes no sense without."""
    found: str | None = getattr(load(part.kind, part.name), "other_half", None)
    return found


def _is_a(kind: str, name: str, other: str) -> bool:
    own, wanted = load(kind, name), load(kind, other)
    return own is wanted or (isinstance(own, type) and issubclass(own, wanted))  # type: ignore[arg-type]


def read(path: str | None, overrides: Mapping[str, Any]) -> Config:
    """Return the configuration in a YAML file (`None`: the defaults) with dotted overrides.

    An override that names another part drops the options of the file's part which the new one
    does not have. Raises `InputError` naming the file or the command line, the dotted place, the
    value and what is allowed there.
    """
    tree = _read_yaml(path) if path else {}
    for place in KINDS:
        if isinstance(tree.get(place), str):
            tree[place] = {"name": tree[place]}
    try:
        for key, value in overrides.items():
            _override(tree, f"{key}.name" if key in KINDS else key, value)
        return _validate(tree)
    except BadValueError as error:
        given = any(f"{key}.".startswith(f"{error.place}.") for key in overrides)
        given = given or error.place.removesuffix(".name") in overrides
        raise InputError(f"{'command line' if given or not path else path}: {error}") from None


def from_run_config(run_config: Mapping[str, Scalar]) -> Config:
    """Return the configuration that a Flower run config carries; an empty string means unset.

    The key `config` names a YAML file, which the other keys override; `overrides` holds more of
    them as `key=value key=value`, for options of parts that Flower has not heard of.
    """
    given = {key: value for key, value in run_config.items() if value != ""}
    path, more = given.pop("config", None), str(given.pop("overrides", ""))
    return read(None if path is None else str(path), given | parse_overrides(more.split()))


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return dotted keys and values from words such as `partition.alpha=0.1`, read as YAML."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(
                f"command line: {word!r} is not key=value, such as partition.alpha=0.1"
            )
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"command line: {key}: {value!r} is not a YAML value") from None
    return found


def find(path: str) -> Path:
    """Return the YAML file that is meant: a path, or the name of one of fedalign's own configs."""
    folders = (Path(), HOME, HOME / "configs", HOME / "fedalign", HOME / "fedalign" / "configs")
    for folder in folders:
        for candidate in (folder / path, folder / f"{path}.yaml"):
            if candidate.is_file():
                return candidate
    own = sorted(file.stem for folder in folders[2::2] for file in folder.glob("*.yaml"))
    raise InputError(f"{path}: no such configuration file{nearest(path, own)}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(find(path).read_text("utf-8"))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise InputError(f"{path}:{line} is not YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds {type(tree).__name__}, not a table of settings")
    return tree


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


def _validate(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        *above, leaf = (str(step) for step in error.errors()[0]["loc"])
        if error.errors()[0]["type"] == "extra_forbidden":
            fields = Config.model_fields
            for step in above:
                fields = fields[step].annotation.model_fields  # type: ignore[union-attr]
            raise BadValueError(
                ".".join([*above, leaf]), f"no such setting{nearest(leaf, fields)}"
            ) from None
        raise BadValueError(".".join([*above, leaf]), explain(error)) from None
