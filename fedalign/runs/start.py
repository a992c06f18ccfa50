"""Start a run of fedalign's own app on the engine that its configuration names."""

from __future__ import annotations

from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.simulation import simulate
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.auto import needs_workers
from fedalign.simulation.ray_setup import full_backend_config

OWN = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})


def start(config: Config, crowded: bool = False) -> None:
    """Run a federation to its end in this process; a stopped run goes on from its checkpoint.

    Args:
        config: the run's.
        crowded: other runs use the machine too, so `simulation.backend: auto` starts no workers
            beside this process, on which no result depends.

    Raises:
        FedalignError: see `simulate` and `server_app.main`.
    """
    backend, given = config.simulation.backend, config.simulation.backend_config(config.device)
    if crowded and backend == "auto" and not needs_workers(full_backend_config(given)):
        backend, given = "inline", {"client_resources": given["client_resources"]}
    simulate(OWN, config.num_clients, config.run_config(), backend=backend, backend_config=given)
