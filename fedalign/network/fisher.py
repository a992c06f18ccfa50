"""The diagonal of a model's Fisher information."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.network.constants import trained
from fedalign.network.network import Network

Kind = Literal["exact", "sampled", "empirical"]


def diagonal_fisher(
    network: Network, model: Tensor, data: Dataset, kind: Kind, seed: int = 0
) -> Tensor:
    """Return the mean over examples of squared gradients of the log-likelihood, `(P,)`.

    Args:
        network: runs the model, in evaluation mode.
        model: `(F,)`.
        data: the examples.
        kind: whose gradient; `exact`: the expectation over all classes as the model predicts them;
            `sampled`: one class drawn from that prediction; `empirical`: the example's label.
        seed: of the drawn classes.
    """
    layout, weights = network.layout, list(trained(network.module).values())
    total = torch.zeros(layout.parameter_size, device=network.device)
    draw = torch.Generator().manual_seed(seed)
    run = network.function_of(model)
    for image, own in zip(torch.split(data.images, 1), torch.split(data.labels, 1), strict=True):
        logits, label = run(image.to(network.device)), int(own)
        logs = network.tasks.own(logits, own.to(logits.device))[0].log_softmax(0)
        chances = logs.detach().exp()
        if kind == "exact":
            classes = {number: chance for number, chance in enumerate(chances.tolist()) if chance}
        else:
            drawn = int(torch.multinomial(chances.cpu(), 1, generator=draw))
            classes = {label if kind == "empirical" else drawn: 1.0}
        for number, chance in classes.items():
            found = torch.autograd.grad(logs[number], weights, retain_graph=True, allow_unused=True)
            for entry, gradient in zip(layout.parameters, found, strict=True):
                if gradient is not None:
                    entry.view(total).add_(gradient.square(), alpha=chance)
    return total / len(data)
