"""A process that runs workloads for `gpu_check.py`: jobs in, results out, one JSON a line each.

A job has an `engine` (`plain`, `jax`, `profile` or one of fedalign's), the `settings` of a run, and
a folder `out` that gets the seconds of each round as soon as it is over. A process runs one
job after the other, so that what it imported, and the data that it made, are paid for once.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure
from safetensors.numpy import load_file

from fedalign.commands.running import run
from fedalign.network.graphs import free_memory
from fedalign.settings.config import Config, read

MB = 1e6


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job; return its peaks of memory and what its engine has to say."""
    config = read(None, job["settings"] | {"out": job["out"]})
    _forget_peaks()
    found = ENGINES.get(job["engine"], ours)(config)
    return {"host_mb": _host_peak(), "gpu_mb": _gpu_peak()} | found


def ours(config: Config) -> dict[str, Any]:
    """Run a configuration; return the hash of its final model."""
    file, errors = Path(config.out, "whole.yaml"), io.StringIO()
    file.write_text(yaml.safe_dump(config.model_dump()), "utf-8")
    try:
        with redirect_stderr(errors):
            run(str(file))
    except SystemExit:
        raise RuntimeError(errors.getvalue().strip()) from None
    finally:
        print(errors.getvalue(), file=sys.stderr)
    (model,) = Path(config.out).glob("*/model.safetensors")
    digest = hashlib.sha256()
    for name, array in sorted(load_file(model).items()):
        digest.update(name.encode() + array.tobytes())
    return {"hash": digest.hexdigest()[:12]}


def plain(config: Config) -> dict[str, Any]:
    """Run the plain loop."""
    from plain_loop import rounds_of

    return _log(config, rounds_of)


def jax(config: Config) -> dict[str, Any]:
    """Run the rounds in JAX; return its peak of memory, which PyTorch does not see."""
    from jax import local_devices
    from jax_round import rounds_of

    found = _log(config, rounds_of)
    memory = local_devices()[0].memory_stats() or {}
    return found | {"gpu_mb": memory.get("peak_bytes_in_use", 0) / MB}


def profile(config: Config) -> dict[str, Any]:
    """Return the number of launches and the host's time, of a round of fedalign's."""
    from profile_round import profiled

    return profiled(config)


ENGINES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "plain": plain,
    "jax": jax,
    "profile": profile,
}


def _log(config: Config, rounds_of: Callable[[Config], Any]) -> dict[str, Any]:
    """Run rounds; append the seconds of each to a file, where it has any."""
    accuracy = 0.0
    for seconds, reached, _ in rounds_of(config):
        accuracy = reached
        with Path(config.out, "seconds").open("a") as file:
            print("" if seconds is None else seconds, file=file)
    return {"accuracy": accuracy}


def _forget_peaks() -> None:
    """Start new peaks of memory."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        free_memory()
        torch.cuda.reset_peak_memory_stats()


def _host_peak() -> float:
    """Return the peak of this process' resident memory in MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / MB


def _gpu_peak() -> float:
    """Return the peak of GPU memory that this process' PyTorch reserved, in MB; 0 without one."""
    return torch.cuda.max_memory_reserved() / MB if torch.cuda.is_available() else 0.0


def serve() -> None:
    """Run the jobs that come in; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # The picture of who has what takes a second.
    Figure.savefig = lambda *_, **__: None  # type: ignore[method-assign]
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            answer = run_job(json.loads(line))
        except Exception as error:  # the next job may work
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
