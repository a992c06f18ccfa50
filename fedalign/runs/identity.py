"""What a run is beside its settings: its code and its data, and whether they have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedalign import __version__
from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.federation.start import file_of
from fedalign.runs.paths import FINISHED, DamagedManifestError, folder_of, read_manifest
from fedalign.runs.sources import files_of, hashes, packages_of, tops_of
from fedalign.settings.config import Config

PHRASES = {
    "files": "{}",
    "packages": "package {}",
    "weights": "the weights {}",
    "data": "the {} data",
}
_known: dict[str, dict[str, str]] = {}  # by data part


def identity(federation: Federation) -> dict[str, Any]:
    """Return fedalign's version, the hashes of the user's files and of the data, for a manifest."""
    return _code(federation.config) | {"data": _digests(federation)}


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two identities, one phrase each; what was not noted is equal."""
    found = []
    if {"fedalign"} <= earlier.keys() & now.keys() and earlier["fedalign"] != now["fedalign"]:
        found.append(f"fedalign was {earlier['fedalign']} and is {now['fedalign']}")
    for key, what in PHRASES.items():
        if {key} <= earlier.keys() & now.keys():
            before, after = earlier[key], now[key]
            names = sorted(before.keys() | after.keys())
            found += [
                f"{what.format(name)} {_change(before.get(name), after.get(name))}"
                for name in names
                if before.get(name) != after.get(name)
            ]
    return found


def changes_since(config: Config) -> list[str]:
    """Return what has changed since a finished run of this configuration; empty if none has."""
    try:
        manifest = read_manifest(folder_of(config))
    except DamagedManifestError:
        return []
    if manifest is None or manifest["status"] != FINISHED or "identity" not in manifest:
        return []
    return changes(manifest["identity"], _code(config) | {"data": _data_of(config)})


def refuse_changed(configs: Iterable[Config]) -> None:
    """Raise `InputError` if code or data of a finished run have changed since."""
    changed = {folder_of(config): found for config in configs if (found := changes_since(config))}
    if not changed:
        return
    folder, found = next(iter(changed.items()))
    more = f" (and {len(changed) - 1} more such runs)" if len(changed) > 1 else ""
    raise InputError(
        f"{folder} is finished, but since then {'; '.join(found)}{more}: "
        "give --again to repeat it, or --reuse to keep its results"
    )


def _code(config: Config) -> dict[str, Any]:
    file = file_of(config.model)
    own = {str(file): file} if file is not None and file.is_file() else {}
    return {
        "fedalign": __version__,
        "files": hashes(files_of(config)),
        "packages": packages_of(tops_of(config)),
        "weights": hashes(own),
    }


def _digests(federation: Federation) -> dict[str, str]:
    parts = {"training": federation.reference, "test": federation.test}
    return {name: _digest(data) for name, data in parts.items() if data is not None}


def _data_of(config: Config) -> dict[str, str]:
    """Return the digests of the data that a configuration names, which are read once."""
    key = json.dumps(config.data.dump(), sort_keys=True)
    if key not in _known:
        try:
            _known[key] = _digests(Federation(config.model_copy(update={"device": "cpu"})))
        except InputError:  # they are not here any more
            _known[key] = {}
    return _known[key]


def _digest(data: Dataset) -> str:
    """Return 16 hex digits of SHA-256 of all examples; where they were read from does not count."""
    found = hashlib.sha256()
    for key, value in sorted(data.to_numpy().items()):
        if isinstance(value, np.ndarray):
            found.update(f"{key} {value.dtype} {value.shape}".encode())
            found.update(np.ascontiguousarray(value).data)
        elif key != "source":
            found.update(f"{key} {value}".encode())
    return found.hexdigest()[:16]


def _change(before: str | None, after: str | None) -> str:
    if before is None:
        return "is new"
    return "is gone" if after is None else f"has changed ({before} to {after})"
