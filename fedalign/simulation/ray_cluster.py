"""Start Ray on this machine, or join a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from fedalign.errors import InputError
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.ray_lean import start_ray
from fedalign.simulation.ray_output import workers_heard
from fedalign.simulation.ray_setup import own_sigterm, surroundings

PASSED_ON = (
    "PYTHONPATH", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_LOG_LEVEL",
    "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip


@contextmanager
def ray_for(app: FlowerApp, init_args: dict[str, Any]) -> Iterator[None]:
    """Use the initialised Ray, or one that is started and stopped here."""
    with surroundings(app):
        own = not ray.is_initialized()
        logs = _connect(init_args) if own else None
        try:
            with workers_heard(logs) if logs else nullcontext():
                yield
        finally:
            if own:
                ray.shutdown()


def room_for(resources: Mapping[str, float]) -> int:
    """Return the number of workers that fit into the cluster; `InputError` if none does."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    counts = [
        int(there.get(names.get(key, key), 0) / amount)
        for key, amount in resources.items()
        if amount
    ]
    if not counts or min(counts) < 1:
        have = ", ".join(f"{key}: {there.get(name, 0):g}" for key, name in names.items())
        raise InputError(f"client_resources: {dict(resources)} does not fit; Ray has {have}")
    return min(counts)


def _connect(init_args: dict[str, Any]) -> Path | None:
    """Start Ray here, or join a cluster and send it our environment, which it does not inherit.

    Returns:
        The folder of logs that are to be printed; None if Ray prints them, or nobody shall.
    """
    if "address" in init_args:
        _check_reachable(init_args["address"])
        passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        init_args = {"runtime_env": {"env_vars": passed}, **init_args}
    with own_sigterm():
        logs = start_ray(init_args)
    return logs if init_args.get("log_to_driver", True) else None


def _check_reachable(address: str) -> None:
    """Raise `InputError` if nothing listens at `host:port`; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return  # for example `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"simulation.address: no Ray cluster answers at {address!r}") from error
