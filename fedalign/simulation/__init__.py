"""Run a Flower app with simulated clients: find it, then `simulate` it on one of the engines."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fedalign.errors import InputError
from fedalign.simulation.allocator import keep_freed_memory
from fedalign.simulation.app import (
    FlowerApp,
    find_app,
    load_component,
    parse_run_config,
)
from fedalign.simulation.ray_setup import require_ray

if TYPE_CHECKING:
    from flwr.app import UserConfigValue

__all__ = [
    "BACKENDS",
    "FlowerApp",
    "find_app",
    "load_component",
    "parse_run_config",
    "simulate",
]

BACKENDS: dict[str, tuple[str, ...]] = {
    "auto": ("client_resources", "init_args"),
    "inline": ("client_resources",),
    "ray": ("client_resources", "init_args"),
    "flower": ("actor", "client_resources", "init_args"),
}
"""The keys that the backend config of each engine may have."""


def simulate(
    app: FlowerApp,
    num_supernodes: int,
    run_config: Mapping[str, UserConfigValue],
    *,
    backend: str = "auto",
    backend_config: Mapping[str, Any] | None = None,
    run_id: int | None = None,
) -> None:
    """Run a Flower app to its end; exceptions of its ServerApp are passed on unchanged.

    Args:
        app: what `find_app` returns. Its root becomes the first entry of `sys.path`.
        num_supernodes: number of clients, at least 1.
        run_config: settings for both halves of the app, which override the defaults of its
            manifest.
        backend: `"auto"` (in this process, and on Ray workers too as soon as that pays),
            `"inline"` (all clients in this process), `"ray"` (fedalign's engine on Ray workers) or
            `"flower"` (Flower's own engine, on Ray).
        backend_config: `client_resources`, of which `"inline"` uses the threads only; `init_args`
            for all but `"inline"`; and `actor` for `"flower"`.
        run_id: the run's id as the app sees it; by default random.

    Raises:
        InputError: an argument or the app cannot be used; nothing has been started.
        FedalignError: the engine failed.
    """
    if num_supernodes < 1:
        raise InputError(f"--num-supernodes: {num_supernodes} is not allowed; at least 1 is needed")
    if backend not in BACKENDS:
        raise _unknown("--backend", backend, BACKENDS)
    given = dict(backend_config or {})
    _check_backend_config(backend, given)
    settings = {**app.defaults, **run_config}
    keep_freed_memory()

    # Imported here because Flower is slow to import, and Ray even slower.
    if backend == "auto":
        from fedalign.simulation import auto

        auto.run(app, num_supernodes, settings, given, run_id)
    elif backend == "inline":
        from fedalign.simulation import inline

        inline.run(app, num_supernodes, settings, given, run_id)
    elif backend == "ray":
        require_ray()
        from fedalign.simulation import workers

        workers.run(app, num_supernodes, settings, given, run_id)
    else:
        require_ray()
        from fedalign.simulation import stock

        stock.run(app, num_supernodes, settings, given, run_id)


def _check_backend_config(backend: str, given: Mapping[str, Any]) -> None:
    """Raise `InputError` for a key that the engine does not know, or whose value is not a table."""
    place = f"--backend-config for {backend!r}"
    for key, value in given.items():
        if key.replace("-", "_") not in BACKENDS[backend]:
            raise _unknown(place, key, BACKENDS[backend])
        if not isinstance(value, Mapping):
            raise InputError(f"{place}: {key}: {value!r} is not a table of settings")


def _unknown(place: str, name: str, known: Collection[str]) -> InputError:
    """Return the error for an unknown name; it suggests the nearest of the known ones."""
    near = get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"{place}: {name!r} is not known{hint} ({', '.join(known) or 'none is'})")
