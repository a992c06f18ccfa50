"""The clients' algorithms: one for all, or each client's with options of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from fedalign.errors import InputError
from fedalign.settings.client_contracts import ClientAlgorithm
from fedalign.settings.config import Config
from fedalign.settings.registry import Part, options, traits


class Algorithms:
    """The client algorithms of a run; those with the same options are one object.

    `config` is the run's.
    """

    def __init__(self, config: Config):
        self._config = config
        self._parts: dict[int, Part] = {}
        self._found: dict[int, tuple[ClientAlgorithm, ClientAlgorithm]] = {}
        self._built: dict[str, ClientAlgorithm] = {}

    def of(self, partition: int) -> ClientAlgorithm:
        """Return the algorithm of one client."""
        return self._both(partition)[0]

    def of_stack(self, partition: int) -> ClientAlgorithm:
        """Return the algorithm that trains a client in a stack of such that have the same one.

        It has a client's own options, but for those that `Stack.algorithms` tell it.
        """
        return self._both(partition)[1]

    def tuner(self, partition: int) -> ClientAlgorithm:
        """Return a client's with the epochs of fine-tuning, `evaluation.finetune_epochs`."""
        part, epochs = self._part(partition), self._config.evaluation.finetune_epochs
        if "epochs" not in part.options:
            raise InputError(
                f"evaluation.finetune_epochs: client algorithm {part.name!r} has no option 'epochs'"
            )
        return self._build(part, epochs=epochs)

    def epochs(self, partition: int) -> int:
        """Return the epochs that a client trains in a round; 1 if its algorithm has none."""
        epochs: int = getattr(self.of(partition), "epochs", 1)  # the protocol's check is slow
        return epochs

    def most_examples(self, partition: int) -> int | None:
        """Return how many examples a client trains on in a round, at most; None: any number."""
        if "round_examples" in self._known:  # an option of the algorithm, then
            return None
        count: int | None = self._part(partition).options.get("round_examples")
        return count

    @property
    def different(self) -> list[ClientAlgorithm]:
        """The algorithms of all clients, each once, in the order of clients."""
        return self._each_once(self.of)

    @property
    def of_stacks(self) -> list[ClientAlgorithm]:
        """The algorithms of all stacks, each once."""
        return self._each_once(self.of_stack)

    def _each_once(self, of: Callable[[int], ClientAlgorithm]) -> list[ClientAlgorithm]:
        numbers = range(self._config.num_clients if self._config.per_client else 1)
        return list({id(own): own for own in map(of, numbers)}.values())

    @cached_property
    def _known(self) -> set[str]:
        """The options that the algorithm itself has."""
        return set(options("clients", self._config.client.name))

    def _both(self, partition: int) -> tuple[ClientAlgorithm, ClientAlgorithm]:
        key = partition if self._config.per_client else 0
        if key not in self._found:
            part, usual = self._part(partition), self._config.client
            told = traits("clients", part.name).stacked_options
            common = {key: usual.options[key] for key in told if key in usual.options}
            self._found[key] = self._build(part), self._build(part, **common)
        return self._found[key]

    def _part(self, partition: int) -> Part:
        if not self._config.per_client:
            return self._config.client
        if partition not in self._parts:
            self._parts[partition] = self._config.client_of(partition)
        return self._parts[partition]

    def _build(self, part: Part, **others: Any) -> ClientAlgorithm:
        own = {key: value for key, value in part.options.items() if key in self._known}
        part = replace(part, options=own | others)
        key = json.dumps(part.dump(), sort_keys=True)
        if key not in self._built:
            self._built[key] = part.build()
        return self._built[key]
