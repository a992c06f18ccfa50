"""The values of the round loop: its settings, and the outcome of one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from flwr.app import ArrayRecord

from fedalign.landscape.barriers import Curve
from fedalign.landscape.planes import Map


@dataclass(frozen=True)
class RoundSettings:
    """What is the same in every round of a run.

    Attributes:
        rounds: the number of the last round; the first one is 1.
        seed: decides which clients are sampled.
        clients_per_round: how many clients train in a round; None: all that are present.
        evaluate_fraction: share of the clients with test examples that evaluate the new model on
            them. They are sampled afresh, whoever trained.
        evaluate_every: rounds between two such evaluations; the last round always has one.
        timeout: seconds to wait for the replies to one set of messages.
        stack: how many clients are trained as one, if both grid and ClientApp can.
        partial_sums: sum models where they are trained, if both grid and strategy allow it.
        max_update_norm: leave out models that moved further than this L2 norm; None: no limit.
        min_replies: the run fails if a round has fewer usable models.
    """

    rounds: int
    seed: int
    clients_per_round: int | None = None
    evaluate_fraction: float = 0.0
    evaluate_every: int = 1
    timeout: float = 3600.0
    stack: int = 1
    partial_sums: bool = False
    max_update_norm: float | None = None
    min_replies: int = 1

    def clients_evaluate(self, number: int) -> bool:
        """Return whether clients evaluate the new model of this round."""
        due = number % self.evaluate_every == 0 or number == self.rounds
        return self.evaluate_fraction > 0 and due


@dataclass(frozen=True)
class Added:
    """What a callback adds to a round, for the callbacks after it.

    Attributes:
        metrics: columns of `metrics.csv`.
        curves: paths between the round's models.
        maps: planes through three of them.
        tables: rows of further tables of the run folder, by file name and column.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    maps: Sequence[Map] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


class Sampled(NamedTuple):
    """What became of a client that was sampled for a round.

    Attributes:
        examples: on which it trains; None if the server does not know.
        train_loss: None if it did not answer, or does not say.
        outcome: `participation.USED`, or why its model was not used.
    """

    examples: int | None
    train_loss: float | None
    outcome: str


@dataclass(frozen=True)
class Round:
    """One finished round, as callbacks see it.

    Attributes:
        number: from 1.
        before: the global model that was sent to the clients.
        after: the global model that the strategy made of their replies.
        clients: by partition id, the client models that a callback asked for.
        metrics: columns of `metrics.csv`.
        sampled: by partition id, all clients that were to train.
        evaluations: by partition id, the metrics of the clients that evaluated `after`.
        curves: the measured paths between the round's models.
        maps: the measured planes through three of them.
        tables: rows of further tables of the run folder, by file name and column.
    """

    number: int
    before: ArrayRecord
    after: ArrayRecord
    clients: Mapping[int, ArrayRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)
    sampled: Mapping[int, Sampled] = field(default_factory=dict)
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    maps: Sequence[Map] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def plus(self, added: Added) -> Round:
        """Return the round with what a callback added."""
        return replace(
            self,
            metrics={**self.metrics, **added.metrics},
            curves=[*self.curves, *added.curves],
            maps=[*self.maps, *added.maps],
            tables={
                name: [*self.tables.get(name, ()), *added.tables.get(name, ())]
                for name in {**self.tables, **added.tables}
            },
        )
