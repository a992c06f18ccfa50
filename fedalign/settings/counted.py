"""The settings on which the results of a run depend, which name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedalign.settings.sections import STATISTICS_BATCH

# Where and how a run is computed is no part of what it computes, nor is how long it waits, nor
# what it keeps.
NOT_IN_DIGEST = {
    *("name", "out", "checkpoint_every", "simulation", "trackers"),
    *("timeout", "min_available_nodes", "min_replies", "min_participation"),
    *("keep_models", "keep_best"),
}

NOT_IN_DIGEST_OF_EVALUATION = {"threads", "overlap"}

# Younger settings count only where they differ from these, so that older runs keep their names.
LATER = {"tf32": True, "deterministic": True, "stop_when": None, "patience": None}
LATER_OPTIONS: dict[str, dict[str, Any]] = {
    "partition": {"seed": None},
    "client": {"private": ""},
    "model": {"weights": None, "frozen": "", "adapters": None},
    "data": {"classes": None},
}
LATER_OF_EVALUATION = {
    "fusions": [],
    "corruptions": [],
    "severity": [3],
    "corrupted_examples": 1000,
}


def counted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a whole configuration on which the results of a run depend."""
    usual = {key for key, value in LATER.items() if tree.get(key) == value}
    kept = {key: value for key, value in tree.items() if key not in NOT_IN_DIGEST | usual}
    for place, later in LATER_OPTIONS.items():
        if isinstance(own := kept.get(place), dict):
            usual = {key for key, value in later.items() if own.get(key) == value}
            kept[place] = {key: value for key, value in own.items() if key not in usual}
    evaluation = {
        key: value
        for key, value in tree.get("evaluation", {}).items()
        if key not in NOT_IN_DIGEST_OF_EVALUATION and LATER_OF_EVALUATION.get(key, ...) != value
    }
    evaluation["batch_size"] = evaluation.get("batch_size") or STATISTICS_BATCH
    return kept | {"evaluation": evaluation}
