"""Run a Flower app on Flower's own engine, as `flwr run` does, with nothing of fedalign around it.

python benchmarks/stock_app.py DIR NUM_SUPERNODES '{"run-config-key": 1}'
"""

from __future__ import annotations

import json
import secrets
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_dir
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

from fedalign.simulation import find_app


def main(folder: str, num_supernodes: int, given: dict[str, Any]) -> None:
    """Run the app to its end."""
    app, engine = find_app(folder), import_module("flwr.simulation.run_simulation")
    app.put_on_path()
    run = Run.create_empty(secrets.randbits(62))
    run.primary_task_id, run.federation_id = 1, engine.NOOP_FEDERATION_ID
    run.override_config = given
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run.run_id, 1
    config = get_fused_config_from_dir(Path(app.root), given)
    engine._run_simulation(
        num_supernodes=num_supernodes,
        server_app_attr=app.server,
        client_app_attr=app.client,
        run=run,
        server_app_context=Context(run.run_id, 1, {}, RecordDict(), config),
        is_app=True,
        backend_config={"client_resources": {"num_cpus": 1}},
        app_dir=str(app.root),
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
