"""Size skew: clients draw from the same distribution, but different numbers of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from partitions import Indices, deal
from partitions.dirichlet import dirichlet
from partitions.labels import softmax
from partitions.sizes import Floats, MinSize, apportioned, refuse_too_many

Sigma = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="standard deviation of the logarithm of log-normal sizes; 0: equal sizes",
    ),
]


@dataclass(frozen=True)
class Quantity:
    """Size skew: the sizes of clients follow a law, and examples are dealt at random.

    `dirichlet`: sizes are proportional to one draw of Dirichlet(alpha); with a small alpha few
    clients have nearly all examples (Li et al. 2022, arXiv 2102.02079). `lognormal`: sizes are
    proportional to exp(sigma z), z standard normal. `zipf`: the size of the client of rank r is
    proportional to r^-exponent; ranks are assigned at random. Sizes are rounded so that they add
    up. Clients below `min_size` get examples, each from the client that is largest at the time.
    """

    law: Annotated[
        Literal["dirichlet", "lognormal", "zipf"],
        Field(description="distribution that the sizes follow"),
    ] = "dirichlet"
    alpha: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="with law: dirichlet, how equal the sizes are; 0.1: very unequal; 100: "
            "nearly equal",
        ),
    ] = 0.5
    sigma: Sigma = 1.0
    exponent: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="with law: zipf, the size of the client of rank r is proportional to "
            "r^-exponent; 0: equal sizes",
        ),
    ] = 1.0
    min_size: MinSize = 1

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are fewer than `min_size` examples per client.
        """
        refuse_too_many(num_clients, len(labels), self.min_size)
        sizes = apportioned(self._weights(num_clients, rng), len(labels), self.min_size)
        owner = np.repeat(np.arange(num_clients), sizes)
        return deal(rng.permutation(owner), num_clients)

    def _weights(self, num_clients: int, rng: np.random.Generator) -> Floats:
        if self.law == "lognormal":
            return lognormal(self.sigma, num_clients, rng)
        if self.law == "zipf":
            ranks = 1 + rng.permutation(num_clients)
            return softmax(-self.exponent * np.log(ranks)[None]).ravel()
        return dirichlet(self.alpha, (1, num_clients), rng).ravel()


def lognormal(sigma: float, num_clients: int, rng: np.random.Generator) -> Floats:
    """Return log-normal weights `(K,)`, summing to one."""
    return softmax(sigma * rng.standard_normal((1, num_clients))).ravel()
