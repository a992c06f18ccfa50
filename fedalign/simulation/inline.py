"""The engine without workers: all clients run in this process, one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import UserConfigValue
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedalign.messages.copies import node_of
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.grid import LocalGrid
from fedalign.simulation.ray_setup import threads_of, underscored
from fedalign.simulation.schedule import Task
from fedalign.simulation.serving import serve


class InlineGrid(LocalGrid):
    """A Grid whose clients run in this process, one at a time, in the order of the messages.

    It starts no process, pickles nothing, needs one CUDA context, and a debugger can stop inside a
    client. Clients run in the thread that waits for their replies; those that are pushed, in a
    thread of their own. A running client cannot be interrupted. Clients share the process, so they
    see one another's changes to the globals of a module. `threads` are PyTorch's for a client.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(num_nodes, run_config, run_id)
        self._client_app, self._threads = client_app, threads
        self._serving = False
        self._behind: threading.Thread | None = None

    def close(self) -> None:
        """Stop serving clients; the one that runs is waited for."""
        super().close()
        if self._behind is not None:
            self._behind.join()

    def _can_work(self) -> bool:
        return not self._serving and self.schedule.waiting()

    def _work(self) -> bool:
        with self.schedule.turn:
            tasks = self.schedule.take() if self._can_work() else []
            self._serving = self._serving or bool(tasks)
        for task in tasks:
            try:
                self.serve_group(task)
            except BaseException as error:
                self.fail(task, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                with self.schedule.turn:
                    self._serving = False
                    self.schedule.turn.notify_all()
        return bool(tasks)

    def serve_group(self, task: Task) -> float:
        """Serve a group, and return the seconds that it took."""
        contexts = self.contexts(map(node_of, task.messages))
        began = time.perf_counter()
        answers = serve(
            self._client_app, task.messages, contexts, task.batch.request, self._threads
        )
        seconds = time.perf_counter() - began
        self.costs.learn(self, [task.messages], [seconds])
        with self.schedule.turn:
            self.keep(task, answers, seconds)
            self.schedule.finish(task)
        return seconds

    def _work_behind(self) -> None:
        if self._behind is None:
            self._behind = threading.Thread(target=self._work_on, daemon=True)
            self._behind.start()

    def _work_on(self) -> None:
        """Serve what waits, until the grid is closed."""
        turn = self.schedule.turn
        while not self.schedule.closed:
            if not self._work():
                with turn:
                    turn.wait_for(lambda: self.schedule.closed or self._can_work())


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Run the ServerApp of `app` to its end; its exceptions are passed on unchanged."""
    server_app, client_app = app.load()
    threads = threads_of(underscored(backend_config).get("client_resources", {}))
    serve_app(InlineGrid(client_app, num_supernodes, run_config, run_id, threads), server_app)


def serve_app(grid: InlineGrid, server_app: ServerApp) -> None:
    """Run a ServerApp on a grid, and close it."""
    try:
        grid.serve(server_app)
    finally:
        grid.close()
