"""Explains why Flower's strategies could not average what the clients of an app sent."""

from __future__ import annotations

import traceback
from typing import Any

MAX_NAMED = 3  # nodes


def weightless(error: BaseException | None) -> str | None:
    """Return that all replies have the weight 0, if that is why a mean of Flower's failed.

    Flower itself divides by their sum, and names neither the round nor the metric. Both are read
    from the frames of its functions.
    """
    found: dict[str, Any] = {}
    if isinstance(error, ZeroDivisionError):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").startswith("flwr.serverapp.strategy"):
                found |= frame.f_locals
    if not {"server_round", "valid_replies", "weighting_metric_name"} <= found.keys():
        return None
    nodes = [str(reply.metadata.src_node_id) for reply in found["valid_replies"]]
    more = ", …" if len(nodes) > MAX_NAMED else ""
    return (
        f"round {found['server_round']}: {found['weighting_metric_name']!r} is 0 in all "
        f"{len(nodes)} replies, which Flower's strategy weights by it (nodes "
        f"{', '.join(nodes[:MAX_NAMED])}{more})"
    )
