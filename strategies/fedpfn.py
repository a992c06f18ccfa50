"""FedPFN: federated learning with partially fixed neurons (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.masked import Masked


@dataclass
class FedPFN(Masked):
    """All clients fix the same random weights for the round (Li et al., arXiv 2402.01342).

    In round t the server draws a mask; every client trains the weights with mask 1 and leaves the
    others at their global values; the server aggregates the trained weights and copies the fixed.
    With `refresh: 0` this is TNA-PFN; with `fixed_value: zero` as well, pruning at initialisation.
    """
