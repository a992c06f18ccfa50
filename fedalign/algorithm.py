"""What a client algorithm gets, and what it returns.

An algorithm trains K clients at once, as the rows of one block of flat models `(K, F)`. The first P
of the F numbers of a model are its parameters; behind them lie buffers such as BatchNorm's running
statistics. Between tensors lies padding, see `fedalign.network.layout`: it is 0 and must stay 0, in
vectors for the strategy and for the client itself too. A real client is a stack of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.network.network import Network
from fedalign.settings.client_contracts import ClientAlgorithm


@dataclass
class Stack:
    """K clients that are trained as one, and what they know.

    Attributes:
        network: the network, shared by all clients.
        data: the training set, on the network's device.
        start: the global model `(F,)`; it must not be changed.
        block: the clients' models `(K, F)`: where each starts, by default at the global model.
            Training changes it in place.
        rows: which examples of `data` each client trains on. Clients are sorted by number of
            examples, largest first, or of steps where their own algorithms say how many; so those
            that still train are always the first rows of the block.
        streams: each client's generator for the order of its examples.
        plans: each client's mask plan for the round; they differ in `client` only.
        server_round: the round, from 1.
        rounds: the number of rounds in the run.
        received: vectors `(P,)` from the strategy beside the model, by name.
        client_states: what each client stored in the last round in which it took part, by name, see
            `Trained.client_state`; empty for a client that is new.
        private: which of the F numbers each client keeps to itself, `(F,)` bool. Its own are in the
            block already; those of `start` mean nothing to it. None: there are none.
        algorithms: each client's own, which differ in `ClientTraits.stacked_options` only; empty
            where all clients have the same one.
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
    client_states: Sequence[Mapping[str, Tensor]] = ()
    private: Tensor | None = None
    algorithms: Sequence[ClientAlgorithm] = ()


@dataclass
class Trained:
    """The results of a stack beside its models.

    Attributes:
        losses: mean training loss of each client, `(K,)`.
        metrics: numbers `(K,)` for the reply, by name.
        sends: vectors `(K, P)` for the strategy, by name.
        client_state: tensors `(K, ...)` that clients store until they next take part, by name; row
            k belongs to client k. The strategy never sees them. Padding of vectors `(K, P)` and
            `(K, F)` is not stored.
    """

    losses: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    sends: dict[str, Tensor] = field(default_factory=dict)
    client_state: dict[str, Tensor] = field(default_factory=dict)
