"""The personalised view: how the accuracies of the clients on their own data spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedalign.settings.sections import Evaluation

SPREAD = ("mean", "std", "worst10")


def spread(clients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return mean, standard deviation and worst tenth of the clients' accuracies, for each metric.

    Every client counts once, however many examples it has. `_std` is that of a population (divisor
    n); `_worst10` is the mean over the worst 10 % of the clients, rounded down but at least one:
    the fairness of Li et al. 2020 (q-FFL, arXiv 1905.10497, section 4) and of their public code.
    """
    found: dict[str, float] = {}
    for metric in ("accuracy", "tuned_accuracy"):
        accuracies = np.sort([own[metric] for own in clients if metric in own])
        if len(accuracies):
            worst = accuracies[: max(1, len(accuracies) // 10)]
            values = (accuracies.mean(), accuracies.std(), worst.mean())
            found |= {f"{metric}_{k}": float(v) for k, v in zip(SPREAD, values, strict=True)}
    return found


def columns(settings: Evaluation) -> list[str]:
    """Return the columns of `metrics.csv` that clients fill when they evaluate."""
    if not settings.client_fraction:
        return []
    kinds = ["client_", "client_tuned_"] if settings.finetune_epochs else ["client_"]
    ends = ["loss", "accuracy", *(f"accuracy_{k}" for k in SPREAD)]
    return [kind + end for kind in kinds for end in ends]
