"""What one round came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord

from fedalign.landscape.barriers import Curve
from fedalign.landscape.planes import Map


@dataclass
class Round:
    """One finished round, as callbacks see it.

    Attributes:
        number: from 1.
        before: the global model that was sent.
        after: the global model that came of it.
        clients: those client models that were asked for, by partition id.
        evaluations: by partition id, the numbers of those clients that evaluated `after`.
        curves: what lies between the round's models, if it was measured.
        maps: what lies around three of them.
        metrics: numbers for `metrics.csv`; callbacks add theirs.
    """

    number: int
    before: ArrayRecord
    after: ArrayRecord
    clients: Mapping[int, ArrayRecord]
    metrics: dict[str, float] = field(default_factory=dict)
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    maps: Sequence[Map] = ()
