"""Federated learning simulations that keep models aligned, so that they can be averaged."""

__version__ = "0.1.0"
