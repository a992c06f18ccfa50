"""The former API: each client's message is sent from a thread of its own."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp

at_work = 0


class Client(NumPyClient):
    """A client that adds its number, and counts how many are at work in this process."""

    def __init__(self, partition, pace):
        self.partition, self.pace = partition, pace

    def fit(self, parameters, config):
        """Add the partition and the round's number."""
        global at_work
        at_work += 1
        time.sleep(self.pace / 20)
        together, at_work = at_work, at_work - 1
        step = self.partition + config["round"]
        return [array + step for array in parameters], 8, {"together": together}

    def evaluate(self, parameters, config):  # noqa: ARG002
        """Return the sum as the loss."""
        return float(sum(array.sum() for array in parameters)), 8, {"partition": self.partition}


def client_fn(context):
    """Return the client of a node."""
    pace = context.run_config["pace"]
    return Client(context.node_config["partition-id"], pace).to_client()


def server_fn(context):
    """Return a strategy that notes what comes."""
    result = {"together": [], "sums": []}

    def fit_metrics(metrics):
        result["together"] += [each["together"] for _, each in metrics]
        return {"most": max(result["together"])}

    def evaluate(number, arrays, _config):
        result["sums"].append(float(sum(array.sum() for array in arrays)))
        if number == 3:
            Path(context.run_config["out"]).write_text(json.dumps(result))
        return result["sums"][-1], {"round": number}

    strategy = FedAvg(
        min_fit_clients=4,
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters([np.zeros(2), np.ones((2, 2))]),
        on_fit_config_fn=lambda number: {"round": number},
        fit_metrics_aggregation_fn=fit_metrics,
        evaluate_metrics_aggregation_fn=lambda metrics: {"n": len(metrics)},
        evaluate_fn=evaluate,
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))


client = ClientApp(client_fn=client_fn)
server = ServerApp(server_fn=server_fn)
