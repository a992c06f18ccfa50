"""The same app on Flower's own simulation engine, by its public ``run_simulation``.

What that call does not offer is put around it here: a run config for both halves of the app, the
run id, exceptions that come out as themselves, and an end when the engine itself breaks down.

The engine starts Ray and shuts it down again. Where the caller has initialised Ray already, the
engine uses that, so ``init_args`` have no effect and workers must be able to import ``fedalign``
by themselves; and it shuts *that* Ray down at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from flwr.app import Context, Message, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedalign.errors import FedalignError
from fedalign.simulation.app import FlowerApp, load_component
from fedalign.simulation.grid import call
from fedalign.simulation.ray_setup import full_backend_config, surroundings


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, UserConfigValue],
    backend_config: Mapping[str, Any],
    run_id: int | None,
) -> None:
    """Return when the ServerApp of ``app`` has come to its end; what it raises comes out as is.

    Raises:
        FedalignError: If the engine itself broke down, with the innermost reason.
    """
    server_app = _Server(app.load()[0], run_config, run_id)
    client_app = _Client(app, run_config, run_id)
    with surroundings(app):
        from flwr.simulation import run_simulation

        try:
            run_simulation(
                server_app,
                client_app,
                num_supernodes,
                backend_config=full_backend_config(backend_config),
            )
        except Exception as error:
            if server_app.error is None:
                raise FedalignError(f"Flower's engine broke down: {_innermost(error)}") from error
        finally:
            server_app.stop()
    if server_app.error is not None:
        raise server_app.error


class _Server(ServerApp):
    """The app's ServerApp with a run config, as the engine's thread may call it.

    Attributes:
        error: What the app raised. It is kept and not raised again, since the engine would wait
            three seconds for a result that never comes, and wrap or lose what is not an Exception.
    """

    def __init__(
        self, app: ServerApp, run_config: dict[str, UserConfigValue], run_id: int | None
    ) -> None:
        super().__init__()
        self._app, self._run_config, self._run_id = app, run_config, run_id
        self._grid: Grid | None = None
        self.error: BaseException | None = None

    def __call__(self, grid: Grid, context: Context) -> None:
        """Return nothing, whether the app came to its end or raised."""
        self._grid = grid
        context.run_config = dict(self._run_config)
        context.run_id = context.run_id if self._run_id is None else self._run_id
        try:
            self._app(grid=grid, context=context)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Return nothing; an app that still waits for clients, which are gone, ends with an error.

        Without it a broken engine leaves the app's thread polling, and Python never exits.
        """
        if self._grid is not None:
            for method in ("get_node_ids", "push_messages", "pull_messages"):
                setattr(self._grid, method, _refuse)


class _Client(ClientApp):
    """The app's ClientApp by name, which a worker imports for itself, with a run config."""

    def __init__(
        self, app: FlowerApp, run_config: dict[str, UserConfigValue], run_id: int | None
    ) -> None:
        super().__init__()
        self._app, self._run_config, self._run_id = app, run_config, run_id

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply of the app's own ClientApp; errors read as on our own engines."""
        self._app.put_on_path()
        app: ClientApp = load_component(self._app.client, self._app.root)
        before = context.run_config, context.run_id
        context.run_config = dict(self._run_config)
        context.run_id = context.run_id if self._run_id is None else self._run_id
        reply = call(app, message, context)
        # The engine refuses a context that does not come back as it was.
        context.run_config, context.run_id = before
        return reply


def _refuse(*_: object) -> NoReturn:
    """Raise, in place of a Grid's method, once the engine is gone."""
    raise FedalignError("Flower's engine has stopped")


def _innermost(error: BaseException) -> str:
    """Return the reason at the bottom of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
