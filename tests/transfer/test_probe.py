"""Probing against numbers worked out by hand, the optimum's condition and scikit-learn."""

import math

import numpy as np
import pytest
import torch

from fedalign.network.device import torch_threads
from fedalign.transfer.probe import STRENGTHS, Labelled, chosen, fit, probed

pytestmark = pytest.mark.xdist_group("probe")  # PyTorch's first optimiser takes a second


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


def cloud(count, width=5, classes=3, noise=1.0, seed=0):
    """Features of which the first ones tell the class, and the last one never changes."""
    stream = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = noise * stream.normal(size=(count, width)) * np.arange(1, width + 1)
    features[np.arange(count), labels] += 4
    features[:, -1] = 7
    return Labelled(torch.from_numpy(features), torch.from_numpy(labels))


def test_two_points_by_hand():
    """Standardised to -1 and 1: by symmetry weights ±a and no bias, with l2 a = 1/(1 + exp(2 a)).

    That is how unlikely either point finds its class, and so the slope of the loss.
    """
    data = Labelled(torch.tensor([[3.0], [5.0]]).double(), torch.tensor([0, 1]))
    a = 0.5
    probe = fit(data, 2, l2=1 / (a * (1 + math.exp(2 * a))))
    assert probe.weights.flatten().tolist() == pytest.approx([-a, a, 0, 0], abs=1e-6)
    assert probe.test(data) == pytest.approx((math.log(1 + math.exp(-2 * a)), 1.0))
    wrong = Labelled(data.features, torch.tensor([0, 0]))
    loss = (math.log(1 + math.exp(-2 * a)) + math.log(1 + math.exp(2 * a))) / 2
    assert probe.test(wrong) == pytest.approx((loss, 0.5))


@pytest.mark.parametrize("l2", STRENGTHS)
def test_the_gradient_is_zero_at_the_optimum(l2):
    data = cloud(60)
    probe = fit(data, 4, l2)  # of which no example has the last
    weights = probe.weights.clone().requires_grad_()
    logits = probe.inputs(data.features) @ weights
    loss = torch.nn.functional.cross_entropy(logits, data.labels) + l2 / 2 * weights.square().sum()
    loss.backward()
    assert weights.grad.abs().max() < 1e-6
    assert torch.equal(probe.weights[-2], torch.zeros(4).double())  # the feature that is constant


def test_it_finds_what_scikit_learn_finds():
    linear = pytest.importorskip("sklearn.linear_model")
    data, l2 = cloud(60), 0.01
    probe = fit(data, 3, l2)
    inputs = probe.inputs(data.features).numpy()  # with a column of ones, which is the bias
    theirs = linear.LogisticRegression(
        C=1 / (l2 * 60), fit_intercept=False, tol=1e-10, max_iter=10**4
    )
    found = theirs.fit(inputs, data.labels.numpy())
    assert probe.weights.T.numpy() == pytest.approx(found.coef_, abs=1e-4)


def test_the_norms_weight_is_chosen_by_training_examples_alone():
    """Many features of noise and few examples need a strong norm; a clear signal a weak one."""
    noisy, clear = cloud(50, width=40, noise=3.0), cloud(300, noise=0.2)
    assert chosen(noisy, 3) > chosen(clear, 3)
    test = cloud(200, width=40, noise=3.0, seed=1)
    by_hand = fit(noisy, 3, chosen(noisy, 3)).test(test)
    assert probed(noisy, test, 3) == by_hand == probed(noisy, test, 3)
    assert probed(noisy, test, 3, l2=1e-4)[0] > by_hand[0]
