"""FedPFN: federated learning with partially fixed neurons (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.masked import Masked


@dataclass
class FedPFN(Masked):
    """All clients keep the same random weights fixed for the round (Li et al., arXiv 2402.01342).

    Round t: the server draws a mask; every client trains the weights with mask 1 and holds the
    others at the global values; the server aggregates the trained ones and copies the fixed.
    With `refresh: 0` it is TNA-PFN; with `fixed_value: zero` as well, pruning at initialisation.
    """
