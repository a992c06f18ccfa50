"""The same app on Flower's own simulation engine, by its public ``run_simulation``.

What that call does not offer is put around it here: a run config for both halves of the app, the
run id, exceptions that come out as themselves, and an end when the engine itself breaks down.

The engine starts Ray and shuts it down again. Where the caller has initialised Ray already, the
engine uses that, so ``init_args`` have no effect and workers must be able to import ``fedalign``
by themselves; and it shuts *that* Ray down at its end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedalign.errors import FedalignError
from fedalign.simulation.app import FlowerApp, Scalar, load_component
from fedalign.simulation.grid import call

_BANNER = "`run_simulation` function is deprecated"


def run(
    app: FlowerApp,
    num_supernodes: int,
    run_config: dict[str, Scalar],
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


def full_backend_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` over our defaults, every key with ``_`` for ``-`` as the engine wants it.

    Defaults: one CPU and no GPU a client, all CPUs of this machine, loopback only, no dashboard,
    errors only in Ray's log. A Ray that is elsewhere (``init_args.address``) keeps its own.
    """
    config = _underscored(given)
    init_args: dict[str, Any] = {"include_dashboard": False, "logging_level": "ERROR"}
    if "address" not in config.get("init_args", {}):
        init_args |= {"num_cpus": os.cpu_count() or 1, "_node_ip_address": "127.0.0.1"}
    defaults = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": init_args}
    return {**config, **{key: table | config.get(key, {}) for key, table in defaults.items()}}


class _Server(ServerApp):
    """The app's ServerApp with a run config, as the engine's thread may call it.

    Attributes:
        error: What the app raised. It is kept and not raised again, since the engine would wait
            three seconds for a result that never comes, and wrap or lose what is not an Exception.
    """

    def __init__(self, app: ServerApp, run_config: dict[str, Scalar], run_id: int | None) -> None:
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

    def __init__(self, app: FlowerApp, run_config: dict[str, Scalar], run_id: int | None) -> None:
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


@contextmanager
def surroundings(app: FlowerApp) -> Iterator[None]:
    """Yield while Ray's workers can import ``app`` and nobody prints what we know already."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logger, path = logging.getLogger("flwr"), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(app.root), path]))
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record says anything but that ``run_simulation`` will go some day."""
    return _BANNER not in record.getMessage()


def _refuse(*_: object) -> NoReturn:
    """Raise, in place of a Grid's method, once the engine is gone."""
    raise FedalignError("Flower's engine has stopped")


def _innermost(error: BaseException) -> str:
    """Return the reason at the bottom of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _underscored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` with ``_`` for ``-`` in its keys, at every depth."""
    return {
        key.replace("-", "_"): _underscored(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }
