"""One client is late; the others are not, and its reply can still be had."""

import json
import time
from pathlib import Path

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.train("sleep")
def sleep(message, context):
    """Sleep in partition 2."""
    if context.node_config["partition-id"] == 2:
        time.sleep(3 * context.run_config["pace"])
    return who(message, context)


@client.query()
def who(message, context):
    """Return the partition."""
    me = MetricRecord({"partition": context.node_config["partition-id"]})
    return Message(RecordDict({"me": me}), reply_to=message)


@server.main()
def main(grid, context):
    """Wait for two units of time, then pull what is missing."""
    while len(nodes := sorted(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes])
    messages = [Message(RecordDict(), node, "train.sleep") for node in nodes]
    replies = grid.send_and_receive(messages, timeout=2 * context.run_config["pace"])
    came = sorted(reply.content["me"]["partition"] for reply in replies)
    answered = {reply.metadata.reply_to_message_id for reply in replies}
    missing = {message.metadata.message_id for message in messages} - answered
    late, end = [], time.monotonic() + 20
    while len(late) < len(missing) and time.monotonic() < end:
        late += grid.pull_messages(missing)
        time.sleep(0.01)
    result = {"came": came, "late": [reply.content["me"]["partition"] for reply in late]}
    Path(context.run_config["out"]).write_text(json.dumps(result))
