"""The default engine: this process at once, and Ray workers as soon as they are worth it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from threading import Event, current_thread, main_thread
from typing import TYPE_CHECKING, Any

from flwr.app import UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.simulation import inline
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.ray_setup import (
    count_visible_gpus,
    full_backend_config,
    require_ray,
    threads_of,
)
from fedalign.simulation.schedule import MIN_SECONDS, Task

if TYPE_CHECKING:  # importing Ray takes a second, and most short runs never need it
    from fedalign.simulation.workers import Pool

# Seconds that others could have taken. Ray and a worker cost 1.5 CPU seconds for an app with NumPy
# and 3.5 with PyTorch (docs/engine.md), and one more worker would have saved half of these.
WORTH = 5.0

log = logging.getLogger("fedalign")


class AutoGrid(InlineGrid):
    """A Grid whose clients run in this process, and in Ray workers beside it once that pays.

    Workers are started, behind, as soon as clients have run for `WORTH` seconds in this process
    while others waited. From then on each group of clients goes to whoever is free first. Results
    do not depend on where a client runs.

    Args:
        app: which each worker imports.
        client_app: the same, for this process.
        num_nodes: of the federation.
        run_config: of the app.
        run_id: by default random.
        backend_config: see `full_backend_config`.
        most: how many workers may be started.
    """

    def __init__(
        self,
        app: FlowerApp,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue],
        run_id: int | None,
        backend_config: Mapping[str, Any],
        most: int,
    ) -> None:
        threads = threads_of(backend_config["client_resources"])
        super().__init__(client_app, num_nodes, run_config, run_id, threads)
        self._app, self._config, self._most = app, backend_config, most
        self._spent = 0.0
        self._hiring: threading.Thread | None = None
        self._hired, self._over = Event(), Event()
        self._pool: Pool | None = None
        self._open = ExitStack()

    @property
    def num_workers(self) -> int:
        """The number of processes that serve clients now."""
        return 1 + (len(self._pool.workers) if self._pool else 0)

    def close(self) -> None:
        """Stop serving clients, and stop the workers."""
        super().close()
        if self._hiring is not None:
            self._hired.wait()
        if self._pool is not None:
            self._pool.close()
        self._open.close()
        self._over.set()

    def serve_group(self, task: Task) -> float:
        """Serve a group, return the seconds that it took, and start workers if that pays."""
        others = self.schedule.waiting()
        seconds = super().serve_group(task)
        self._spent += seconds if others else 0.0
        if self._most and self._hiring is None and self._spent > WORTH:
            self._hiring = threading.Thread(target=self._hire, daemon=True)
            self._hiring.start()
        return seconds

    def _hire(self) -> None:
        """Start Ray and its workers, until the grid is closed; if that fails, go on without."""
        try:
            from fedalign.simulation.ray_cluster import ray_for
            from fedalign.simulation.workers import Pool

            self._open.enter_context(ray_for(self._app, self._config["init_args"]))
            if not self.schedule.closed:
                resources = self._config["client_resources"]
                pool = Pool(self, self._app, resources, self._most, MIN_SECONDS)
                pool.start(self._client_app)
                self._pool = pool
        except Exception as error:
            log.warning("no Ray workers, so all clients run in this process: %s", error)
        finally:
            self._hired.set()
        if current_thread() is not main_thread():
            self._over.wait()  # Linux kills Ray's processes when the thread ends that started them


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Run the ServerApp of `app` to its end; its exceptions are passed on unchanged.

    On a cluster, on several GPUs, or if clients share one (`num_gpus`), they run on workers only.
    """
    config = full_backend_config(backend_config)
    if needs_workers(config):
        require_ray()
        from fedalign.simulation import workers

        workers.run(app, num_supernodes, run_config, backend_config, run_id)
        return
    server_app, client_app = app.load()
    most = _most(config, num_supernodes, backend_config)
    grid = AutoGrid(app, client_app, num_supernodes, run_config, run_id, config, most)
    inline.serve_app(grid, server_app)


def needs_workers(config: Mapping[str, Any]) -> bool:
    """Return whether all clients run on Ray workers, by the `full_backend_config`."""
    amount = config["client_resources"]["num_gpus"]
    shared = bool(amount) and (amount < 1 or count_visible_gpus() > 1)
    return shared or "address" in config["init_args"]


def _most(config: Mapping[str, Any], clients: int, given: Mapping[str, Any]) -> int:
    """Return how many workers there may be beside this process; none beside one that has a GPU."""
    resources = config["client_resources"]
    if count_visible_gpus() and "num_gpus" not in given.get("client_resources", {}):
        return 0  # its clients may use the GPU
    if resources["num_gpus"] or not resources["num_cpus"]:
        return 0
    room = int(config["init_args"]["num_cpus"] / resources["num_cpus"])
    return max(0, min(room, clients) - 1)
