"""Mixup: examples and their losses mixed in pairs (Zhang et al. 2018, ICLR)."""

from __future__ import annotations

import torch
from torch import Tensor

from clients.steps import Step
from fedalign.network.losses import Loss


def mixed_images(images: Tensor, step: Step) -> Tensor:
    """Return each image `(k, B, …)` mixed with its partner's, in floats from 0 to 255."""
    share = step.mix.view(-1, *[1] * (images.ndim - 1))
    return images * share + of_partners(images, step) * (1 - share)


def mixed_loss(loss: Loss, step: Step) -> Loss:
    """Return the loss for an example's own label and for its partner's, each with its share."""
    partners = of_partners(step.labels, step).masked_fill(step.labels < 0, -1)

    def mixed(logits: Tensor, labels: Tensor, features: Tensor, clients: slice) -> Tensor:
        share, other = step.mix[clients], partners[clients, : labels.shape[1]]
        own = loss(logits, labels, features, clients)
        return share * own + (1 - share) * loss(logits, other, features, clients)

    return mixed


def of_partners(values: Tensor, step: Step) -> Tensor:
    """Return the values `(k, B, …)` of the examples' partners.

    An example's partner is the next one of the same batch, whose order is random; the last one's is
    the first. What only fills up a batch is nobody's partner.
    """
    following = torch.arange(1, values.shape[1] + 1, device=values.device)
    places = torch.where(following < step.counts[:, None], following, 0)
    return values[torch.arange(len(values), device=values.device)[:, None], places]
