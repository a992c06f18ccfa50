"""What a client algorithm is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.network.network import Network


@dataclass
class Stack:
    """K clients that are trained as one, and what they know.

    Attributes:
        network: the network that all clients share.
        data: the training set, on the network's device.
        start: `(F,)`, the global model; not to be changed.
        block: `(K, F)`, where clients start, by default at the global model; becomes their models.
        rows: which examples of `data` each client owns. Who has most stands first, so that whoever
            is done stands behind whoever is not, and the block shrinks.
        streams: each client's generator for the order of its examples.
        plans: each client's mask plan for the round; they differ in `client` only.
        server_round: from 1.
        rounds: how many the run has.
        received: `(P,)` vectors from the server beside the model, by name.
        kept: what each client kept in the round in which it last took part, by name.
    """

    network: Network
    data: Dataset
    start: Tensor
    block: Tensor
    rows: Sequence[np.ndarray]
    streams: Sequence[np.random.Generator]
    plans: Sequence[MaskPlan]
    server_round: int = 1
    rounds: int = 1
    received: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Sequence[Mapping[str, Tensor]] = ()


@dataclass
class Trained:
    """What comes of a stack beside its models.

    Attributes:
        losses: `(K,)`, mean training loss.
        metrics: `(K,)` numbers for the reply, by name.
        sends: `(K, P)` vectors for the server, by name.
        keeps: `(K, ...)` vectors that each client keeps for the next round, by name.
    """

    losses: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    sends: dict[str, Tensor] = field(default_factory=dict)
    keeps: dict[str, Tensor] = field(default_factory=dict)
