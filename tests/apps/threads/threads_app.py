"""PyTorch on as many threads as a client has CPUs, on every engine."""

import json
import time
from pathlib import Path

import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):  # noqa: ARG001
    """Return the number of threads."""
    me = MetricRecord({"threads": torch.get_num_threads()})
    return Message(RecordDict({"me": me}), reply_to=message)


@server.main()
def main(grid, context):
    """Ask all clients."""
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])
    threads = [reply.content["me"]["threads"] for reply in replies]
    Path(context.run_config["out"]).write_text(json.dumps({"threads": threads}))
