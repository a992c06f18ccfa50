"""Fully connected networks."""

from collections import OrderedDict
from itertools import pairwise
from math import prod
from typing import Annotated

from pydantic import Field
from torch import nn


def mlp(
    shape: tuple[int, ...],
    classes: int,
    depth: Annotated[int, Field(ge=0, description="Number of hidden layers.")] = 2,
    width: Annotated[int, Field(ge=1, description="Neurons in each hidden layer.")] = 200,
) -> nn.Sequential:
    """Multi-layer perceptron with ReLU; two hidden layers of 200 as in McMahan et al. 2017.

    It takes images, and rows of tables. Layers are named `fc1`, `fc2`, ...; without a hidden layer
    it is logistic regression.
    """
    sizes = [prod(shape), *[width] * depth, classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{number}"] = nn.Linear(fan_in, fan_out)
        if number <= depth:
            layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)
