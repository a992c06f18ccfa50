"""Label skew: every class is dealt to the clients in shares drawn from a Dirichlet distribution."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices

Alpha = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="Small: few classes a client; large: like IID."),
]
MinSize = Annotated[int, Field(ge=1, description="Fewest examples that a client may have.")]
MaxTries = Annotated[int, Field(ge=1, description="Draws before `min_size` is given up.")]


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class in Dirichlet(alpha) shares, redrawn until all have min_size examples.

    Class by class as in Yurochkin et al. 2019 (arXiv 1905.12022, section 5), with the Dirichlet
    skew that Hsu et al. 2019 (arXiv 1909.06335) made the usual one. With a small alpha and many
    clients some client is empty in nearly every draw: then it ends in an error, never in a
    partition that is quietly less skewed.
    """

    alpha: Alpha = 0.5
    min_size: MinSize = 1
    max_tries: MaxTries = 1000

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are too few examples, or no draw gave every client `min_size`.
        """
        if num_clients * self.min_size > len(labels):
            raise InputError(
                f"num_clients: {num_clients} clients with at least {self.min_size} examples each "
                f"(partition.min_size) need more than the {len(labels)} examples there are"
            )
        members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        cuts = self._cuts(np.array([len(member) for member in members]), num_clients, rng)
        dealt = [np.split(member, cut) for member, cut in zip(members, cuts, strict=True)]
        return [np.sort(np.concatenate(share)) for share in zip(*dealt, strict=True)]

    def _cuts(self, counts: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return `(classes, num_clients - 1)`: where the members of each class are cut."""
        smallest = 0
        for _ in range(self.max_tries):
            shares = dirichlet(self.alpha, (len(counts), num_clients), rng)
            ends = np.rint(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
            ends[:, -1] = counts
            sizes = np.diff(ends, axis=1, prepend=0).sum(axis=0)
            if sizes.min() >= self.min_size:
                return ends[:, :-1]
            smallest = max(smallest, int(sizes.min()))
        raise InputError(
            f"partition.alpha={self.alpha:g} with partition.min_size={self.min_size}: in "
            f"{self.max_tries} draws for {num_clients} clients and {counts.sum()} examples the "
            f"smallest client had {smallest} examples at best; raise alpha, lower min_size, or "
            "take fewer clients"
        )


def dirichlet(
    alpha: float, shape: tuple[int, int], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return rows drawn from the symmetric Dirichlet distribution, each summing to one.

    In logarithms: for small alpha the gamma variables of the textbook method are all zero in
    floating point and their shares 0/0. Gamma(alpha) is Gamma(alpha + 1) times U^(1/alpha).
    """
    log_uniform = -rng.standard_exponential(shape)
    logs = np.log(rng.standard_gamma(alpha + 1, shape)) + log_uniform / max(alpha, 1e-100)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    rows: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return rows
