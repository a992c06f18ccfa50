"""The ClientApp: what a client does with a message to train, to evaluate, or to say who it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.federation.client_state import ClientState
from fedalign.federation.federation import PLACE, Federation, adopt, federation_of
from fedalign.federation.local_data import DATA_DIR, federation_at
from fedalign.masks.plan import MaskPlan
from fedalign.messages.contexts import place_of
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupApp, GroupReplies, GroupRequest, RunConfig
from fedalign.messages.records import STATE, TrainTask, arrays_of, evaluate_reply, round_of
from fedalign.network.device import torch_threads
from fedalign.rng import rng
from fedalign.seeding import seeded
from fedalign.training import trainer
from fedalign.training.evaluation import on_client
from fedalign.training.private import own_model
from fedalign.training.replies import Sender, each, mean
from fedalign.training.stacks import notes


class App(GroupApp):
    """Flower's ClientApp, and what fedalign's own engines ask beside."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], request: GroupRequest
    ) -> GroupReplies | None:
        """Return the models of several clients, or their mean, after training them in stacks.

        None: Flower's differential privacy clips the updates of one client after the other.
        """
        federation = federation_at(contexts[0], messages[0])
        task = TrainTask.read(messages[0])
        if task.clipped and len(messages) > 1:
            return None
        stacks = trainer.train(federation, task, messages[0], contexts, request.stack)
        sender = Sender.of(federation, task, messages[0])
        if request.partial_sums:
            replies = mean(sender, task.plan, messages, stacks, request)
        else:
            replies = each(sender, messages, stacks)
        replies.notes += notes(federation)
        return replies

    def flaw(
        self, message: Message, context: Context, reply: Message, max_update_norm: float | None
    ) -> str | None:
        """Return why a client's reply cannot be summed; None if it can."""
        codec = federation_of(context.run_config).codec
        decoder = ReplyDecoder([message], codec, max_update_norm)
        return decoder.flaw(reply, int(context.node_config["partition-id"]))

    def sizes(self, run_config: RunConfig, num_partitions: int) -> list[float]:
        """Return how many examples each client visits in a round, in all of its epochs."""
        federation = federation_of(run_config)
        return [
            float(federation.num_trained(i, num_partitions) * federation.algorithms.epochs(i))
            for i in range(num_partitions)
        ]

    def share(self, run_config: RunConfig) -> Any:
        """Return the training set with NumPy arrays, which processes of a machine can share."""
        return federation_of(run_config).train.to_numpy()

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take the training set, and deal it and build the network before the first round."""
        federation = adopt(run_config, shared)
        federation.held(0, num_partitions)
        federation.network  # noqa: B018


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Return the reply, its update clipped by Flower's own mod if the server asks for that."""
    if KEY_CLIPPING_NORM in message.content.config_records.get("config", {}):
        return adaptiveclipping_mod(message, context, call_next)  # a fixed norm is clipped alike
    return call_next(message, context)


app = App(mods=[clip])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the client's model after local training under the round's mask."""
    state = ClientState(context, message, federation_at(context, message))
    state.fetch()
    replies = app.train_many([message], [context], GroupRequest())
    assert replies is not None  # a single client can always be served
    state.store(replies.replies[0])
    return replies.replies[0]


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return loss and accuracy of the global model on the client's held-out examples.

    The model has the client's own private tensors. Where clients hold none out, on those it trains
    on. With `evaluation.finetune_epochs` also those of the model after local fine-tuning
    (`tuned_…`).
    """
    federation, (partition, count) = federation_at(context, message), place_of(context)
    ClientState(context, message, federation).fetch()
    stored = cast(ArrayRecord | None, context.state.get(STATE))
    sent, number = federation.network.receive(arrays_of(message)), round_of(message)
    models = {"": own_model(federation, sent, stored, partition)}
    if federation.config.evaluation.finetune_epochs:
        models["tuned_"] = _tuned(federation, models[""], number, partition, count)
    with torch_threads(1), seeded(federation.config.seed, "evaluate", number, partition):
        measured = on_client(federation, models, partition, count)
    return evaluate_reply(message, len(federation.held(partition, count).tested), measured)


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Return the partition of this node, the number of partitions, and its numbers of examples."""
    federation, (partition, count) = federation_at(context, message), place_of(context)
    held, own = federation.held(partition, count), DATA_DIR in context.node_config
    examples = federation.num_trained(partition, count)
    facts = MetricRecord({"examples": examples, "tests": len(held.tested)})
    facts["own"] = int(own)
    for key in PLACE & context.node_config.keys():
        facts[key] = int(context.node_config[key])
    return Message(RecordDict({"whoami": facts}), reply_to=message)


def _tuned(
    federation: Federation, model: Tensor, server_round: int, partition: int, count: int
) -> Tensor:
    """Return the model `(F,)` after fine-tuning on the client's examples, without a mask."""
    held = federation.held(partition, count)
    data, rows = federation.examples.seen(count, [partition], [held.trained])
    stream, private = rng(federation.config.seed, "finetune", server_round, partition), None
    if federation.private:
        private = federation.private.mask().to(model.device)
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
        private=private,
    )
    federation.network.restart()
    with seeded(federation.config.seed, "tune", server_round, partition):
        federation.algorithms.tuner(partition).train(stack)
    return stack.block[0]
