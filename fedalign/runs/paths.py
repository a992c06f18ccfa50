"""Where a run lies on disk, and how far it came."""

from __future__ import annotations

import json
from pathlib import Path

from fedalign.settings.config import Config

CHECKPOINT = "checkpoint.safetensors"


def folder_of(config: Config) -> Path:
    """Return where the run's results go."""
    return Path(config.out).expanduser() / f"{config.name}-{config.digest()}"


def is_finished(folder: Path) -> bool:
    """Return whether a run folder holds a run that came to its end."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished"


def forget(config: Config) -> None:
    """Remove the checkpoint of an unfinished run, which then starts from nothing."""
    (folder_of(config) / CHECKPOINT).unlink(missing_ok=True)
