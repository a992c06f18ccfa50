"""What several settings of a command mean: `partition.alpha=0.1,0.5 seed=0,1,2` is six runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedalign.settings.config import Config


def combined(
    config: str, overrides: list[str], out: str | None, trackers: list[str] | None = None
) -> list[Config]:
    """Return a configuration for each combination of the overrides' comma-separated values."""
    from fedalign.settings.config import read
    from fedalign.settings.sources import combinations, parse_choices

    fixed: dict[str, object] = {} if out is None else {"out": out}
    fixed |= {"trackers": trackers} if trackers else {}
    found = [read(config, chosen | fixed) for chosen in combinations(parse_choices(overrides))]
    if any(own.stop_when or own.patience or own.keep_best for own in found):
        from fedalign.runs.stopping import check_metrics  # imports torch

        for own in found:
            check_metrics(own)
    return found
