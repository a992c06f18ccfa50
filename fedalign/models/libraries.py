"""The models of torchvision and of timm, which know pretrained weights by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any
from urllib.error import URLError

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedalign.data.packaged import needed
from fedalign.errors import InputError, nearest, shortened
from fedalign.models import require_images

log = logging.getLogger("fedalign")
Weights = Annotated[
    str | None,
    Field(
        description="Pretrained weights: a name that the library knows and downloads, or a file, "
        "or the folder of a run; null: random."
    ),
]


def torchvision(
    shape: tuple[int, ...],
    classes: int,
    architecture: Annotated[str, Field(description="Such as resnet18 or vit_b_16.")] = "resnet18",
    weights: Weights = None,
    size: Annotated[
        int | None,
        Field(ge=1, description="Side to which images are resized, in pixels; null: as they are."),
    ] = 224,
) -> nn.Module:
    """Model of torchvision, for images that are resized on the way in; grey ones get 3 channels.

    Weights by name, such as IMAGENET1K_V1 or DEFAULT, are of another number of classes: the last
    layer starts anew.

    Raises:
        InputError: There is no such architecture or weights, or they cannot be downloaded.
    """
    require_images("torchvision", shape)
    library = import_module("torchvision.models")
    known = library.list_models(module=library)
    if architecture not in known:
        raise InputError(
            f"model.architecture: {architecture!r} is none{nearest(architecture, known)}"
        )
    form = {"image_size": size or shape[1]} if architecture.startswith("vit_") else {}
    net: nn.Module = library.get_model(architecture, weights=None, num_classes=classes, **form)
    if weights is not None:
        choices = library.get_model_weights(architecture)
        if weights not in choices.__members__:
            names = nearest(weights, choices.__members__)
            raise InputError(f"model.weights: {weights!r} is neither a file nor weights{names}")
        _fill(net, _downloaded(choices[weights]), weights)
    return Resized(net, size)


def timm(
    shape: tuple[int, ...],
    classes: int,
    architecture: Annotated[
        str, Field(description="Such as vit_tiny_patch16_224, with a tag that names its weights.")
    ] = "vit_tiny_patch16_224",
    weights: Weights = None,
    size: Annotated[
        int | None,
        Field(ge=1, description="Side to which images are resized, in pixels; null: the model's."),
    ] = None,
) -> nn.Module:
    """Model of timm, for images that are resized on the way in; grey ones get 3 channels.

    `weights=pretrained` are those of its tag, from the Hugging Face hub, but for the last layer.

    Raises:
        InputError: timm is not installed, it has no such model, or it cannot download weights.
    """
    require_images("timm", shape)
    library = needed("timm", "model.name")
    if weights not in (None, "pretrained"):
        raise InputError(f"model.weights: {weights!r} is neither a file nor 'pretrained'")
    if not library.is_model(architecture.partition(".")[0]):
        close = nearest(architecture, library.list_models(f"{architecture[:4]}*"))
        raise InputError(f"model.architecture: {architecture!r} is none of timm's{close}")
    own = library.get_pretrained_cfg(architecture).input_size[-1]
    form = {} if size in (None, own) else {"img_size": size}
    given = {"pretrained": weights is not None, "num_classes": classes}
    try:
        net: nn.Module = _created(library, architecture, given | form)
    except TypeError:  # of an architecture for images of any size
        net = _created(library, architecture, given)
    return Resized(net, size or own)


class Resized(nn.Module):
    """A network for colour images of one size, which are made of any others."""

    def __init__(self, net: nn.Module, size: int | None):
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, classes)` of images `(N, 1 or 3, H, W)`."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = functional.interpolate(images, (self.size, self.size), mode="bilinear")
        logits: Tensor = self.net(images)
        return logits


def _created(library: Any, architecture: str, given: Mapping[str, Any]) -> Any:
    try:
        return library.create_model(architecture, **given)
    except OSError as error:  # as are those of the hub and of a missing network
        raise InputError(_not_there(architecture, error)) from None


def _downloaded(weights: Any) -> Mapping[str, Tensor]:
    try:
        found: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(_not_there(weights.url, error)) from None
    return found


def _not_there(what: str, error: Exception) -> str:
    reason = f"{what} cannot be downloaded ({shortened(str(error), 150)})"
    return f"model.weights: {reason}; without a network give a file: model.weights=PATH"


def _fill(net: nn.Module, found: Mapping[str, Tensor], called: str) -> None:
    """Copy weights into a network, but those of another number of classes."""
    own = net.state_dict()
    anew = [name for name in own if name in found and own[name].shape != found[name].shape]
    net.load_state_dict({**found, **{name: own[name] for name in anew}})
    if anew:
        log.info("%s: %s starts anew", called, ", ".join(anew))
