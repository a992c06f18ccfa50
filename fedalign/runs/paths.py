"""The path of a run folder, its manifest, and whether its run has finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedalign.runs.lock import locked
from fedalign.settings.config import Config

CHECKPOINT = "checkpoint.safetensors"
MANIFEST = "manifest.json"
MEMBERS = "runs.txt"  # in the folder of a sweep: the names of its run folders, which lie beside it
FINISHED = "finished"  # the status of a run that has all its results


class DamagedManifestError(ValueError):
    """A manifest that is not what was written into it."""


def folder_of(config: Config) -> Path:
    """Return the path of the run folder: `<out>/<name>-<digest of the settings>`."""
    return config.folder


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in a folder; None if there is none.

    Raises:
        DamagedManifestError: names the file and says why it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedManifestError(f"{path} is damaged: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("status"), str):
        raise DamagedManifestError(f"{path} is damaged: it has no status")
    if not _is_identity(manifest.get("identity", {})):
        raise DamagedManifestError(f"{path} is damaged: its identity is not what fedalign writes")
    return manifest


def _is_identity(found: Any) -> bool:
    """Return whether this may be what `identity` has written."""
    tables = ("files", "packages", "data")
    return isinstance(found, dict) and all(isinstance(found.get(key, {}), dict) for key in tables)


def is_finished(folder: Path) -> bool:
    """Return whether the run in this folder has finished; False if there is none, or no telling."""
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError:
        return False
    return manifest is not None and manifest["status"] == FINISHED


def adopting(config: Config) -> Config:
    """Return the configuration, named as a finished run of its settings that `out` already has."""
    own, end = folder_of(config), f"-{config.digest()}"
    if is_finished(own):
        return config
    others = (path for path in sorted(own.parent.glob(f"*{end}")) if is_finished(path))
    found = next(others, own).name.removesuffix(end)
    return config if found == config.name else config.model_copy(update={"name": found})


def limping(folder: Path) -> str | None:
    """Return what a finished run said about its clients if too few of them took part."""
    manifest = read_manifest(folder) or {}
    return str(manifest.get("warning")) if manifest.get("limped") else None


def forget(config: Config) -> None:
    """Remove the checkpoint of an unfinished run, so that it starts from round 1.

    Raises:
        FedalignError: the run is going on.
    """
    if (path := folder_of(config) / CHECKPOINT).exists():
        with locked(path.parent):
            path.unlink(missing_ok=True)
