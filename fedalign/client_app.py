"""The ClientApp: what a client does with a train or an evaluate message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.federation.federation import PLACE, Federation, federation_of, place_of
from fedalign.federation.local_data import DATA_DIR, federation_at
from fedalign.masks.plan import MaskPlan
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest, RunConfig
from fedalign.messages.records import TrainTask, arrays_of, evaluate_reply, round_of
from fedalign.network.device import torch_threads
from fedalign.rng import rng
from fedalign.training import trainer
from fedalign.training.replies import Sender, each, mean


class App(GroupApp):
    """What fedalign's own engines may ask beside what Flower asks."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], request: GroupRequest
    ) -> GroupReplies | None:
        """Return the models of several clients, or their mean, after training in stacks.

        None: Flower's differential privacy clips the updates of one client after the other.
        """
        federation = federation_at(contexts[0], messages[0])
        task = TrainTask.read(messages[0])
        if task.clipped and len(messages) > 1:
            return None
        models = trainer.train(federation, task, messages, contexts, request.stack)
        sender = Sender.of(federation, task, messages[0])
        if request.partial_sums:
            return mean(sender, messages, models, request)
        return each(sender, messages, models)

    def flaw(
        self, message: Message, context: Context, reply: Message, most: float | None
    ) -> str | None:
        """Return why a client's reply cannot be summed; None if it can."""
        codec = federation_of(context.run_config).codec
        decoder = ReplyDecoder([message], codec, most)
        return decoder.flaw(reply, int(context.node_config["partition-id"]))

    def sizes(self, run_config: RunConfig, num_partitions: int) -> list[float]:
        """Return how many examples each client has."""
        return [float(len(rows)) for rows in federation_of(run_config).shards(num_partitions)]

    def share(self, run_config: RunConfig) -> Any:
        """Return the training set."""
        return federation_of(run_config).shared()

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take the training set, and make what the first round would make otherwise."""
        federation = federation_of(run_config)
        federation.adopt(shared)
        federation.shards(num_partitions)
        federation.network  # noqa: B018


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Return a reply whose update Flower's own mod has clipped, where the server wants it so."""
    if KEY_CLIPPING_NORM in message.content.config_records.get("config", {}):
        return adaptiveclipping_mod(message, context, call_next)  # a fixed norm is clipped alike
    return call_next(message, context)


app = App(mods=[clip])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the client's model after local training from the global one under the round's mask."""
    replies = app.train_many([message], [context], GroupRequest())
    assert replies is not None  # a single client can always be served
    return replies.replies[0]


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return how the global model does on what the client keeps back, or else trains on.

    With `evaluation.finetune_epochs` also how it does after local fine-tuning (`tuned_…`).
    """
    federation, (partition, count) = federation_at(context, message), place_of(context)
    network, settings = federation.network, federation.config.evaluation
    owned = federation.held(partition, count).tested
    data, (rows,) = federation.seen(count, [partition], [owned])
    own = data.at(rows)
    models = {"": network.receive(arrays_of(message))}
    if settings.finetune_epochs:
        models["tuned_"] = _tuned(federation, models[""], round_of(message), partition, count)
    measured: dict[str, float] = {}
    with torch_threads(1):
        for kind, model in models.items():
            loss, accuracy = network.evaluate(model, own, settings.batch_size)
            measured |= {f"{kind}loss": loss, f"{kind}accuracy": accuracy}
    return evaluate_reply(message, len(rows), measured)


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Return which partition this node holds, of how many, and how many examples it has."""
    federation, (partition, count) = federation_at(context, message), place_of(context)
    held, own = federation.held(partition, count), DATA_DIR in context.node_config
    told = MetricRecord({"examples": len(held.trained), "tests": len(held.tested)})
    told["own"] = int(own)
    for key in PLACE & context.node_config.keys():
        told[key] = int(context.node_config[key])
    return Message(RecordDict({"whoami": told}), reply_to=message)


def _tuned(
    federation: Federation, model: Tensor, server_round: int, partition: int, count: int
) -> Tensor:
    """Return a copy of the model `(F,)` after training, in which all weights train."""
    data, rows = federation.seen(count, [partition], [federation.held(partition, count).trained])
    stream = rng(federation.config.seed, "finetune", server_round, partition)
    stack = Stack(
        federation.network,
        data,
        start=model,
        block=model.repeat(1, 1),
        rows=rows,
        streams=[stream],
        plans=[MaskPlan()],
        server_round=server_round,
        rounds=federation.config.rounds,
    )
    federation.tuner.train(stack)
    return stack.block[0]
