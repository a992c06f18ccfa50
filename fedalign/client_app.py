"""The ClientApp: what a client does with a train or an evaluate message."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedalign.federation import Federation, federation_of
from fedalign.network import torch_threads
from fedalign.rng import rng
from fedalign.wire import TrainTask, arrays_of, evaluate_reply, train_reply

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the client's model after local training from the global one under the round's mask."""
    federation, partition = _place(context)
    network, task, arrays = federation.network, TrainTask.read(message), arrays_of(message)
    rows = federation.shards(int(context.node_config["num-partitions"]))[partition]
    stream = rng(federation.config.seed, "batches", task.server_round, partition)
    block = network.receive(arrays)[None]
    losses = federation.client.train(network, block, federation.train, [rows], task.plan, [stream])
    trained = network.layout.to_record(block[0], network.layout.counters_of(arrays))
    return train_reply(message, trained, len(rows), float(losses[0]))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return the loss and accuracy of the global model on the client's own examples."""
    federation, partition = _place(context)
    network, data, settings = federation.network, federation.train, federation.config.evaluation
    rows = federation.shards(int(context.node_config["num-partitions"]))[partition]
    own = replace(data, images=data.images[rows], labels=data.labels[rows])
    vector = network.receive(arrays_of(message))
    with torch_threads(settings.threads):
        loss, accuracy = network.evaluate(vector, own, settings.batch_size)
    return evaluate_reply(message, len(rows), loss, accuracy)


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Return which partition this node holds, and of how many."""
    ids = MetricRecord()
    for key in ("partition-id", "num-partitions"):
        ids[key] = int(context.node_config[key])
    return Message(RecordDict({"whoami": ids}), reply_to=message)


def _place(context: Context) -> tuple[Federation, int]:
    return federation_of(context.run_config), int(context.node_config["partition-id"])
