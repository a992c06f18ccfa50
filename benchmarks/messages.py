"""Measure the cost of a message on each engine, with clients that only send the model back.

    python benchmarks/messages.py
    python benchmarks/messages.py --engines ray ray+sums flower --parameters 11000000 --clients 10
    python benchmarks/messages.py --engines ray --nodes 100000

`+sums`: models are summed in the workers, as for FedAvg, and only partial sums come back. Engines
take turns (A B A B), each in a fresh process; a number is the median over the rounds of all
repeats, without first rounds. The machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import ServerApp

from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import clients_in, group_size

server = ServerApp()


@server.main()
def main(grid: Any, context: Context) -> None:
    """Print the seconds of each round as JSON."""
    config: Any = context.run_config
    while len(nodes := sorted(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    arrays = ArrayRecord({"w": Array(np.zeros(config["parameters"], np.float32))})
    seconds = []
    for _ in range(int(config["rounds"]) + 1):
        started = time.perf_counter()
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({})})
        drawn = nodes[:: max(1, len(nodes) // config["clients"])][: config["clients"]]
        messages = [Message(content, n, MessageType.TRAIN) for n in drawn]
        if config["sums"]:
            wanted = GroupRequest(partial_sums=True)
            group = group_size(messages, wanted)
            replies = grid.exchange(messages, wanted, group, None).replies
        else:
            replies = list(grid.send_and_receive(messages))
        assert sum(clients_in(reply) for reply in replies) == config["clients"]
        seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds), file=sys.__stderr__)


def measure(engine: str, given: dict[str, int]) -> list[float]:
    """Return the seconds of each round on one engine, in a process of its own."""
    engine, _, sums = engine.partition("+")
    settings = {**given, "sums": bool(sums)}
    here = str(Path(__file__).parent)
    parts = "messages:server", "fedalign.simulation.echo:client"
    code = (
        "from pathlib import Path; from fedalign.simulation import FlowerApp, simulate; "
        f"app = FlowerApp(Path({here!r}), *{parts!r}, {{}}); "
        f"simulate(app, {settings['nodes']}, {settings!r}, backend={engine!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FLWR_LOG_LEVEL": "ERROR", "FLWR_TELEMETRY_ENABLED": "0"},
    )
    return list(json.loads(done.stderr.strip().splitlines()[-1]))


def report() -> None:
    """Measure the engines in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--engines", nargs="+", default=["inline", "inline+sums", "ray", "ray+sums", "flower"]
    )
    parser.add_argument("--parameters", type=int, default=60_000)
    parser.add_argument("--clients", type=int, default=100, help="messages a round")
    parser.add_argument("--nodes", type=int, default=100, help="registered nodes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    given = vars(parser.parse_args())
    engines, repeats = given.pop("engines"), given.pop("repeats")
    taken: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(repeats):
        for engine in engines:
            taken[engine] += measure(engine, given)[1:]
    import flwr
    import ray

    versions = f"Python {platform.python_version()}, flwr {flwr.__version__}, ray {ray.__version__}"
    print(
        f"{given}, {repeats} repeats; {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]}"
    )
    print("\n| engine | ms a round | ms a client |\n|---|---|---|")
    for engine, seconds in taken.items():
        middle = 1000 * median(seconds)
        print(f"| {engine} | {middle:.1f} | {middle / given['clients']:.2f} |")


if __name__ == "__main__":
    report()
