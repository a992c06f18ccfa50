"""LeNet-5, the network of the first MNIST results."""

from collections import OrderedDict

from torch import nn

from fedalign.models import require_size

LEAST = 12


def lenet5(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; 61,706 parameters on MNIST.

    The first convolution pads by 2, so 28x28 images have the paper's 32x32 inputs; the size of the
    input of `fc1` follows from the image's size.

    Raises:
        InputError: The images are smaller than 12x12.
    """
    require_size("lenet5", shape, LEAST)
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * _side(height) * _side(width), 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )


def _side(size: int) -> int:
    """Return the height (or width) of the last feature map: 5 for 28, 1 for 12."""
    return (size // 2 - 4) // 2
