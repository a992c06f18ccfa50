"""Label skew: every class is dealt to the clients in shares drawn from a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.labels import members, owners, softmax
from partitions.sizes import Floats, MinSize, refuse_too_many, topped_up

HOPELESS = 20, 50  # after so many draws with so many clients too small in each, on the average

Alpha = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False, description="small: few classes a client; large: like IID"),
]
MaxTries = Annotated[int, Field(ge=1, description="draws before `min_size` is given up")]
TooSmall = Annotated[
    Literal["retry", "move"],
    Field(description="clients below min_size: draw again, or give them some of the largest's"),
]


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class in Dirichlet(alpha) shares over clients, all of min_size or more.

    Class by class as in Yurochkin et al. 2019 (arXiv 1905.12022, section 5), with the Dirichlet
    skew that Hsu et al. 2019 (arXiv 1909.06335) made the usual one. A small alpha gives a class to
    few clients, and so few classes and unequal sizes to each; a large one, the same to all.

    `too_small: retry` draws all shares again until every client has `min_size`. With a small alpha
    and many clients some client is empty in nearly every draw: then it ends in an error after
    `max_tries`, or as soon as it is clear, never in a partition that is quietly less skewed.
    `max_tries: 1` is one draw or an error. `too_small: move` draws once; then those with too few
    are given random examples of whoever is largest at the time, until they have `min_size`.
    """

    alpha: Alpha = 0.5
    min_size: MinSize = 1
    max_tries: MaxTries = 1000
    too_small: TooSmall = "retry"

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are too few examples, or no draw gave every client `min_size`.
        """
        refuse_too_many(num_clients, len(labels), self.min_size)
        classes = [rng.permutation(own) for own in members(labels)]
        counts = np.array([len(own) for own in classes])
        if self.too_small == "retry":
            return deal(owners(classes, self._retried(counts, num_clients, rng)), num_clients)
        owner = owners(classes, self._drawn(counts, num_clients, rng))
        return deal(topped_up(owner, num_clients, self.min_size, rng), num_clients)

    def _drawn(self, counts: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return how many of each class each client gets, `(K, C)`, in one draw."""
        shares = dirichlet(self.alpha, (len(counts), num_clients), rng)
        ends = np.rint(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
        ends[:, -1] = counts
        return np.diff(ends, axis=1, prepend=0).T

    def _retried(self, counts: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return the first draw in which nobody is too small."""
        smallest, lacking = 0, 0
        for tries in range(1, self.max_tries + 1):
            dealt = self._drawn(counts, num_clients, rng)
            sizes = dealt.sum(axis=1)
            if sizes.min() >= self.min_size:
                return dealt
            smallest = max(smallest, int(sizes.min()))
            lacking += int((sizes < self.min_size).sum())
            # Clients lack nearly independently: none does with a chance of about e^-50 a draw.
            if tries == HOPELESS[0] and lacking > tries * HOPELESS[1]:
                break
        raise InputError(
            f"partition.alpha={self.alpha:g} with partition.min_size={self.min_size}: in "
            f"{tries} draws for {num_clients} clients and {counts.sum()} examples the "
            f"smallest client had {smallest} examples at best, and {lacking / tries:.3g} clients "
            "had too few on the average; raise alpha, lower min_size, take fewer clients, or let "
            "the largest give to the smallest (partition.too_small=move)"
        )


def dirichlet(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return rows drawn from the symmetric Dirichlet distribution, each summing to one."""
    return softmax(log_gamma(alpha, shape, rng))


def log_gamma(alpha: float | Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return logarithms of Gamma(alpha) variables, of which a row is Dirichlet once it sums to one.

    For small alpha the variables themselves are all zero in floating point, and their shares 0/0.
    Gamma(alpha) is Gamma(alpha + 1) times U^(1/alpha).
    """
    log_uniform = -rng.standard_exponential(shape)
    grown: Floats = np.log(rng.standard_gamma(np.add(alpha, 1), shape))
    return grown + log_uniform / np.maximum(alpha, 1e-100)
