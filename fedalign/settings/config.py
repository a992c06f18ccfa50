"""A run's configuration: its settings, and the ways to read one.

It travels through Flower's run config as one text, so server and clients read the same
configuration on any engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from flwr.app import UserConfigValue
from pydantic import Field, model_validator

from fedalign.errors import BadValueError, InputError
from fedalign.settings.builtin import KINDS
from fedalign.settings.coherence import check
from fedalign.settings.digest import digest
from fedalign.settings.fields import PartField, TrackersField, part
from fedalign.settings.layers import holds, validate, with_layers
from fedalign.settings.per_client import PerClient, check_clients, own_part
from fedalign.settings.registry import Part, options
from fedalign.settings.sections import Evaluation, Section, Simulation
from fedalign.settings.sources import (
    INLINE,
    is_inline,
    parse_overrides,
    read_tree,
    split_overrides,
)
from fedalign.settings.stopping import KeptRounds, Patience, StopWhen
from fedalign.settings.tasks import tuned

# What `flwr run --run-config` accepts, see pyproject.toml; an empty text there means "not given".
LISTED = {
    *("config", "overrides", "rounds", "seed", "num_clients", "clients_per_round"),
    *("alpha", *KINDS),
}


class Config(Section):
    """A run: what is trained, on which data, by which clients, and what is measured."""

    name: str = Field(
        "run",
        pattern=r"^[\w.-]+$",
        description="the run folder is called <name>-<hash of the settings>",
        json_schema_extra={"allowed": "letters, digits, _ . -"},
    )
    seed: int = Field(0, ge=0, description="seed of every random draw in the run")
    rounds: int = Field(
        10,
        gt=0,
        description="number of rounds; in each, clients train and the server combines their models",
    )
    num_clients: int = Field(
        10, gt=0, description="number of clients in the federation; the data are divided among them"
    )
    clients_per_round: int | None = Field(
        None,
        gt=0,
        description="number of clients that are sampled for each round; null: all of them",
    )
    init: Literal["shared", "own"] = Field(
        "shared",
        description="shared: all clients start round 1 from the same weights; own: each client "
        "starts from its own random weights, except where a mask fixes them",
    )
    timeout: float = Field(
        3600.0,
        gt=0,
        le=1e9,
        description="seconds that a simulated client may take, once a worker has it; in a "
        "deployed federation, seconds to wait for the nodes",
    )
    min_available_nodes: int | None = Field(
        None,
        gt=0,
        description="in a deployed federation, nodes that must be connected before a round "
        "starts; null: all of them",
    )
    min_replies: int = Field(
        1, gt=0, description="number of valid replies that a round needs; with fewer, the run stops"
    )
    min_participation: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the clients that were sampled at least once whose reply must have "
        "been used at least once; below it, a finished run ends with exit code 3",
    )
    checkpoint_every: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="rounds between checkpoints; 0: none; auto: so often that writing them takes "
        "about 2 % of the time at most, and when the run is stopped",
    )
    keep_models: KeptRounds = Field(
        default_factory=list,
        description="rounds whose client models are kept, such as [5, 10, last]; or all",
    )
    keep_best: str | None = Field(
        None, description="a metric: the model of its best round is kept as best.safetensors"
    )
    stop_when: StopWhen | None = Field(
        None,
        description="end the run after a round in which a metric is so far, such as "
        "test_accuracy >= 0.9",
    )
    patience: Patience | None = Field(
        None, description="end the run when a metric has not improved for some rounds"
    )
    out: str = Field("runs", description="folder in which run folders are created")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where models are trained; auto: on a GPU if there is one, else on the CPU; "
        "cuda:1: on the second GPU",
        json_schema_extra={"allowed": "auto | cpu | cuda | cuda:N"},
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="of the forward and backward pass; bf16: bfloat16 (autocast), while updates "
        "stay float32",
    )
    tf32: bool = Field(
        True,
        description="on a GPU, float32 matrix products and convolutions round their inputs to 10 "
        "bits of mantissa, which is faster; changes nothing on a CPU",
    )
    deterministic: bool = Field(
        True,
        description="on a GPU, the same seed gives the same bits in every run; false may be "
        "faster; changes nothing on a CPU, where it is always so",
    )
    wire: Literal["float32", "float16"] = Field(
        "float32",
        description="precision in which models travel; float16 halves the bytes: replies are then "
        "the differences from the model that was sent",
    )
    max_update_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="largest L2 norm of a client's update, over all parameters; clients with a "
        "larger one are left out of the round; null: 100 times the norm of the model that was "
        "sent",
    )
    data: PartField = part("data", "the data set")
    partition: PartField = part("partition", "how the examples are divided among the clients")
    model: PartField = part("model", "the network that is trained")
    client: PartField = part("client", "how a client trains")
    per_client: PerClient = Field(
        None,
        description="options of `client` in which clients differ: drawn for each client, such as "
        "{lr: {log_uniform: [1e-4, 1e-2]}}, or listed",
        json_schema_extra={"allowed": "a table by option, or a list of rows"},
    )
    strategy: PartField = part("strategy", "how the server combines the clients' models")
    evaluation: Evaluation = Evaluation()
    simulation: Simulation = Simulation()
    trackers: TrackersField = Field(
        default=[],
        description="where the run is shown beside its folder",
        json_schema_extra={"allowed": "any of the trackers, or package.module:Name"},
    )

    @model_validator(mode="after")
    def _parts_go_together(self) -> Config:
        check(self.strategy, self.client)
        if self.per_client:
            check_clients(self.strategy, self.client, self.per_client, self.num_clients, self.seed)
        if self.evaluation.tasks.tunes:
            tuned(self.evaluation.tasks, self.client)
        if self.sampled > self.num_clients:
            problem = f"{self.sampled} is not allowed: there are {self.num_clients} clients"
            raise BadValueError("clients_per_round", problem)
        if self.min_replies > self.sampled:
            problem = f"{self.min_replies} is not allowed: {self.sampled} clients are in a round"
            raise BadValueError("min_replies", problem)
        late = [n for n in self.keep_models if isinstance(n, int) and n > self.rounds]
        if late:
            problem = f"{late[0]} is not allowed: the run has {self.rounds} rounds"
            raise BadValueError("keep_models", problem)
        return self

    def client_of(self, number: int) -> Part:
        """Return the algorithm of one client, with the options of its own."""
        return own_part(self.client, self.per_client, number, self.seed)

    @property
    def partition_seed(self) -> int:
        """The seed of who has which examples: the partition's own, or the run's."""
        if "seed" in options("partitioners", self.partition.name):  # an option of the partitioner
            return self.seed
        own: int | None = self.partition.options.get("seed")
        return self.seed if own is None else own

    @property
    def sampled(self) -> int:
        """The number of clients in each round, if all of them are there."""
        return self.clients_per_round or self.num_clients

    def run_config(self) -> dict[str, UserConfigValue]:
        """Return the configuration as Flower carries it: one text, see `from_run_config`."""
        return {"config": json.dumps(self.model_dump())}

    @property
    def folder(self) -> Path:
        """The run folder: `<out>/<name>-<digest of the settings>`."""
        return Path(self.out).expanduser() / f"{self.name}-{self.digest()}"

    def digest(self) -> str:
        """Return 8 hex digits that name these settings; where and how it is run do not count."""
        return digest(self.model_dump())


def read(source: str | None, *layers: Mapping[str, Any], said: str = "command line") -> Config:
    """Return the configuration of a source with layers of dotted settings over it.

    Args:
        source: a YAML file, the name of one of fedalign's own, or the text of a configuration;
            None: the defaults.
        layers: values by dotted key; later layers go over earlier ones.
        said: where the layers stand.

    Raises:
        InputError: names the file or where the layers stand, the dotted place, the value and
            what is allowed there.
    """
    try:
        return resolve(source, *layers)
    except BadValueError as error:
        called = INLINE if source and is_inline(source) else source
        given = any(holds(layer, error.place) for layer in layers)
        at_fault = called if called and not given else said
        raise InputError(f"{at_fault}: {error}") from None


def resolve(source: str | None, *layers: Mapping[str, Any]) -> Config:
    """Return the configuration of a source with layers of dotted settings over it.

    Raises:
        BadValueError: see `layers.with_layers` and `layers.validate`.
        InputError: the source cannot be read, or describes several runs.
    """
    tree = read_tree(source) if source else {}
    if "sweep" in tree:
        raise InputError(
            f"{INLINE if source and is_inline(source) else source}: its block `sweep` describes "
            "several runs: `fedalign sweep FILE` makes them, and lists them with --dry-run"
        )
    return validate(Config, with_layers(tree, layers))


def from_run_config(run_config: Mapping[str, UserConfigValue]) -> Config:
    """Return the configuration that a Flower run config carries.

    `config` is a file, a name or the text of a configuration. The other keys are dotted settings
    over it; `alpha` is short for `partition.alpha`, and `overrides` holds more settings as
    `key=value key=value`.

    Raises:
        InputError: see `read`.
    """
    given = {key: v for key, v in run_config.items() if v != "" or key not in LISTED}
    source, more = given.pop("config", None), str(given.pop("overrides", ""))
    if {"alpha", "partition.alpha"} <= given.keys():
        raise InputError("command line: alpha: is short for partition.alpha, and both are given")
    if "alpha" in given:
        given["partition.alpha"] = given.pop("alpha")
    return read(
        None if source is None else str(source), given | parse_overrides(split_overrides(more))
    )
