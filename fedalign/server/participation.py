"""Who takes part in a run, and why others do not: what a run that limps says at its end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from fedalign.errors import FedalignError

MAX_REASONS = 20  # in the manifest
MAX_CHARACTERS = 200  # of a reason
NO_ANSWER = "no answer in time"
USED = "used"


class LimpingRunError(FedalignError):
    """A run has finished, but fewer clients than `min_participation` ever took part."""

    exit_code = 3


@dataclass
class Participation:
    """The clients of a run so far, by partition.

    Attributes:
        asked: were sampled to train at least once.
        used: had at least one model that was aggregated.
        failures: how often a client was asked and its model not used, by reason; reasons that
            differ only in their numbers count together, under the first.
    """

    asked: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)

    def add(
        self, asked: Collection[int], used: Collection[int], why: Mapping[int, str]
    ) -> dict[int, str]:
        """Count a round, and return what became of each client: `USED`, or the reason why not.

        `why` has the reasons of clients that were not used, where known.
        """
        self.asked |= set(asked)
        self.used |= set(used)
        known = {_without_numbers(reason): reason for reason in self.failures}
        outcomes = dict.fromkeys(sorted(asked), USED)
        for client in sorted(set(asked) - set(used)):
            outcomes[client] = reason = why.get(client, NO_ANSWER)[:MAX_CHARACTERS]
            self.failures[known.setdefault(_without_numbers(reason), reason)] += 1
        return outcomes

    def facts(self) -> dict[str, Any]:
        """Return the counts for the manifest."""
        never = sorted(self.asked - self.used)
        return {
            "sampled": len(self.asked),
            "took_part": len(self.used),
            "never_took_part": never,
            "failures": dict(self.failures.most_common(MAX_REASONS)),
        }

    def line(self) -> str | None:
        """Return what went wrong with clients, in one line; None if nothing did."""
        if not self.failures:
            return None
        reasons = self.failures.most_common()
        shown = "; ".join(f"{count} times {reason}" for reason, count in reasons[:3])
        more = f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
        return f"{len(self.used)} of {len(self.asked)} clients took part; failures: {shown}{more}"

    def is_below(self, share: float) -> bool:
        """Return whether fewer than this share of the sampled clients ever took part."""
        return len(self.used) < share * len(self.asked)

    def state(self) -> dict[str, Any]:
        """Return the counts as a checkpoint stores them, see `restored`."""
        return {
            "asked": sorted(self.asked),
            "used": sorted(self.used),
            "failures": dict(self.failures),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Participation:
        """Return the counts that `state` returned."""
        return cls(set(state["asked"]), set(state["used"]), Counter(state["failures"]))


def suggestion(share: float, sampled: int) -> str:
    """Return which setting would have stopped a run with too few clients."""
    return f"min_replies={max(2, ceil(share * sampled))} stops such a run in its first round"


def _without_numbers(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", reason)
