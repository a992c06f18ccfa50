from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.errors import InputError
from fedalign.landscape.barriers import accuracy_barrier, loss_barrier
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.paths import Path, grid, simplex
from fedalign.network.network import Network
from fedalign.network.permutations import shuffled
from fedalign.rng import rng
from fedalign.server.measure import Measure, columns
from fedalign.server.round import Round
from fedalign.settings.sections import Evaluation
from tests.tape import Tapes

SIZES = [30, 10, 20, 5, 5, 15, 20, 40, 5, 10]


@pytest.fixture
def plain(data):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    return Network(module, data, torch.device("cpu"))


def measure(network, data, **settings):
    evaluation = Evaluation(**{"alphas": 5} | settings)
    return Measure(network, data, data, evaluation, seed=0, rounds=10, sizes=SIZES)


def between(network, data, start, end):
    look = Evaluator(network, data, data, Evaluation(alphas=5))
    return look.curves({"a": start, "b": end}, [Path("x", "a", "b", grid(5))])[0]


def vectors(network, count):
    layout = network.layout
    start = layout.compact(layout.to_vector(network.initial))
    draws = [torch.Generator().manual_seed(i) for i in range(count)]
    return [layout.spread(start + 0.3 * torch.randn(start.shape, generator=d)) for d in draws]


def test_curve_ends_are_the_end_models(plain, data):
    a, b = vectors(plain, 2)
    curve = between(plain, data, a, b)
    for place, vector in ((0, a), (-1, b)):
        loss, accuracy = plain.evaluate(vector, data, 500)
        assert (curve.losses[place], curve.accuracies[place]) == (loss, accuracy)


def test_identical_models_have_no_barrier_with_batchnorm_too(network, plain, data):
    for net in (network, plain):
        (vector,) = vectors(net, 1)
        curve = between(net, data, vector, vector.clone())
        assert loss_barrier(curve) == 0
        assert accuracy_barrier(curve) == 0


def test_a_permuted_copy_has_equal_ends_and_a_barrier(plain, data):
    from clients.local import Local
    from fedalign.algorithm import Stack
    from fedalign.masks.plan import MaskPlan

    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    data = replace(data, labels=data.labels[shuffled])  # to be learnt by heart
    start = plain.layout.to_vector(plain.initial)
    block, rows = start.repeat(1, 1), [np.arange(60)]
    Local(epochs=200).train(Stack(plain, data, start, block, rows, [rng(0)], [MaskPlan()]))
    state = {e.name: block[0, e.start : e.stop].view(e.shape) for e in plain.layout.parameters}
    order = torch.tensor([3, 4, 5, 6, 7, 0, 1, 2])
    permuted = torch.cat(
        [
            state["1.weight"][order].reshape(-1),
            state["1.bias"][order],
            state["3.weight"][:, order].reshape(-1),
            state["3.bias"],
        ]
    )
    curve = between(plain, data, block[0], plain.layout.spread(permuted))
    assert curve.losses[0] == pytest.approx(curve.losses[-1], rel=1e-5)
    assert loss_barrier(curve) > 0.1


def test_a_model_convex_in_its_weights_has_none(data):
    torch.manual_seed(0)
    linear = Network(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), data, torch.device("cpu"))
    a, b = vectors(linear, 2)
    assert loss_barrier(between(linear, data, a, b)) == pytest.approx(0, abs=1e-6)


def test_recalibrated_statistics_are_those_of_the_data(network, data):
    (vector,) = vectors(network, 1)
    fresh = network.recalibrate(vector, data.images, batch_size=60)
    network.layout.bind(network.module, vector.clone())
    hidden = network.module.conv((data.images.float() - 0.3 * 255) / (0.2 * 255))
    mean, var = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
    buffers = fresh[network.layout.parameter_size :]
    own = torch.cat([entry.view(fresh) for entry in network.layout.buffers])
    torch.testing.assert_close(own, torch.cat([mean, var]).detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(fresh[: -len(buffers)], vector[: -len(buffers)])


def test_a_round_is_measured(plain, data):
    models = [plain.layout.to_record(v, {}) for v in vectors(plain, 5)]
    outcome = Round(1, plain.initial, models[0], dict(zip((2, 5, 7, 9), models[1:], strict=True)))
    observer = measure(plain, data, pairs=4)
    assert observer.models_wanted(1, [2, 5, 7, 9]) <= {2, 5, 7, 9}
    outcome = outcome.plus(observer.on_round(outcome))
    paths = [curve.path for curve in outcome.curves]
    assert paths[0] == "global"
    assert len(set(paths)) == 5
    loss, accuracy = plain.evaluate(plain.layout.to_vector(models[0]), data, 500)
    assert outcome.metrics["test_loss"] == loss
    assert outcome.metrics["test_accuracy"] == accuracy
    expected = np.mean([loss_barrier(curve) for curve in outcome.curves[1:]])
    assert outcome.metrics["client_loss_barrier"] == expected


def test_a_pair_whose_client_failed_is_left_out(plain, data):
    models = {p: plain.layout.to_record(v, {}) for p, v in enumerate(vectors(plain, 3))}
    observer = measure(plain, data, pairs=3)
    assert observer.models_wanted(1, [0, 1, 2]) == {0, 1, 2}
    outcome = Round(1, plain.initial, models[0], {0: models[0], 2: models[2]})
    outcome = outcome.plus(observer.on_round(outcome))
    assert [curve.path for curve in outcome.curves] == ["global", "clients:0-2"]


def test_the_seed_and_the_round_choose_the_pairs(plain, data):
    wanted = [measure(plain, data, pairs=2).models_wanted(n, range(40)) for n in (1, 1, 2)]
    assert wanted[0] == wanted[1] != wanted[2]


def test_no_alphas_no_paths(plain, data):
    outcome = Round(1, plain.initial, plain.initial, {0: plain.initial, 1: plain.initial})
    observer = measure(plain, data, alphas=0)
    assert observer.models_wanted(1, [0, 1]) == set()
    outcome = outcome.plus(observer.on_round(outcome))
    assert set(outcome.metrics) == {"test_loss", "test_accuracy"}
    assert not outcome.curves


def test_one_client_has_no_pairs(plain, data):
    outcome = Round(1, plain.initial, plain.initial, {0: plain.initial})
    outcome = outcome.plus(measure(plain, data).on_round(outcome))
    assert "client_loss_barrier" not in outcome.metrics
    assert outcome.metrics["global_loss_barrier"] == 0


def test_the_fusion_gap_by_another_way(plain, data):
    """On a model without BatchNorm, with torch's own loss: sum over all examples and clients."""
    models = vectors(plain, 4)
    records = {p: plain.layout.to_record(v, {}) for p, v in zip((0, 2, 3), models[1:], strict=True)}
    outcome = Round(1, plain.initial, plain.layout.to_record(models[0], {}), records)
    observer = measure(plain, data, fusion_gap=True, alphas=0)
    observer.models_wanted(1, [0, 2, 3])
    outcome = outcome.plus(observer.on_round(outcome))

    def judged(vector):
        plain.layout.bind(plain.module, vector.clone())
        with torch.no_grad():
            logits = plain.module((data.images.float() - 0.3 * 255) / (0.2 * 255))
        right = (logits.argmax(1) == data.labels).float().mean()
        return float(functional.cross_entropy(logits, data.labels)), float(right)

    (loss, accuracy), *apart = map(judged, models)
    shares = [30 / 55, 20 / 55, 5 / 55]  # examples of partitions 0, 2 and 3
    losses = sum(share * each for share, (each, _) in zip(shares, apart, strict=True))
    accuracies = sum(share * each for share, (_, each) in zip(shares, apart, strict=True))
    assert outcome.metrics["fusion_gap"] == pytest.approx(loss - losses, abs=1e-5)
    assert outcome.metrics["fusion_gap_accuracy"] == pytest.approx(accuracies - accuracy, abs=1e-6)


def test_equal_models_have_no_fusion_gap_with_batchnorm_too(network, data):
    (vector,) = vectors(network, 1)
    model = network.layout.to_record(vector, {})
    outcome = Round(1, network.initial, model, {0: model, 1: model})
    observer = measure(network, data, fusion_gap=True, alphas=0)
    observer.models_wanted(1, [0, 1])
    outcome = outcome.plus(observer.on_round(outcome))
    assert outcome.metrics["fusion_gap"] == pytest.approx(0, abs=1e-12)


def test_the_fusion_gap_asks_for_every_model_and_measures_each_once(plain, data, monkeypatch):
    observer = measure(plain, data, fusion_gap=True, pairs=3, alphas=3)
    assert observer.models_wanted(1, range(4)) == {0, 1, 2, 3}
    models = [plain.layout.to_record(v, {}) for v in vectors(plain, 5)]
    whole, mixes = plain.scores, plain.evaluate_mixes
    calls, asked = [], []
    monkeypatch.setattr(plain, "scores", lambda *a: calls.append(a) or whole(*a))
    monkeypatch.setattr(plain, "evaluate_mixes", lambda *a: asked.extend(a[1]) or mixes(*a))
    observer.on_round(Round(1, plain.initial, models[4], dict(enumerate(models[:4]))))
    assert len(calls) == 1  # the whole test set
    assert len(asked) == 5 + 1 + 1 + 3  # five models; the old one, the middles of four lines


def test_captured_passes_measure_the_same_rounds(plain, data):
    """As on a GPU, with tapes for graphs: round after round, and with models that diverge."""
    settings = {"fusion_gap": True, "pairs": 2, "mixes": 2, "plane": 3}
    one, other = (measure(network, data, **settings) for network in (plain, plain.twin()))
    captured = Tapes(), Tapes()
    other._scorer.graphs, other._evaluator._scorer.graphs = captured
    models = vectors(plain, 20)
    models[13] = models[13] * torch.nan
    for number in range(1, 6):
        own = [plain.layout.to_record(v, {}) for v in models[4 * number - 4 : 4 * number]]
        outcome = Round(number, plain.initial, own[0], dict(enumerate(own)))
        assert one.models_wanted(number, range(4)) == other.models_wanted(number, range(4))
        expected, found = one.on_round(outcome), other.on_round(outcome)
        assert found.metrics == pytest.approx(expected.metrics, nan_ok=True)
        assert len(found.curves) == len(expected.curves) == 3
    assert all(graphs.tapes for graphs in captured)


def test_every_so_many_rounds_and_in_the_last_one(plain, data):
    observer = measure(plain, data, every=4, fusion_gap=True)
    full = {"global_loss_barrier", "client_loss_barrier", "fusion_gap"}
    for number in range(1, 11):
        due = number in (4, 8, 10)
        assert observer.models_wanted(number, range(3)) == (set(range(3)) if due else set())
        outcome = Round(
            number, plain.initial, plain.initial, dict.fromkeys(range(3), plain.initial)
        )
        outcome = outcome.plus(observer.on_round(outcome))
        assert "test_accuracy" in outcome.metrics
        assert bool(full & outcome.metrics.keys()) == bool(outcome.curves) == due
        assert not due or full <= outcome.metrics.keys()


def test_more_paths_and_mixes(plain, data):
    models = vectors(plain, 4)
    records = {p: plain.layout.to_record(v, {}) for p, v in enumerate(models[:3])}
    observer = measure(
        plain, data, pairs=1, to_global=2, mixes=4, layers=True, extrapolate=1.5, alphas=5
    )
    assert observer.models_wanted(1, [0, 1, 2]) == {0, 1, 2}
    outcome = Round(1, plain.initial, plain.layout.to_record(models[3], {}), records)
    outcome = outcome.plus(observer.on_round(outcome))
    kinds = [curve.kind for curve in outcome.curves]
    assert kinds == ["global", "to_global", "to_global", "clients", "layer", "layer"]
    assert outcome.curves[0].alphas.tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    by_path = {curve.path: curve for curve in outcome.curves}
    i, j = outcome.curves[3].path.removeprefix("clients:").split("-")
    start, end = models[int(i)], models[int(j)]
    layer = [e for e in plain.layout.parameters if e.name.startswith("3.")]
    hybrid = start.clone()
    hybrid[layer[0].start : layer[-1].stop] = end[layer[0].start : layer[-1].stop]
    found = by_path[f"layer:{i}-{j}:3"]
    assert found.losses[-1] == plain.evaluate(hybrid, data, 500)[0]
    middle = plain.evaluate(torch.lerp(start, hybrid, 0.5), data, 500)[0]
    assert found.losses[2] == pytest.approx(middle, rel=1e-5)
    beyond = plain.layout.to_vector(plain.initial)
    beyond = beyond + 1.5 * (models[3] - beyond)
    assert outcome.curves[0].losses[-1] == pytest.approx(plain.evaluate(beyond, data, 500)[0], 1e-4)


def test_the_gap_of_random_mixes_by_another_way(plain, data):
    models = vectors(plain, 3)
    records = {p: plain.layout.to_record(v, {}) for p, v in enumerate(models)}
    observer = measure(plain, data, mixes=5, alphas=0)
    assert observer.models_wanted(2, [0, 1, 2]) == {0, 1, 2}
    outcome = Round(2, plain.initial, plain.initial, records)
    outcome = outcome.plus(observer.on_round(outcome))
    own = [plain.evaluate(model, data, 500)[0] for model in models]
    gaps = []
    for weights in simplex(3, 5, 0, 2):
        mix = sum(w * m for w, m in zip(weights.tolist(), models, strict=True))
        gaps.append(plain.evaluate(mix, data, 500)[0] - float(weights @ own))
    assert outcome.metrics["mix_gap"] == pytest.approx(np.mean(gaps), abs=1e-5)
    assert outcome.curves == []


def test_columns_name_all_that_a_round_tells(plain, data):
    settings = {"pairs": 1, "to_global": 1, "mixes": 1, "fusion_gap": True}
    observer = measure(plain, data, **settings)
    models = {p: plain.layout.to_record(v, {}) for p, v in enumerate(vectors(plain, 3))}
    observer.models_wanted(1, [0, 1, 2])
    outcome = Round(1, plain.initial, plain.initial, models)
    outcome = outcome.plus(observer.on_round(outcome))
    assert set(columns(observer.settings)) | {"test_loss", "test_accuracy"} == set(outcome.metrics)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_models_that_differ_in_the_order_of_their_neurons_are_one_after_matching(plain, data, by):
    start = vectors(plain, 1)[0]
    clients = [shuffled(plain.layout, plain.symmetry, rng(0, "x", i), start) for i in range(3)]
    records = {p: plain.layout.to_record(v, {}) for p, v in enumerate(clients)}
    mean = plain.layout.to_record(sum(clients) / 3, {})
    observer = measure(plain, data, pairs=2, match=by, fusion_gap=True)
    observer.models_wanted(1, [0, 1, 2])
    outcome = Round(1, plain.initial, mean, records)
    outcome = outcome.plus(observer.on_round(outcome))
    told = outcome.metrics
    assert told["client_loss_barrier"] > 0.01
    assert told["matched_loss_barrier"] == pytest.approx(0, abs=1e-5)
    assert told["fusion_gap"] > 0.01
    assert told["matched_fusion_gap"] == pytest.approx(0, abs=1e-5)
    assert told["matching_sweeps"] >= 1
    paths = [curve.kind for curve in outcome.curves]
    assert paths == ["global", "clients", "matched", "clients", "matched"]
    assert set(columns(observer.settings)) | {"test_loss", "test_accuracy"} == set(told)


def test_a_model_of_which_no_symmetry_is_known_cannot_be_matched(network, data):
    with pytest.raises(InputError, match=r"can be exchanged: Small is no nn\.Sequential; give its"):
        measure(network, data, match="weights")
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()
    chain = Network(nn.Sequential(*layers, nn.Linear(16, 3)), data, torch.device("cpu"))
    with pytest.raises(InputError, match=r"what layer '2' \(Conv2d\(4, 4, .*groups=2"):
        measure(chain, data, match="weights")
