"""Flower's strategies and mods by the message API: updates are clipped by the client's mod."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod, message_size_mod
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

client = ClientApp(mods=[fixedclipping_mod, message_size_mod])
server = ServerApp()


@client.train()
def train(message, context):
    """Move far along one axis."""
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    array = array + 0.0
    array[context.node_config["partition-id"]] += 8
    metrics = MetricRecord({"num-examples": 4})
    content = RecordDict({"arrays": ArrayRecord([array]), "metrics": metrics})
    return Message(content, reply_to=message)


@server.main()
def main(grid, context):
    """Two rounds of FedAvg, whose clients move by a norm of 2 at most."""
    inner = FedAvg(min_train_nodes=4, min_available_nodes=4, fraction_evaluate=0.0)
    strategy = DifferentialPrivacyClientSideFixedClipping(
        inner, noise_multiplier=0.0, clipping_norm=2.0, num_sampled_clients=4
    )
    outcome = strategy.start(
        grid=grid, initial_arrays=ArrayRecord([np.zeros(4, np.float32)]), num_rounds=2
    )
    (model,) = outcome.arrays.to_numpy_ndarrays()
    Path(context.run_config["out"]).write_text(json.dumps({"model": model.tolist()}))
