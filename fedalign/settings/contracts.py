"""What fedalign expects of a part of each kind, what a part may offer, and what it is given.

A part is a class, or a function that returns an object. Four things make up a contract:

- **required** methods and attributes: `Strategy` (Flower's), `Schedule`, `Partitioner`, `Source`,
  `Model`; `ClientAlgorithm` in `client_contracts`; `Fusion` and `Tracker` in `result_contracts`. A
  part without them is refused when it is loaded.
- **optional** methods and attributes, each a small protocol such as `TransformsImages`. Code that
  depends on one asks by `isinstance`.
- **traits**: class attributes by which a part describes itself, such as `stateful = True`. Code
  reads them through `registry.traits`; what a part does not declare has the default given here.
- **arguments**: constructor parameters that fedalign fills in by name, see `StrategyArguments` and
  `ModelArguments`. They must not have a default, with which they would look like options. All other
  parameters are options, as are all parameters of the other kinds, which are given nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from flwr.app import ArrayRecord
    from torch import Tensor

    from fedalign.data import Dataset, Spec
    from fedalign.federation.federation import Federation
    from fedalign.masks.drawing import Draw
    from fedalign.masks.plan import MaskPlan
    from fedalign.models.symmetry import Group
    from fedalign.network.layout import Layout
    from fedalign.partitioning import Indices


class StrategyArguments(TypedDict):
    """What a strategy, any of Flower's class `Strategy`, is given by name.

    Attributes:
        layout: where each tensor of the model lies in the flat vector of its weights.
        symmetry: which neurons of the model can be exchanged; empty if that is unknown.
        initial: the model that the run starts with.
        seed: the run's seed.
        num_clients: clients in the federation.
        num_sampled_clients: clients drawn for each round.
        federation: the run's network, and the examples that the server has.
    """

    layout: Layout
    symmetry: tuple[Group, ...]
    initial: ArrayRecord
    seed: int
    num_clients: int
    num_sampled_clients: int
    federation: Federation


# fedalign draws each round's clients itself, so a Flower strategy takes all the nodes it is shown.
FLOWER_SAMPLING: dict[str, float] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
# Other parameters of Flower's strategies that keep their defaults.
FLOWER_DEFAULTS = {"weighted_by_key", "arrayrecord_key", "configrecord_key", "accountant"}


@dataclass(frozen=True)
class StrategyTraits:
    """What a strategy declares about itself.

    Attributes:
        other_half: the name of the client algorithm that it makes no sense without.
        moves_neurons: its model has neurons in another order than the clients' models had.
        reply_metrics: the metrics that every reply must have, each with the least and the largest
            value that the strategy can work with. A reply that has not is left out.
        reply_arrays: the names of the vectors `(P,)` that every reply must have beside the model
            (`Trained.sends`). A reply with others is left out.
        same_for_all: options of the client algorithm in which clients must not differ, where
            `per_client` gives them options of their own.
    """

    other_half: str | None = None
    moves_neurons: bool = False
    reply_metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reply_arrays: tuple[str, ...] = ()
    same_for_all: tuple[str, ...] = ()


@runtime_checkable
class PlansMasks(Protocol):
    """A strategy whose clients train under a mask; of nested strategies only one may be such."""

    def plan(self, server_round: int) -> MaskPlan:
        """Return the mask plan of a round; rounds count from 1."""
        ...


@runtime_checkable
class SaysAverages(Protocol):
    """A strategy that says whether it needs nothing but the weighted mean of the replies.

    If so, workers send partial sums in place of each client's model. Of Flower's own strategies
    fedalign knows it; any other strategy that does not say so gets every model.
    """

    averages: bool


@runtime_checkable
class AddsNoise(Protocol):
    """A strategy that adds noise for differential privacy, as Flower's wrappers do."""

    noise_multiplier: float


class Schedule(Protocol):
    """Says which weights train when, within a round and from round to round.

    Attributes:
        by_epochs: the mask may change between two epochs only; if False, between any two steps.
    """

    by_epochs: bool

    def stretches(self, draw: Draw) -> Sequence[tuple[Tensor, float]]:
        """Return the masks of a client's local training in order, each with its share of the steps.

        Shares are relative to their sum.
        """
        ...


class Partitioner(Protocol):
    """A way to deal examples to clients.

    `split` may have a fourth parameter `groups`, which receives the group of every example, `(N,)`
    int64, such as its speaker or writer. If it has a default of None, it receives None where the
    data set has no groups; without a default, such a data set is refused.
    """

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Every index belongs to one client, unless the partitioner says otherwise.

        Args:
            labels: The class of every example, `(N,)`.
            num_clients: Length of the result.
            rng: The only source of randomness.
        """
        ...


@runtime_checkable
class NamesRows(Protocol):
    """A partitioner that means examples by their number, so it is given all of the training set.

    What the server keeps (`evaluation.server_share`) is taken out of its shares afterwards; other
    partitioners never see that.
    """

    names_rows: bool


@runtime_checkable
class TransformsImages(Protocol):
    """A partitioner whose clients see the same images differently: `partitions.feature_skew`."""

    def transform(
        self, images: Tensor, client: int, num_clients: int, rng: np.random.Generator
    ) -> Tensor:
        """Return all images of a client `(n, C, H, W)` uint8 as it trains and tests on them."""
        ...


class Source(Protocol):
    """A data set. Without the optional methods below, it has both parts."""

    def load(self, part: Literal["train", "test"]) -> Dataset:
        """Return the training or the test part; `max_examples` limits the training part only."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A data set that may lack one of its parts."""

    def has(self, part: Literal["train", "test"]) -> bool:
        """Return whether there is such a part."""
        ...


@runtime_checkable
class HasSpec(Protocol):
    """A data set that can describe its examples without loading, or having, any."""

    def spec(self) -> Spec:
        """Return what every example looks like."""
        ...


@runtime_checkable
class HasTasks(Protocol):
    """A data set that knows several tasks, each with classes of its own: `evaluation.tasks`.

    Attributes:
        tasks: names of those whose examples are among its own.
    """

    tasks: Sequence[str]

    def task(self, name: str) -> Source:
        """Return the data of one task alone, be it among `tasks` or not; `InputError` if none."""
        ...


class ModelArguments(TypedDict):
    """What a model is given by name.

    Attributes:
        shape: of one example: `(C, H, W)`, of text `(L,)`.
        classes: how many classes there are; for text of characters the size of the vocabulary.
        vocabulary: for text of tokens how many there are, the one that fills up (0) included; else
            None. A model without this argument is refused where examples are tokens.
    """

    shape: tuple[int, ...]
    classes: int
    vocabulary: int | None


class Model(Protocol):
    """A `torch.nn.Module`, or a function that returns one."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(n, classes)` of `n` examples."""
        ...

    def named_parameters(self) -> Any:
        """Return the weights by name."""
        ...


@runtime_checkable
class HasSymmetry(Protocol):
    """A model that knows which of its neurons can be exchanged."""

    def symmetry(self) -> Iterable[Group]:
        """Return the groups of exchangeable neurons, see `fedalign.models.symmetry`."""
        ...
