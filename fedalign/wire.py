"""The message down (global model and `TrainTask`) and the message up (`TrainReply`).

Both are plain Flower records under Flower's default keys, so that every Flower strategy can
aggregate them and every mod can look at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedalign.masks import MaskPlan, Schedule


@dataclass(frozen=True)
class TrainTask:
    """What a client is told, beside the global arrays and the run's configuration."""

    server_round: int
    plan: MaskPlan

    @classmethod
    def read(cls, message: Message) -> TrainTask:
        """Return the task in a message; `ValueError` for a mask plan that cannot be."""
        config = cast(ConfigRecord, message.content["config"])
        server_round = cast(int, config["server-round"])
        if "mask-fixed-ratio" not in config:
            return cls(server_round, MaskPlan())
        plan = MaskPlan(
            seed=cast(int, config["mask-seed"]),
            draw=cast(int, config["mask-draw"]),
            fixed_ratio=cast(float, config["mask-fixed-ratio"]),
            schedule=cast(Schedule, config["mask-schedule"]),
        )
        if not 0 <= plan.fixed_ratio <= 1 or plan.schedule not in get_args(Schedule):
            raise ValueError(f"not a mask plan this client knows: {plan}")
        return cls(server_round, plan)


def write_plan(plan: MaskPlan, config: ConfigRecord) -> None:
    """Put a mask plan on the wire."""
    config["mask-seed"] = plan.seed
    config["mask-draw"] = plan.draw
    config["mask-fixed-ratio"] = plan.fixed_ratio
    config["mask-schedule"] = plan.schedule


def arrays_of(message: Message) -> ArrayRecord:
    """Return the model in a message, down or up."""
    return cast(ArrayRecord, message.content["arrays"])


def train_reply(
    message: Message, arrays: ArrayRecord, num_examples: int, train_loss: float
) -> Message:
    """Return the reply to a train message: the client's model and what it weighs."""
    metrics = MetricRecord({"num-examples": num_examples, "train_loss": train_loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def round_of(message: Message) -> int:
    """Return the round that a message from the server belongs to."""
    return cast(int, cast(ConfigRecord, message.content["config"])["server-round"])


def evaluate_reply(message: Message, num_examples: int, measured: Mapping[str, float]) -> Message:
    """Return the reply to an evaluate message."""
    metrics = MetricRecord({"num-examples": num_examples, **measured})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
