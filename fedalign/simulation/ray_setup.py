"""Settings and environment of Ray and its workers, for fedalign's engine and for Flower's."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedalign.errors import InputError
from fedalign.simulation.app import FlowerApp

MAX_FOLDER = 35  # characters; Ray appends up to 72
SHORT = "/tmp"
_BANNER = "`run_simulation` function is deprecated"


def full_backend_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backend config with defaults filled in, and `_` for `-` in all keys.

    Defaults: one CPU and no GPU per client, all CPUs of this machine, loopback only, no dashboard,
    only errors in Ray's log. For a cluster at `init_args.address`, CPUs and addresses are its own.
    `num_gpus: auto` is 1 if this machine has a GPU, else 0.
    """
    config = underscored(given)
    init_args: dict[str, Any] = {"include_dashboard": False, "logging_level": "ERROR"}
    if "address" not in config.get("init_args", {}):
        init_args |= {"num_cpus": os.cpu_count() or 1, "_node_ip_address": "127.0.0.1"}
        init_args |= _short_folder()
        # Memory that is free is used again at once: new pages would take far longer than copying.
        init_args |= {"_system_config": {"free_objects_batch_size": 1}}
    defaults = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": init_args}
    full = {**config, **{key: table | config.get(key, {}) for key, table in defaults.items()}}
    if full["client_resources"]["num_gpus"] == "auto":
        from fedalign.network.device import count_gpus  # imports torch, which an app may not need

        full["client_resources"]["num_gpus"] = min(1, count_gpus())
    return full


def require_ray() -> None:
    """Raise `InputError` if Ray is not installed."""
    if find_spec("ray") is None:
        cure = "pip install 'flwr[simulation]', or give simulation.backend=inline"
        raise InputError(f"simulation.backend: Ray is not installed: {cure}")


def threads_of(client_resources: Mapping[str, float]) -> int:
    """Return on how many threads PyTorch computes a client, wherever that runs: `num_cpus`."""
    return max(1, int(client_resources.get("num_cpus", 1)))


def count_visible_gpus() -> int:
    """Return how many NVIDIA GPUs this process may use; imports nothing that uses them."""
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def _short_folder() -> dict[str, str]:
    """Return the setting of a folder for Ray's sockets, whose paths may have 107 characters.

    Raises:
        InputError: the folder for temporary files has a longer name, and `/tmp` cannot be used.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(folder)) <= MAX_FOLDER:
        return {}
    if not os.access(SHORT, os.W_OK):
        raise InputError(
            f"TMPDIR: {folder!r} is too long for Ray's sockets, which need at most {MAX_FOLDER} "
            f"characters, and {SHORT} cannot be written to"
        )
    return {"_temp_dir": f"{SHORT}/ray-{os.getuid()}"}


@contextmanager
def surroundings(app: FlowerApp) -> Iterator[None]:
    """Let Ray's workers import `app`, and hide a deprecation warning of Flower, in this context."""
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


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Undo that Ray replaces the handler of SIGTERM, and lose no signal while Ray starts.

    Ray's handler raises `SystemExit`. Python drops what any handler raises in a callback, such as
    those of a fork, so signals are also noted in a pipe. Those that had no effect are raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, (reader, writer) = signal.getsignal(signal.SIGTERM), os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    noted = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    ended: SystemExit | None = None
    try:
        yield
    except SystemExit as error:
        ended = error
    finally:
        signal.set_wakeup_fd(noted)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        with open(reader, "rb") as pipe:  # noqa: PTH123 - not a path
            came = pipe.read() or b""
    for number in (signal.SIGTERM, signal.SIGINT):
        if number in came:
            signal.raise_signal(number)
    if ended is not None:
        raise ended


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record is anything but the deprecation of `run_simulation`."""
    return _BANNER not in record.getMessage()


def underscored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with `_` for `-` in its keys, at every depth."""
    return {
        key.replace("-", "_"): underscored(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }
