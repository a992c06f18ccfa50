"""The path of a run folder, and whether its run has finished."""

from __future__ import annotations

import json
from pathlib import Path

from fedalign.settings.config import Config

CHECKPOINT = "checkpoint.safetensors"


def folder_of(config: Config) -> Path:
    """Return the path of the run folder: `<out>/<name>-<digest of the settings>`."""
    return Path(config.out).expanduser() / f"{config.name}-{config.digest()}"


def is_finished(folder: Path) -> bool:
    """Return whether the run in this folder has finished; False if there is none."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished"


def forget(config: Config) -> None:
    """Remove the checkpoint of an unfinished run, so that it starts from round 1."""
    (folder_of(config) / CHECKPOINT).unlink(missing_ok=True)
