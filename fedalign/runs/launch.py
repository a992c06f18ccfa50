"""Start a run from its configuration, as the command line and Python do."""

from __future__ import annotations

import threading

from fedalign.runs.paths import folder_of, forget, is_finished
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.simulation import simulate
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.auto import needs_workers
from fedalign.simulation.ray_setup import full_backend_config

APP = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
_turn = threading.Lock()  # PyTorch and Flower have global state, of which each run needs its own


def launch(config: Config, again: bool = False) -> bool:
    """Run a federation to its end in this process; return False if it had finished already.

    An unfinished run continues from its last checkpoint. Calls of several threads wait for one
    another.

    Args:
        config: of the run.
        again: repeat a finished run, and start an unfinished one from the first round.

    Raises:
        LimpingRunError: the run has finished, but too few clients took part.
        FedalignError: the run failed, for the reason that the message gives.
    """
    with _turn:
        if again:
            forget(config)
        elif is_finished(folder_of(config)):
            return False
        start(config)
        return True


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
    simulate(APP, config.num_clients, config.run_config(), backend=backend, backend_config=given)
