"""Both halves read a file that lies beside their module, wherever the command was started."""

import json
import time
from pathlib import Path

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


def rows():
    """Return the numbers in the file."""
    text = (Path(__file__).parent / "rows.csv").read_text()
    return [[float(number) for number in line.split(",")] for line in text.splitlines()]


@client.train()
def train(message, context):
    """Return the sum of a node's row."""
    total = sum(rows()[context.node_config["partition-id"]])
    return Message(RecordDict({"me": MetricRecord({"total": total})}), reply_to=message)


@server.main()
def main(grid, context):
    """Compare the clients' sums with the whole."""
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])
    totals = sorted(reply.content["me"]["total"] for reply in replies)
    result = {"totals": totals, "whole": sum(map(sum, rows()))}
    Path(context.run_config["out"]).write_text(json.dumps(result))
