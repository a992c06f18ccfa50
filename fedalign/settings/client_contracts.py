"""What fedalign expects of a client algorithm.

See `fedalign.settings.contracts`, which has the contracts of most other kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fedalign.algorithm import Stack, Trained
    from fedalign.data import Spec


class ClientAlgorithm(Protocol):
    """The client's half of an algorithm; `clients.local.Local` is one, and easy to extend.

    The smallest one moves every model half-way from where it starts to zero:

        class Shrink:
            def train(self, stack: Stack) -> Trained:
                stack.block.mul_(0.5)
                return Trained(losses=torch.zeros(len(stack.block)))
    """

    def train(self, stack: Stack) -> Trained:
        """Train `stack.block` in place; return losses, what clients send, and their new states.

        The algorithm itself follows `stack.plans`: weights that a plan fixes keep their bits.
        """
        ...


@dataclass(frozen=True)
class ClientTraits:
    """What a client algorithm declares about itself.

    Attributes:
        other_half: the name of the strategy that it makes no sense without.
        stateful: clients have a state that lasts from round to round.
        uses_features: the loss depends on the input of the network's last linear layer, see
            `fedalign.network.losses.Loss`.
        stacked_options: options in which the clients of one stack may differ, since it takes them
            from `Stack.algorithms`. Clients with other differences (`per_client`) train apart.
    """

    other_half: str | None = None
    stateful: bool = False
    uses_features: bool = False
    stacked_options: tuple[str, ...] = ()


@runtime_checkable
class BoundsMetrics(Protocol):
    """A client algorithm that knows bounds of the metrics that it reports."""

    def metric_bounds(self, num_examples: int) -> Mapping[str, tuple[float, float]]:
        """Return the least and the largest value of metrics, by name, for so many examples."""
        ...


@runtime_checkable
class HasEpochs(Protocol):
    """A client algorithm that trains in epochs: needed by schedules that change masks by epochs.

    An option of this name is also needed by `evaluation.finetune_epochs`.
    """

    epochs: int


@runtime_checkable
class ChecksExamples(Protocol):
    """A client algorithm some of whose options are not for all kinds of examples."""

    def check_examples(self, spec: Spec) -> None:
        """Raise `InputError` for options that cannot be used with examples like these."""
        ...
