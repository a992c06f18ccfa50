"""The nodes of a federation: how many there are, which are present, and what they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from flwr.app import ConfigRecord


class Nodes(Protocol):
    """The nodes of a federation, simulated or remote.

    Attributes:
        population: the number of clients in the federation, present or not.
        train_examples: by partition id, the number of examples a client trains on.
        test_examples: by partition id, the number of examples a client evaluates on.
        hold_own_data: clients have data of their own, which the server knows nothing about.
        message_config: what every message to them must say, beside what the strategy says.
    """

    population: int
    train_examples: dict[int, int]
    test_examples: dict[int, int]
    hold_own_data: bool
    message_config: Mapping[str, Any]

    def present(self) -> Mapping[int, int]:
        """Return the node id by partition id of the nodes present now, in order of partitions."""


class SimulatedNodes:
    """Nodes that are always present, and hold what the partition gives them.

    Args:
        node_ids: by partition id.
        train_examples: of each partition, in the order of `node_ids`.
        test_examples: of each partition, in the same order.
        message_config: what every message says.
    """

    hold_own_data = False

    def __init__(
        self,
        node_ids: Mapping[int, int],
        train_examples: Collection[int],
        test_examples: Collection[int],
        message_config: Mapping[str, Any] = {},
    ):
        self.message_config = message_config
        self._node_ids, self.population = node_ids, len(node_ids)
        self.train_examples = dict(zip(node_ids, train_examples, strict=True))
        self.test_examples = dict(zip(node_ids, test_examples, strict=True))

    def present(self) -> Mapping[int, int]:
        """Return all of them."""
        return self._node_ids


def config_for(nodes: Nodes) -> ConfigRecord:
    """Return a fresh configuration for a message to nodes; strategies write into it."""
    return ConfigRecord(dict(nodes.message_config))
