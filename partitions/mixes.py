"""Label skew with given sizes: every client draws its own mix of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.dirichlet import Alpha, log_gamma
from partitions.labels import by_mix, members, softmax
from partitions.quantity import Sigma, lognormal
from partitions.sizes import Floats, MinSize, apportioned, equal, refuse_too_many


@dataclass(frozen=True)
class DirichletBalanced:
    """Label skew without size skew: each client draws its mix of classes, Dirichlet(alpha).

    Sizes differ by at most one. As in Hsu et al. 2019 (arXiv 1909.06335) and Acar et al. 2021
    (arXiv 2111.04263) each client draws a mix from Dirichlet(alpha C p), where p are the shares of
    the C classes in the data. So `alpha` has the same meaning as in `dirichlet`: with classes of
    equal size the distribution is Dirichlet(alpha, ..., alpha); the alpha of Hsu et al. is C times
    this one. Clients draw without replacement and all at once: if a class has too few examples
    left, a random part of the requests for it is granted, and the other requests go to classes that
    are left. So the resulting mixes are slightly less skewed than the drawn ones, equally for all
    clients.
    """

    alpha: Alpha = 0.5

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more clients than examples.
        """
        refuse_too_many(num_clients, len(labels))
        return _split(labels, equal(len(labels), num_clients), self.alpha, rng)


@dataclass(frozen=True)
class DirichletSized:
    """Label skew and size skew, set separately: log-normal sizes and Dirichlet(alpha) mixes.

    Sizes are those of `quantity` with `law: lognormal`, mixes those of `dirichlet-balanced`. In
    `dirichlet` one alpha determines both.
    """

    alpha: Alpha = 0.5
    sigma: Sigma = 1.0
    min_size: MinSize = 1

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are fewer than `min_size` examples per client.
        """
        refuse_too_many(num_clients, len(labels), self.min_size)
        weights = lognormal(self.sigma, num_clients, rng)
        sizes = apportioned(weights, len(labels), self.min_size)
        return _split(labels, sizes, self.alpha, rng)


@dataclass(frozen=True)
class Mixture:
    """Groups of clients, each with its own alpha: some see nearly all classes, others nearly one.

    Clients are numbered group by group, in the order of `alphas`; the numbers of clients in groups
    differ by at most one. Clients draw their mixes as in `dirichlet-balanced` and have equal
    numbers of examples, so groups differ only in label skew.
    """

    alphas: Annotated[
        str,
        Field(
            description="an alpha for each group of clients, separated by spaces; 0.1: few "
            "classes per client; 10: nearly all"
        ),
    ] = "0.1 10"

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: An alpha is not a positive number, or there are more groups than clients, or
                more clients than examples.
        """
        refuse_too_many(num_clients, len(labels))
        alphas = self._alphas()
        if len(alphas) > num_clients:
            raise InputError(
                f"partition.alphas: {len(alphas)} groups need more than the {num_clients} clients"
            )
        of_client = np.repeat(alphas, equal(num_clients, len(alphas)))
        return _split(labels, equal(len(labels), num_clients), of_client[:, None], rng)

    def _alphas(self) -> Floats:
        try:
            alphas = np.array([float(word) for word in self.alphas.split()])
        except ValueError:
            alphas = np.zeros(1)
        if not len(alphas) or not (alphas > 0).all() or not np.isfinite(alphas).all():
            raise InputError(
                f"partition.alphas: {self.alphas!r} is not allowed: give numbers above 0, "
                "separated by spaces, such as '0.1 10'"
            )
        return alphas


def _split(
    labels: Indices, sizes: Indices, alpha: float | Floats, rng: np.random.Generator
) -> list[Indices]:
    """Return the indices of each client; `alpha` is one for all clients, or `(K, 1)`."""
    classes = members(labels)
    prior = np.array([len(indices) for indices in classes]) / len(labels)
    alphas = np.minimum(alpha, 1e200) * (len(classes) * prior)
    logs = log_gamma(alphas, (len(sizes), len(classes)), rng)

    def mix(clients: Indices, left: npt.NDArray[np.bool_]) -> Floats:
        return softmax(logs[clients], left)

    return deal(by_mix(classes, sizes, mix, rng), len(sizes))
