"""The small convolutional network of the federated-learning literature."""

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from fedalign.models import require_size

LEAST = 18


def cnn(
    shape: tuple[int, int, int],
    classes: int,
    width: Annotated[int, Field(ge=1, description="Channels of the first convolution.")] = 32,
) -> nn.Sequential:
    """Three 3x3 convolutions (32, 64, 64) and two linear layers; 122,570 parameters on CIFAR-10.

    The width of all layers is proportional to `width`. There is no padding and no normalisation;
    the size of the input of `fc1` follows from the image's size.

    Raises:
        InputError: The images are smaller than 18x18.
    """
    require_size("cnn", shape, LEAST)
    channels, rows, columns = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, width, 3),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(width, 2 * width, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(2 * width, 2 * width, 3),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(2 * width * _side(rows) * _side(columns), 2 * width),
            relu4=nn.ReLU(),
            fc2=nn.Linear(2 * width, classes),
        )
    )


def _side(size: int) -> int:
    """Return the height (or width) of the last feature map: 4 for 32, 1 for 18."""
    return ((size - 2) // 2 - 2) // 2 - 2
