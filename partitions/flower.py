"""Partitioners of the package flwr-datasets, which divide a Hugging Face data set."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from fedalign.errors import InputError
from partitions import Indices
from partitions.sizes import equal

HOME = "flwr_datasets.partitioner"
Scalar = bool | int | float | str
Options = Annotated[
    dict[str, Scalar] | None,
    BeforeValidator(lambda options: None if options == {} else options),
    Field(description="arguments of that class, such as partition.options.alpha=0.5"),
]


class FlowerDatasets:
    """Any partitioner of flwr-datasets, by its name there (pip install 'fedalign[flwr-datasets]').

    It gets a data set with the columns `label`, `index` and, if the data has groups, `group`. Its
    parameters `num_partitions`, `partition_by` (the label), `seed` (derived from the run's) and
    `partition_sizes` (equal) are filled in if it has them and `options` does not set them. Examples
    that it leaves out or gives to several clients are used as it says.
    """

    def __init__(
        self,
        partitioner: Annotated[
            str,
            Field(
                description="class of flwr-datasets, such as DirichletPartitioner, or "
                "package.module:Name"
            ),
        ] = "IidPartitioner",
        options: Options = None,
    ):
        self.partitioner, self.options = partitioner, options or {}

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,
        groups: Indices | None = None,
    ) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: The package is not installed or has no such partitioner, or the partitioner
                refuses its options or makes another number of clients.
        """
        columns = {"index": np.arange(len(labels)), "label": labels}
        columns |= {} if groups is None else {"group": groups}
        data = self._import("datasets")
        data.disable_progress_bars()
        try:
            partitioner = self._partitioner(num_clients, len(labels), rng)
            partitioner.dataset = data.Dataset.from_dict(columns)
            count = int(partitioner.num_partitions)
            if count == num_clients:
                return [_rows(partitioner.load_partition(client)) for client in range(count)]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"partition.options: {self.partitioner}: {error}") from error
        raise InputError(f"partition: {self.partitioner} makes {count} clients, not {num_clients}")

    def _partitioner(self, num_clients: int, examples: int, rng: np.random.Generator) -> Any:
        """Return the partitioner, made with the user's options and those that it needs besides."""
        module, _, name = self.partitioner.rpartition(":")
        target = getattr(self._import(module or HOME), name, None)
        if target is None:
            raise InputError(f"partition.partitioner: {module or HOME} has no {name!r}")
        filled_in = {
            "num_partitions": num_clients,
            "partition_by": "label",
            "partition_sizes": equal(examples, num_clients).tolist(),
            "seed": int(rng.integers(2**31)),
        }
        parameters = inspect.signature(target).parameters
        return target(**{k: v for k, v in filled_in.items() if k in parameters} | self.options)

    def _import(self, module: str) -> Any:
        try:
            return import_module(module)
        except ImportError as error:
            raise InputError(
                f"partition.partitioner: {self.partitioner!r} cannot be imported: {error}; "
                "flwr-datasets comes with `pip install 'fedalign[flwr-datasets]'`"
            ) from error


def _rows(dataset: Any) -> Indices:
    return np.sort(np.asarray(dataset["index"], np.int64))
