"""The manifest of a run: versions, seed, commit, hardware and data that its results depend on."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import torch

from fedalign import __version__
from fedalign.federation.federation import Federation
from fedalign.network.device import gpu_facts
from fedalign.runs.identity import identity
from fedalign.runs.sources import commit_of, files_of, repositories
from fedalign.server.nodes import Nodes
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.training.stacks import StackChoice
from fedalign.training.trial import trial

BESIDE = ("ray", "torchvision", "scipy", "pandas", "safetensors")
log = logging.getLogger("fedalign")


def manifest(
    config: Config, federation: Federation, nodes: Nodes, engine: str, stack: StackChoice
) -> dict[str, Any]:
    """Return the content of `manifest.json` at the start of a run.

    Args:
        config: of the run, with the number of clients that take part.
        federation: of the run.
        nodes: the nodes that take part.
        engine: the grid's class.
        stack: number of clients trained as one stack, and why.
    """
    network = federation.network
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": config.seed,
        "settings": config.digest(),
        "commit": commit_of(HOME) if (HOME / ".git").exists() else None,  # else somebody else's
        "repositories": repositories(files_of(config)),
        "identity": identity(federation),
        "engine": engine,
        "stack": stack.size,
        "stack_reason": stack.reason,
        "mixes_one_by_one": network.mixing.reason if config.evaluation.alphas else "",
        "partial_aggregation": config.simulation.partial_aggregation,
        "versions": _versions(),
        "hardware": _hardware(federation),
        "data": _data(federation, nodes),
        "model": _model(federation),
        "num_clients": nodes.population,
    }


def _model(federation: Federation) -> dict[str, Any]:
    network, start = federation.network, federation.start
    facts: dict[str, Any] = {
        "name": federation.config.model.name,
        "parameters": network.layout.num_parameters,
    }
    if fixed := federation.num_constants:
        facts["constants"] = fixed
    if start.file:
        facts |= {"weights": str(start.file), "anew": start.anew}
    return facts


def _versions() -> dict[str, str]:
    """Return the versions of what computes, and of what is installed beside it."""
    beside = {name: version(name) for name in BESIDE if find_spec(name)}
    return beside | {
        "fedalign": __version__,
        "python": platform.python_version(),
        "flwr": flwr.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _hardware(federation: Federation) -> dict[str, Any]:
    device = federation.network.device
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": str(device),
        "gpu": _gpu(federation) if device.type == "cuda" else None,
    }


def _gpu(federation: Federation) -> dict[str, Any]:
    """Return all that the bits of a result depend on, on a GPU, beside the seed and PyTorch."""
    config, found = federation.config, trial(federation)
    if missing := ", ".join(found.not_reproducible):
        log.warning("two runs may differ, since nothing deterministic exists for %s", missing)
    return gpu_facts(federation.network.device) | {
        "precision": config.precision,
        "tf32": config.tf32,
        "deterministic": config.deterministic,
        **asdict(found),
    }


def _data(federation: Federation, nodes: Nodes) -> dict[str, Any]:
    return {
        "source": _source(federation, nodes),
        "train_examples": _train_examples(federation, nodes),
        "test_examples": len(federation.test or ()),
        "client_examples": _range(nodes.train_examples.values()),
        "client_tests": _range(nodes.test_examples.values()),
        **federation.spec.to_config(),
    }


def _source(federation: Federation, nodes: Nodes) -> str:
    if not nodes.hold_own_data:
        return federation.train.source
    tests = "" if federation.test is None else f"; the server's: {federation.test.source}"
    return f"each node's local data{tests}"


def _train_examples(federation: Federation, nodes: Nodes) -> int:
    if nodes.hold_own_data:
        return sum(nodes.train_examples.values())
    return len(federation.train)


def _range(sizes: Collection[int]) -> dict[str, int]:
    return {"min": min(sizes), "max": max(sizes)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
