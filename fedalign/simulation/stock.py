"""Run an app on Flower's own simulation engine, by its public `run_simulation`.

This file adds what that function lacks: a run config for both halves of the app, a given run id,
exceptions of the app passed on unchanged, and an end when the engine itself fails.

The engine starts Ray and shuts it down. If the caller has initialised Ray already, the engine uses
that one: `init_args` then have no effect, workers must be able to import `fedalign` by themselves,
and the caller's Ray is shut down at the end.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import ray
from flwr.app import Context, Message, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedalign.errors import FedalignError
from fedalign.messages.copies import copy_of
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.ray_cluster import connect
from fedalign.simulation.ray_setup import full_backend_config, surroundings, threads_of
from fedalign.simulation.serving import call

log = logging.getLogger("flwr")
PATIENCE = 60.0  # seconds in which an app that is stopped saves what it has


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Run the ServerApp of `app` to its end; its exceptions are passed on unchanged.

    Raises:
        FedalignError: the engine itself failed; gives the innermost reason.
    """
    server_app = _Server(app.load()[0], run_config, run_id)
    config = full_backend_config(backend_config)
    node_config = {} if "address" in config["init_args"] else _node_config(app, run_config)
    threads = threads_of(config["client_resources"])
    client_app = _Client(app, run_config, run_id, node_config, threads)
    with surroundings(app):
        from flwr.simulation import run_simulation

        try:
            _start_ray(config["init_args"])
            run_simulation(server_app, client_app, num_supernodes, backend_config=config)
        except KeyboardInterrupt:
            server_app.stop(KeyboardInterrupt())
            raise
        except FedalignError:  # Ray did not start
            raise
        except Exception as error:
            if server_app.error is None:
                raise FedalignError(f"Flower's engine failed: {_innermost(error)}") from error
        finally:
            server_app.stop(FedalignError("Flower's engine has stopped"))
            ray.shutdown()
    if server_app.error is not None:
        raise server_app.error


def _node_config(app: FlowerApp, run_config: Mapping[str, UserConfigValue]) -> dict[str, str]:
    """Return where clients of fedalign's own app store their states: in the run's folder."""
    if app.client != "fedalign.client_app:app":
        return {}
    # Imported here because they import torch, which another app may not need.
    from fedalign.federation.client_state import STATE_DIR, STATES
    from fedalign.settings.config import from_run_config

    return {STATE_DIR: str((from_run_config(run_config).folder / STATES).resolve())}


def _start_ray(init_args: Mapping[str, Any]) -> None:
    """Start Ray as the engine would, but as fedalign's own engines do."""
    if not ray.is_initialized():
        paths = {"PYTHONPATH": os.pathsep.join([*sys.path, os.environ["PYTHONPATH"]])}
        connect({"runtime_env": {"env_vars": paths}, **init_args})


class _Server(ServerApp):
    """The app's ServerApp with a run config, to be called in the engine's thread.

    Attributes:
        error: the exception that the app raised. It is stored rather than raised, since the engine
            would wait three seconds for a result, and wrap or lose anything but an `Exception`.
    """

    def __init__(
        self, app: ServerApp, run_config: dict[str, UserConfigValue], run_id: int | None
    ) -> None:
        super().__init__()
        self._app, self._run_config, self._run_id = app, run_config, run_id
        self._grid: Grid | None = None
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the app; store what it raises in `error`."""
        self._grid = grid
        context.run_config = dict(self._run_config)
        context.run_id = context.run_id if self._run_id is None else self._run_id
        try:
            self._app(grid=grid, context=context)
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()

    def stop(self, reason: BaseException) -> None:
        """Make an app that still waits for clients raise `reason`, and wait until it has ended.

        Otherwise its thread would poll forever after the engine has failed, and Python never exit,
        or end in the middle of its work.
        """

        def refuse(*_: object) -> NoReturn:
            raise reason

        if self._grid is not None:
            for method in ("get_node_ids", "push_messages", "pull_messages"):
                setattr(self._grid, method, refuse)
            self._ended.wait(PATIENCE)


class _Client(ClientApp):
    """The app's ClientApp with a run config, by name, since each worker imports it itself."""

    def __init__(
        self,
        app: FlowerApp,
        run_config: dict[str, UserConfigValue],
        run_id: int | None,
        node_config: Mapping[str, UserConfigValue],
        threads: int,
    ) -> None:
        super().__init__()
        self._app, self._run_config, self._run_id = app, run_config, run_id
        self._node_config, self._threads = node_config, threads

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply of the app's ClientApp; errors are worded as on fedalign's engines."""
        self._app.put_on_path()
        app: ClientApp = load_component(self._app.client, self._app.root)
        before = context.run_config, context.run_id, context.node_config
        state = copy_of(context.state)
        context.run_config = dict(self._run_config)
        context.node_config = {**context.node_config, **self._node_config}
        context.run_id = context.run_id if self._run_id is None else self._run_id
        reply = call(app, message, context, self._threads)
        if reply.has_error():  # the engine would take it for a success
            context.state = state
            log.error("client %s: %s", context.node_config["partition-id"], reply.error.reason)
        # The engine rejects a context whose run config or run id has changed.
        context.run_config, context.run_id, context.node_config = before
        return reply


def _innermost(error: BaseException) -> str:
    """Return the reason at the bottom of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
