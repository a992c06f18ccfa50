"""FedBABU: body aggregation and body update (Oh, Kim and Yun 2022, ICLR)."""

from __future__ import annotations

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedalign.network.layout import Layout
from strategies.masked import Masked


class FedBABU(Masked):
    """Only the body trains; the head keeps its random start (FedBABU, Oh et al. 2022, ICLR).

    The mask covers whole layers and stays the same for the run. The paper evaluates the model after
    fine-tuning on each client, see `evaluation.finetune_epochs`.
    """

    def __init__(self, base: Strategy, layout: Layout, initial: ArrayRecord, seed: int):
        super().__init__(base, layout, initial, seed, 1.0, refresh=0, include="head")
