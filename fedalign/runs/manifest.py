"""Facts that a result needs beside it: versions, seed, commit, hardware, data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import torch

from fedalign import __version__
from fedalign.federation.federation import Federation
from fedalign.server.nodes import SimulatedNodes
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME


def manifest(
    config: Config, federation: Federation, members: SimulatedNodes, engine: str, stack: int
) -> dict[str, Any]:
    """Return what `manifest.json` says of a run when it starts.

    `config` has the number of clients that take part, `federation` what the run config says.
    """
    network = federation.network
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": config.seed,
        "settings": config.digest(),
        "commit": _commit(),
        "engine": engine,
        "stack": stack,
        "partial_aggregation": config.simulation.partial_aggregation,
        "versions": {
            "fedalign": __version__,
            "python": platform.python_version(),
            "flwr": flwr.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": str(network.device),
            "gpu": torch.cuda.get_device_name(network.device)
            if network.device.type == "cuda"
            else None,
        },
        "data": {
            "source": _source(federation, members),
            "train_examples": sum(members.sizes.values()) if members.own else len(federation.train),
            "test_examples": len(federation.test or ()),
            "client_examples": _range(members.sizes.values()),
            "client_tests": _range(members.tests.values()),
        },
        "model": {"name": config.model.name, "parameters": network.layout.num_parameters},
        "num_clients": members.population,
    }


def _source(federation: Federation, members: SimulatedNodes) -> str:
    if not members.own:
        return federation.train.source
    tests = "" if federation.test is None else f"; the server's: {federation.test.source}"
    return f"what each node has of its own{tests}"


def _range(sizes: Collection[int]) -> dict[str, int]:
    return {"min": min(sizes), "max": max(sizes)}


def _commit() -> str | None:
    """Return the checkout's commit, `+` when files have changed; None where there is no git."""
    if not (HOME / ".git").exists():  # an installed copy may lie inside somebody else's repository
        return None
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40"],
            cwd=HOME,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
