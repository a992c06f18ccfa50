"""The contexts of the clients that train in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import overload

from flwr.app import Context, RecordDict


def place_of(context: Context) -> tuple[int, int]:
    """Return a client's partition and the number of partitions, 0 where nothing has been dealt.

    A node that holds its own data may have no partition; its node id stands for it.
    """
    node = context.node_config
    partition, count = node.get("partition-id", context.node_id), node.get("num-partitions", 0)
    return int(partition), int(count)


class Contexts(Sequence[Context]):
    """Contexts that are made when they are asked for: a client without state never needs its own.

    Args:
        make: returns the context of a node, with its stored state.
        places: by node, what `place_of` returns of its context.
        stored: by node, the states that are not empty.
    """

    def __init__(
        self,
        make: Callable[[int], Context],
        places: Mapping[int, tuple[int, int]],
        stored: Mapping[int, RecordDict],
    ):
        self._make, self._stored = make, stored
        self.nodes, self.places = list(places), list(places.values())
        self._made: dict[int, Context] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    @overload
    def __getitem__(self, place: int) -> Context: ...
    @overload
    def __getitem__(self, place: slice) -> list[Context]: ...
    def __getitem__(self, place: int | slice) -> Context | list[Context]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        node = self.nodes[place]
        if node not in self._made:
            self._made[node] = self._make(node)
        return self._made[node]

    def has_state(self, place: int) -> bool:
        """Return whether a client has stored anything."""
        return self.nodes[place] in self._made or self.nodes[place] in self._stored

    def states(self) -> dict[int, RecordDict]:
        """Return the clients' states by node."""
        nothing = RecordDict()
        return {
            node: self._made[node].state if node in self._made else self._stored.get(node, nothing)
            for node in self.nodes
        }

    def restore(self) -> None:
        """Forget what clients have done to their contexts."""
        self._made.clear()


def places_of(contexts: Sequence[Context]) -> Sequence[tuple[int, int]]:
    """Return `place_of` each context."""
    return contexts.places if isinstance(contexts, Contexts) else list(map(place_of, contexts))


def state_at(contexts: Sequence[Context], place: int) -> RecordDict | None:
    """Return a client's state, which is not to be changed; None if it is empty."""
    if isinstance(contexts, Contexts) and not contexts.has_state(place):
        return None
    return contexts[place].state or None


def states_of(contexts: Sequence[Context]) -> dict[int, RecordDict]:
    """Return the clients' states by node."""
    if isinstance(contexts, Contexts):
        return contexts.states()
    return {own.node_id: own.state for own in contexts}
