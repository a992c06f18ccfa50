"""Secure aggregation: several messages a round, and the state goes from one to the next."""

import json
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_PARAMS_RECORD
from flwr.serverapp import ServerApp


class Client(NumPyClient):
    """A client that adds its number."""

    def __init__(self, partition):
        self.partition = partition

    def fit(self, parameters, config):  # noqa: ARG002
        """Add the partition."""
        return [array + self.partition for array in parameters], 1, {}

    def evaluate(self, parameters, config):  # noqa: ARG002
        """Return the sum as the loss."""
        return float(parameters[0].sum()), 1, {}


def client_fn(context):
    """Return the client of a node."""
    return Client(context.node_config["partition-id"]).to_client()


client = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
server = ServerApp()


@server.main()
def main(grid, context):
    """Two rounds; the sums are exact but for their quantisation."""
    strategy = FedAvg(
        min_fit_clients=4,
        min_evaluate_clients=4,
        min_available_clients=4,
        initial_parameters=ndarrays_to_parameters([np.zeros(3)]),
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=2), strategy=strategy)
    secure = SecAggPlusWorkflow(3, 2, max_weight=2, clipping_range=8.0, timeout=60.0)
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)
    (model,) = legacy.state[MAIN_PARAMS_RECORD].to_numpy_ndarrays()
    result = {
        "model": [round(float(each), 2) for each in model],
        "rounds": len(legacy.history.losses_distributed),
    }
    Path(context.run_config["out"]).write_text(json.dumps(result))
