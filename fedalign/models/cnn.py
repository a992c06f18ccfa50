"""The small convolutional network of the federated-learning literature."""

from collections import OrderedDict

from torch import nn

from fedalign.models import require_size

LEAST = 18


def cnn(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Three 3x3 convolutions (32, 64, 64) and two linear layers; 122,570 parameters on CIFAR-10.

    No padding and no normalisation; the input of `fc1` follows from the image's size.

    Raises:
        InputError: The images are smaller than 18x18.
    """
    require_size("cnn", shape, LEAST)
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 64, 3),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * _side(height) * _side(width), 64),
            relu4=nn.ReLU(),
            fc2=nn.Linear(64, classes),
        )
    )


def _side(size: int) -> int:
    """Return the height (or width) of the last feature map: 4 for 32, 1 for 18."""
    return ((size - 2) // 2 - 2) // 2 - 2
