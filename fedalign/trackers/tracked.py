"""What a tracker is told of a run, and the packages that trackers need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from fedalign.errors import InputError


@dataclass(frozen=True)
class Tracked:
    """A run as its tracker sees it.

    Attributes:
        folder: the run folder, whose name is that of the run, such as `quickstart-1b2c3d4e`.
        settings: the whole configuration under dotted keys.
        resumed_after: the round from whose end the run goes on; 0 if it begins.
        told: the last round that the tracker was told of, which may be after `resumed_after`.
        notes: what the tracker keeps in the run folder: plain values, written after each call, and
            here again when the run goes on.
    """

    folder: Path
    settings: Mapping[str, Any]
    resumed_after: int = 0
    told: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


def needed(module: str, tracker: str) -> Any:
    """Return a module that a tracker needs.

    Raises:
        InputError: it is not installed; names the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"trackers: {tracker!r} cannot be used ({error}); "
            f"pip install 'fedalign[{tracker}]' installs what it needs"
        ) from None
