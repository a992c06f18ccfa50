"""Start Ray on this machine, or join a cluster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from fedalign.errors import FedalignError, InputError, in_one_line
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.ray_lean import start_ray
from fedalign.simulation.ray_output import workers_heard
from fedalign.simulation.ray_setup import own_sigterm, surroundings
from fedalign.simulation.schedule import Schedule
from fedalign.simulation.shipping import leave_shared_memory

PASSED_ON = (
    "PYTHONPATH", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_LOG_LEVEL",
    "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip

SETTING = "simulation.address"
HEAD = ("gcs_server", "raylet")  # processes of Ray that it cannot do without
PAUSE = 1.0  # seconds between two looks at them


@contextmanager
def ray_for(app: FlowerApp, init_args: dict[str, Any], setting: str = SETTING) -> Iterator[None]:
    """Use the initialised Ray, or one that is started and stopped here; see `connect`."""
    with surroundings(app):
        own = not ray.is_initialized()
        logs = connect(init_args, setting) if own else None
        try:
            with workers_heard(logs) if logs else nullcontext():
                yield
        finally:
            leave_shared_memory()
            if own:
                ray.shutdown()


def watch_head(schedule: Schedule) -> None:
    """Close a schedule with an error when a process of a Ray that was started here dies.

    Ray itself would end this process after a minute, without giving it time to save anything.
    """
    head = {p: name for p in psutil.Process().children() if (name := _name(p)) in HEAD}
    while not schedule.closed:
        dead = [name for process, name in head.items() if not _name(process)]
        if dead and not schedule.closed:
            why = f"Ray's {dead[0]} has died, and no client can run without it"
            schedule.close(FedalignError(why))
        time.sleep(PAUSE)


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


def _name(process: psutil.Process) -> str:
    """Return the name of a process; "" if it has died."""
    with suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            return str(process.name())
    return ""


def connect(init_args: Mapping[str, Any], setting: str = SETTING) -> Path | None:
    """Start Ray here, or join a cluster and send it our environment, which it does not inherit.

    Args:
        init_args: of `ray.init`.
        setting: what names the address, for errors.

    Returns:
        The folder of logs that are to be printed; None if Ray prints them, or nobody shall.

    Raises:
        InputError: no cluster answers at the address, or only `RAY_ADDRESS` names one.
        FedalignError: Ray did not start, such as on a machine that is too busy.
    """
    address = init_args.get("address")
    if address is not None:
        _check_reachable(address, setting)
        passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        init_args = {"runtime_env": {"env_vars": passed}, **init_args}
    elif there := os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"RAY_ADDRESS: {there!r} names a Ray cluster, but simulation.address does not: give "
            "simulation.address to use it, or unset RAY_ADDRESS to start Ray on this machine"
        )
    try:
        with own_sigterm():
            logs = start_ray(init_args)
    except Exception as error:  # without a cause, whose traceback `flower-simulation` would show
        if address is None:
            raise FedalignError(f"Ray did not start: {in_one_line(error)}") from None
        raise InputError(f"{setting}: {address!r}: {in_one_line(error)}") from None
    return logs if init_args.get("log_to_driver", True) else None


def _check_reachable(address: str, setting: str) -> None:
    """Raise `InputError` if nothing listens at `host:port`; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return  # for example `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"{setting}: no Ray cluster answers at {address!r}") from error
