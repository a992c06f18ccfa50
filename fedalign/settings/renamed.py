"""Settings that have another name than in the version before, which is still accepted.

A part of one's own may have an option with such a name; there it means that option.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from functools import cache
from typing import Any

from fedalign.errors import BadValueError

SETTINGS = {"simulation": {"cohort": "stack", "fuse": "partial_aggregation"}}
OPTIONS = {"strategies": {"counts": "sampling", "value": "fixed_value", "slow": "fixed_lr_scale"}}

log = logging.getLogger("fedalign")


def current_keys(
    table: Mapping[str, Any], renamed: Mapping[str, str], known: Container[str], place: str
) -> dict[str, Any]:
    """Return a table with its old keys replaced by the new ones, and a warning for each.

    Args:
        table: a section of a configuration.
        renamed: new keys by old ones.
        known: the keys that the section may have; those are never replaced.
        place: where the section stands.

    Raises:
        BadValueError: a setting is given by both its names.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        new = renamed.get(key, key) if key not in known else key
        if new != key and new in known:
            if new in table:
                reason = f"this is called {place}.{new} now, and both are given"
                raise BadValueError(f"{place}.{key}", reason)
            _warn(f"{place}.{key}", f"{place}.{new}")
            key = new
        found[key] = value
    return found


def current_key(key: str) -> str:
    """Return the new name of a dotted key, `strategy.base.counts` say, if the old one is meant."""
    table, _, leaf = key.rpartition(".")
    renamed = OPTIONS["strategies"] if key.startswith("strategy.") else SETTINGS.get(table, {})
    return f"{table}.{renamed[leaf]}" if leaf in renamed else key


@cache
def _warn(old: str, new: str) -> None:
    """Warn once in a process, however often the setting is read."""
    log.warning("%s is called %s now; the old name will be refused in the next version", old, new)
