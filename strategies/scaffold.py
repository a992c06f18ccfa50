"""SCAFFOLD's server half: control variates (Karimireddy et al. 2020, ICML)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedalign.messages.records import EXTRA
from strategies.wrapper import Weighting, Wrapper, weighed


@dataclass
class Scaffold(Wrapper):
    """Correct client drift with control variates (SCAFFOLD, Karimireddy et al. 2020, algorithm 1).

    The server sends its control variate c along with the model x. With the set S of clients that
    take part, of N: `c += |S|/N mean_i(c_i change)` and `x += eta_g mean_i(y_i - x)`. The client
    `scaffold` has the other half. c is float32, without padding.
    """

    other_half = "scaffold"
    reply_arrays = ("control",)

    num_clients: int
    server_lr: Annotated[
        float, Field(gt=0, description="the server's learning rate, eta_g in the paper")
    ] = 1.0
    weighting: Weighting = "uniform"
    control: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.control = np.zeros(self.layout.num_parameters, np.float32)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the base's messages with c added."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        record = ArrayRecord({"control": Array(self.control)})
        for content in {id(message.content): message.content for message in messages}.values():
            content[EXTRA] = record
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model after the server's step, and the base's metrics; updates c."""
        listed = list(replies)
        changes = [reply.content.array_records[EXTRA]["control"].numpy() for reply in listed]
        for reply in listed:
            del reply.content[EXTRA]
        listed = weighed(listed, self.weighting)
        arrays, metrics = super().aggregate_train(server_round, listed)
        if arrays is not None:
            share = len(listed) / self.num_clients
            self.control = (self.control + share * np.mean(changes, 0)).astype(np.float32)
            x = self.vector(self._sent)
            self.put(x + self.server_lr * (self.vector(arrays) - x), arrays)
        return arrays, metrics
