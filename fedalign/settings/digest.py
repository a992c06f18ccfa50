"""The settings on which the results of a run depend, by which its folder is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fedalign.settings.sections import STATISTICS_BATCH
from fedalign.settings.tasks import Tasks

# Where and how a run is computed is no part of what it computes, nor is how long it waits, nor
# what it keeps.
NOT_IN_DIGEST = {
    *("name", "out", "checkpoint_every", "simulation", "trackers"),
    *("timeout", "min_available_nodes", "min_replies", "min_participation"),
    *("keep_models", "keep_best"),
}
NOT_IN_DIGEST_OF_EVALUATION = {"threads", "overlap"}

# Younger settings count only where they differ from these, so that older runs keep their names.
LATER = {
    "tf32": True,
    "deterministic": True,
    "stop_when": None,
    "patience": None,
    "per_client": None,
}
LATER_WITHIN: dict[str, dict[str, Any]] = {
    "data": {"classes": None},
    "partition": {"seed": None},
    "model": {"weights": None, "frozen": "", "adapters": None},
    "client": {
        **{"round_examples": None, "private": "", "lr_within_round": "constant", "warmup": 0.0},
        **{"label_smoothing": 0.0, "mixup": 0.0, "augment": []},
    },
    "evaluation": {
        **{"fusions": [], "corruptions": [], "severity": [3], "corrupted_examples": 1000},
        **{"server_share": 0.0, "tasks": Tasks().model_dump()},
    },
}


def counted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a whole configuration on which the results of a run depend."""
    kept = {key: v for key, v in _younger(tree, LATER).items() if key not in NOT_IN_DIGEST}
    for place, usual in LATER_WITHIN.items():
        if isinstance(kept.get(place), dict):
            kept[place] = _younger(kept[place], usual)
    evaluation = dict(kept.get("evaluation", {}))
    for key in NOT_IN_DIGEST_OF_EVALUATION & evaluation.keys():
        del evaluation[key]
    evaluation["batch_size"] = evaluation.get("batch_size") or STATISTICS_BATCH
    return kept | {"evaluation": evaluation}


def compared(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counted settings with the younger ones at their usual values, in runs of any age.

    Otherwise a run that has one of them would not differ in it from a run that has none.
    """
    found = LATER | counted(tree)
    for place, usual in LATER_WITHIN.items():
        if isinstance(found.get(place), dict):
            found[place] = usual | found[place]
    return found


def digest(tree: Mapping[str, Any]) -> str:
    """Return 8 hex digits that name the counted settings of a whole configuration."""
    text = json.dumps(counted(tree), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _younger(table: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table without settings that have their usual value."""
    return {key: v for key, v in table.items() if key not in usual or v != usual[key]}
