import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from fedalign.errors import InputError
from fedalign.network.device import pick_device, torch_threads
from fedalign.network.network import Network


def named(network, vector):
    return {entry.name: entry.view(vector) for entry in network.layout.entries}


def normalised(data):
    return (data.images.float() - 0.3 * 255) / (0.2 * 255)


def vectors(network, count):
    layout, generator = network.layout, torch.Generator().manual_seed(0)
    start = layout.compact(layout.to_vector(network.initial))
    noise = [0.1 * torch.rand(start.shape, generator=generator) for _ in range(count)]
    return [layout.spread(start + own) for own in noise]


def test_gradients_are_autograds(network, data):
    (vector,) = vectors(network, 1)
    weights = vector.clone().requires_grad_()
    state = named(network, weights) | {
        e.name: e.view(vector).clone() for e in network.layout.buffers
    }
    logits = functional_call(network.module.train(), state, normalised(data))
    expected_loss = functional.cross_entropy(logits, data.labels)
    (expected,) = torch.autograd.grad(expected_loss, weights)
    count = network.layout.parameter_size
    found = network.layout.spread(torch.full((1, network.layout.num_parameters), 7.0))
    loss = network.gradients(vector[None], data.images[None], data.labels[None], [60], found)
    torch.testing.assert_close(found[0], expected[:count], rtol=1e-4, atol=1e-6)
    assert loss[0].item() == pytest.approx(expected_loss.item(), rel=1e-6)


def test_several_models_do_not_mix(network, data):
    models = vectors(network, 3)
    alone = [network.evaluate(vector, data, 20) for vector in models]
    assert len(set(alone)) == 3
    block = torch.stack(models)
    gradient = torch.zeros(3, network.layout.parameter_size)
    images, labels, sizes = (
        data.images.expand(3, -1, -1, -1, -1),
        data.labels.expand(3, -1),
        [60] * 3,
    )
    together = network.gradients(block.clone(), images, labels, sizes, gradient)
    for row, vector in enumerate(models):
        own = torch.zeros(1, network.layout.parameter_size)
        loss = network.gradients(vector.clone()[None], images[:1], labels[:1], [60], own)
        torch.testing.assert_close(own[0], gradient[row], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss[0], together[row])
    assert [network.evaluate(vector, data, 20) for vector in models] == alone


def test_a_model_changed_in_place_is_seen(network, data):
    (vector,) = vectors(network, 1)
    before = network.evaluate(vector, data, 60)
    vector.mul_(0.5)
    assert network.evaluate(vector, data, 60) != before


def seen_by_the_last_layer(state, images, training):
    """Of the model in conftest, with batch statistics or those that it has."""
    x = functional.conv2d(images, state["conv.weight"], state["conv.bias"], padding=1)
    statistics = [state[f"norm.running_{key}"].detach().clone() for key in ("mean", "var")]
    scale = state["norm.weight"], state["norm.bias"]
    return functional.batch_norm(x, *statistics, *scale, training).relu().flatten(1)


def test_features_are_what_the_last_layer_sees(network, data):
    models = vectors(network, 2)
    images = torch.stack([data.images[:5], data.images[5:10]])
    found = network.features(torch.stack(models), images)
    for vector, own, features in zip(models, images, found, strict=True):
        pixels = (own.float() - 0.3 * 255) / (0.2 * 255)
        expected = seen_by_the_last_layer(named(network, vector), pixels, training=False)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    every = torch.stack([data.images] * 2)
    one, several = (network.features(torch.stack(models), every, 7, count) for count in (1, 3))
    assert torch.equal(one, several)
    torch.testing.assert_close(one[0, :5], found[0])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_loss_of_its_own_alone_and_then_stacked(network, data, weight):
    """The first client of a run may be alone in its group; a loss may leave a layer alone."""

    def loss(logits, labels, seen, clients):  # noqa: ARG001
        return seen.square().sum(-1) + weight * logits.square().sum(-1)

    models, count = vectors(network, 3), network.layout.parameter_size
    weights = models[0].clone().requires_grad_()
    state = named(network, weights)
    seen = seen_by_the_last_layer(state, normalised(data)[:6], training=True)
    logits = functional.linear(seen, state["fc.weight"], state["fc.bias"])
    mean = loss(logits[None], None, seen[None], None).mean()
    (expected,) = torch.autograd.grad(mean, weights)
    for k in (1, 3):
        images, labels = data.images[:6].expand(k, -1, -1, -1, -1), data.labels[:6].expand(k, -1)
        found = network.layout.spread(torch.full((k, network.layout.num_parameters), 7.0))
        block = torch.stack(models[:k])
        losses = network.gradients(block, images, labels, [6] * k, found, loss=loss)
        assert losses[0].item() == pytest.approx(mean.item(), rel=1e-4)
        torch.testing.assert_close(found[0], expected[:count], rtol=1e-3, atol=1e-4)


def test_what_is_received_is_never_stale(network):
    first, second = (network.layout.to_record(v, {}) for v in vectors(network, 2))
    assert torch.equal(network.receive(first), network.layout.to_vector(first))
    assert torch.equal(network.receive(second), network.layout.to_vector(second))


def test_evaluation_by_hand(network, data):
    (vector,) = vectors(network, 1)
    state = named(network, vector)
    logits = functional_call(network.module.eval(), state, normalised(data))
    loss, accuracy = network.evaluate(vector, data, 7)
    expected = functional.cross_entropy(logits, data.labels).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == int((logits.argmax(1) == data.labels).sum()) / len(data)


def test_threads_change_no_bit(network, data, monkeypatch):
    monkeypatch.setattr("fedalign.network.evaluation.WORTH_A_THREAD", 0.0)
    (vector,) = vectors(network, 1)
    assert network.evaluate(vector, data, 7, threads=3) == network.evaluate(vector, data, 7)


def test_bf16_computes_in_bf16_and_keeps_float32(data):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    exact, rough = (
        Network(module, data, torch.device("cpu"), precision) for precision in ("float32", "bf16")
    )
    block = torch.stack(vectors(exact, 2))
    found = []
    for network in (exact, rough):
        gradient = torch.zeros(2, network.layout.parameter_size)
        for k in (1, 2):  # alone and stacked
            images, labels = data.images.expand(k, -1, -1, -1, -1), data.labels.expand(k, -1)
            network.gradients(block[:k].clone(), images, labels, [60] * k, gradient[:k])
        found.append(gradient)
    assert found[1].dtype == torch.float32
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, rtol=0.1, atol=0.02)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="device: 'cuda:1', but PyTorch sees 0 GPUs"):
        pick_device("cuda:1")
