"""FedAvg (McMahan et al. 2017): Flower's own, unchanged."""

from flwr.serverapp.strategy import FedAvg

__all__ = ["FedAvg"]
