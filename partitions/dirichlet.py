"""Label skew: each class is divided among clients in shares drawn from a Dirichlet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.labels import members, owners, softmax
from partitions.sizes import Floats, MinSize, refuse_too_many, topped_up

GIVE_UP = 20, 50  # after 20 draws with more than 50 clients too small, on average

Alpha = Annotated[
    float,
    Field(
        gt=0,
        allow_inf_nan=False,
        description="how even the mix of classes is; 0.1: few classes per client; 100: nearly IID",
    ),
]
MaxTries = Annotated[
    int,
    Field(
        ge=1,
        description="with too_small: retry, draws after which it is an error that a client has "
        "less than min_size",
    ),
]
TooSmall = Annotated[
    Literal["retry", "move"],
    Field(
        description="what happens to a draw that leaves clients with less than min_size; retry: "
        "draw everything again; move: move examples from the largest clients"
    ),
]


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class in Dirichlet(alpha) shares over clients, all of min_size or more.

    Classes are divided one by one as in Yurochkin et al. 2019 (arXiv 1905.12022, section 5); Hsu et
    al. 2019 (arXiv 1909.06335) made Dirichlet skew common. A small alpha gives each class to few
    clients, so clients have few classes and unequal sizes; a large alpha gives all the same.

    `too_small: retry` draws all shares again until every client has `min_size` examples. With a
    small alpha and many clients nearly every draw leaves some client empty. Then the result is an
    error, after `max_tries` draws or once success is clearly out of reach, never a partition that
    is silently less skewed. `max_tries: 1` allows one draw. `too_small: move` draws once and then
    moves random examples, each from the client that is largest at the time, to clients that have
    less than `min_size`.
    """

    alpha: Alpha = 0.5
    min_size: MinSize = 1
    max_tries: MaxTries = 1000
    too_small: TooSmall = "retry"

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are too few examples, or every draw left a client below `min_size`.
        """
        refuse_too_many(num_clients, len(labels), self.min_size)
        classes = [rng.permutation(indices) for indices in members(labels)]
        counts = np.array([len(indices) for indices in classes])
        if self.too_small == "retry":
            return deal(owners(classes, self._retried(counts, num_clients, rng)), num_clients)
        owner = owners(classes, self._drawn(counts, num_clients, rng))
        return deal(topped_up(owner, num_clients, self.min_size, rng), num_clients)

    def _drawn(self, counts: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return the number of examples of each class for each client, `(K, C)`, in one draw."""
        shares = dirichlet(self.alpha, (len(counts), num_clients), rng)
        ends = np.rint(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
        ends[:, -1] = counts
        return np.diff(ends, axis=1, prepend=0).T

    def _retried(self, counts: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return the first draw `(K, C)` in which every client has `min_size` examples."""
        smallest, lacking = 0, 0
        for tries in range(1, self.max_tries + 1):
            dealt = self._drawn(counts, num_clients, rng)
            sizes = dealt.sum(axis=1)
            if sizes.min() >= self.min_size:
                return dealt
            smallest = max(smallest, int(sizes.min()))
            lacking += int((sizes < self.min_size).sum())
            # Clients are nearly independent: a draw has no small client with probability e^-50.
            if tries == GIVE_UP[0] and lacking > tries * GIVE_UP[1]:
                break
        raise InputError(
            f"partition.alpha={self.alpha:g} with partition.min_size={self.min_size}: in "
            f"{tries} draws for {num_clients} clients and {counts.sum()} examples the "
            f"smallest client had {smallest} examples at best, and {lacking / tries:.3g} clients "
            "had too few on average; raise alpha, lower min_size, use fewer clients, or move "
            "examples from the largest clients (partition.too_small=move)"
        )


def dirichlet(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return rows drawn from the symmetric Dirichlet(alpha) distribution; each sums to one."""
    return softmax(log_gamma(alpha, shape, rng))


def log_gamma(alpha: float | Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return logarithms of Gamma(alpha) variables; `softmax` of a row is Dirichlet(alpha).

    Logarithms, because for small alpha all variables round to zero, and shares would be 0/0. They
    are drawn by Gamma(alpha) = Gamma(alpha + 1) * U^(1/alpha), with U uniform.
    """
    log_uniform = -rng.standard_exponential(shape)
    grown: Floats = np.log(rng.standard_gamma(np.add(alpha, 1), shape))
    return grown + log_uniform / np.maximum(alpha, 1e-100)
