"""Label smoothing and mixup: by hand, and as PyTorch computes them."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from clients.calibrated import FedLC
from clients.local import Local
from clients.mixup import mixed_images, mixed_loss, of_partners
from clients.moon import MOON
from clients.steps import Batches
from fedalign.masks.plan import MaskPlan
from fedalign.network.losses import cross_entropy, losses_of
from fedalign.rng import rng
from tests.clients.test_augment import stack_of

LOGITS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([[0, 3, 2, 1, 0], [2, 1, 1, -1, -1]])
STEP = SimpleNamespace(
    labels=LABELS,
    counts=torch.tensor([5.0, 3.0]),
    mix=torch.tensor([[0.25], [0.75]]),
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_are_pytorchs(smoothing):
    logits = [LOGITS.clone().requires_grad_() for _ in range(2)]
    ours = losses_of(logits[0], LABELS, smoothing)
    flat = logits[1].view(10, 4), LABELS.flatten()
    options = {"reduction": "none", "ignore_index": -1, "label_smoothing": smoothing}
    theirs = functional.cross_entropy(*flat, **options).view(2, 5)
    torch.testing.assert_close(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(logits[0].grad, logits[1].grad)


def test_a_class_that_is_left_out_gets_no_part_of_a_label():
    """As if it were not there."""
    logits = LOGITS.clone()
    logits[..., 3] = -torch.inf
    logits.requires_grad_()
    labels = LABELS.clamp(max=2)
    found = losses_of(logits, labels, 0.3)
    torch.testing.assert_close(found, losses_of(LOGITS[..., :3], labels, 0.3))
    found.sum().backward()
    assert (logits.grad[..., 3] == 0).all()
    assert logits.grad.isfinite().all()


def test_algorithms_with_a_loss_of_their_own_smooth_it_or_refuse():
    training = SimpleNamespace(own={"shift": torch.zeros(2, 4).double()})
    loss = FedLC(label_smoothing=0.3).loss(training)
    found = loss(LOGITS, LABELS, torch.empty(0), slice(0, 2))
    torch.testing.assert_close(found, losses_of(LOGITS, LABELS, 0.3))
    MOON(label_smoothing=0.3)

    @dataclass(frozen=True)
    class Squared(Local):
        def loss(self, _):
            return lambda logits, labels, *_: logits.square().sum(-1) * (labels >= 0)

    Squared()
    with pytest.raises(ValueError, match=r"label_smoothing: 0\.3 is not allowed: .* Squared"):
        Squared(label_smoothing=0.3)


def test_partners_are_real_and_others():
    values = torch.arange(10).view(2, 5)
    assert of_partners(values, STEP).tolist() == [[1, 2, 3, 4, 0], [6, 7, 5, 5, 5]]


def test_mixed_images_by_hand():
    images = torch.tensor([[10, 20, 30, 40, 50], [0, 100, 200, 7, 7]], dtype=torch.uint8)
    found = mixed_images(images[..., None], STEP)[..., 0]
    assert found[0].tolist() == [17.5, 27.5, 37.5, 47.5, 20.0]
    assert found[1, :3].tolist() == [25.0, 125.0, 150.0]


def test_the_mixed_loss_is_that_of_mixed_labels():
    """Cross-entropy with a label of both classes in their shares."""
    found = mixed_loss(cross_entropy(0.2), STEP)(LOGITS, LABELS, torch.empty(0), slice(0, 2))
    one_hot = functional.one_hot(LABELS.clamp(min=0), 4).double()
    share = STEP.mix.double()[..., None]
    mixed = share * one_hot + (1 - share) * of_partners(one_hot, STEP)
    theirs = functional.cross_entropy(
        LOGITS.view(10, 4), mixed.view(10, 4), reduction="none", label_smoothing=0.2
    )
    torch.testing.assert_close(found, torch.where(LABELS >= 0, theirs.view(2, 5), 0))
    alone = mixed_loss(cross_entropy(0.2), STEP)
    second = alone(LOGITS[1:, :3], LABELS[1:, :3], torch.empty(0), slice(1, 2))
    torch.testing.assert_close(second, found[1:, :3])


def test_shares_are_a_clients_own_and_have_the_distribution():
    def drawn(counts, **options):
        streams = [rng(0, "x", count) for count in counts]
        return Batches.draw(
            [np.arange(count) for count in counts], streams, [2] * len(counts), 2, **options
        )

    together, alone = (drawn(own, mixup=0.4, with_keys=True) for own in ((900, 101), (101,)))
    assert together.mix.shape == (900, 2, 1)
    assert np.array_equal(together.mix[:102, 1], alone.mix[:, 0])
    assert np.array_equal(together.keys[:102, 1], alone.keys[:, 0])
    assert np.array_equal(together.index, drawn((900, 101)).index)
    shares = together.mix[:, 0].astype(float)
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(0.25 / 1.8, abs=0.015)  # 1 / (4 (2 alpha + 1))


def test_an_epoch_of_plain_pytorch_with_smoothing_and_mixup(network, data):
    options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 8}
    stack = stack_of(network, data, [(0, 30)])
    stack.plans = [MaskPlan()]
    vector, stream = stack.start.clone(), rng(0, "batches", 1, 0)
    rows = torch.from_numpy(stream.permutation(30))
    shares, losses = stream.beta(0.7, 0.7, 4), []
    result = Local(**options, label_smoothing=0.1, mixup=0.7).train(stack)
    module = network.module
    for batch, share in zip(rows.split(8), shares, strict=True):
        network.layout.bind(module, vector)
        module.train().zero_grad()
        own, one_hot = data.images[batch].float(), functional.one_hot(data.labels[batch], 3)
        own, label = (share * v + (1 - share) * v.roll(-1, 0) for v in (own, one_hot.float()))
        logits = module((own - 0.3 * 255) / (0.2 * 255))
        loss = functional.cross_entropy(logits, label, label_smoothing=0.1)
        gradients = torch.autograd.grad(loss, [*module.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        losses += [loss.item() * len(batch)]
    torch.testing.assert_close(stack.block[0], vector, rtol=1e-4, atol=1e-5)
    assert float(result.losses[0]) == pytest.approx(sum(losses) / 30, rel=1e-5)
