"""Fusions against numbers that were worked out by hand."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.fusions.choosing import Best, Greedy
from fedalign.fusions.ensemble import Ensemble
from fedalign.fusions.fisher import FisherWeighted
from fedalign.fusions.matched import Matched
from fedalign.fusions.means import Mean, Slerp, Weighted
from fedalign.fusions.recipe import Ingredients, Supplies
from fedalign.fusions.tasks import TIES, TaskArithmetic
from fedalign.models.mlp import mlp
from fedalign.network.device import torch_threads
from fedalign.network.fisher import diagonal_fisher
from fedalign.network.network import Network
from fedalign.network.permutations import shuffled
from fedalign.rng import rng
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import HOME, options

CPU = torch.device("cpu")
BLACK_AND_WHITE = Dataset(
    torch.tensor([[[[0]]], [[[255]]]], dtype=torch.uint8),
    torch.tensor([0, 1]), 2, (0.0,), (1.0,), "a black pixel and a white one",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with torch_threads(1):
        yield


class Scores:
    """Supplies whose held-out accuracy is a function of the model's first number."""

    def __init__(self, accuracy, layout):
        self.network, self.accuracy = SimpleNamespace(layout=layout), accuracy

    def score(self, model):
        return 1.0, self.accuracy[round(float(model[0]), 4)]


def line():
    """Two logits of one pixel: weights w0, w1 and biases b0, b1."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    return Network(module, BLACK_AND_WHITE, CPU)


def ingredients(*models, start=None, weights=None, network=None, held_out=BLACK_AND_WHITE):
    """Models (w0, w1, b0, b1) of `line`."""
    network = network or line()
    spread = network.layout.spread
    vectors = torch.stack([spread(torch.tensor(own, dtype=torch.float32)) for own in models])
    begun = None if start is None else spread(torch.tensor(start, dtype=torch.float32))
    supplies = Supplies(network, 0, BLACK_AND_WHITE.images, held_out, 2)
    return Ingredients(supplies, vectors, weights, begun)


def numbers(recipe, of):
    return of.supplies.network.layout.compact(recipe.fuse(of).model).tolist()


A, B, C = [1.0, 2, 0, 4], [3.0, 2, -2, 0], [5.0, 8, 2, -1]


def test_means():
    assert numbers(Mean(), ingredients(A, B, C)) == [3, 4, 0, 1]
    assert numbers(Weighted(), ingredients(A, B, weights=[3, 1])) == [1.5, 2, -0.5, 3]
    assert numbers(Weighted(weights=[0.0, 2]), ingredients(A, B)) == B
    with pytest.raises(InputError, match=r"fusion.weights: 2 weights for 3 models"):
        Weighted(weights=[1, 2]).fuse(ingredients(A, B, C))
    with pytest.raises(InputError, match="not known on how many examples"):
        Weighted().fuse(ingredients(A, B))
    with pytest.raises(InputError, match="are all 0"):
        Weighted(weights=[0, 0]).fuse(ingredients(A, B))


def test_greedy_goes_from_best_to_worst_and_keeps_what_is_no_worse():
    """Models 1, 2, 4, 9 reach .5, .7, .7, .6: tried as 2, 4 (equal, in order), 9, 1.

    2 with 4 is 3 and no worse (.7), with 9 it is 5 (.6): refused; with 1 it is 7/3 (.8): joins.
    """
    accuracy = {1: 0.5, 2: 0.7, 4: 0.7, 9: 0.6, 3: 0.7, 5: 0.6, 2.3333: 0.8}
    of = ingredients(*([own, 0, 0, 0] for own in (1.0, 2, 4, 9)))
    of = Ingredients(Scores(accuracy, of.supplies.network.layout), of.models)
    fused = Greedy(repair="none").fuse(of)
    assert fused.model[0] == pytest.approx(7 / 3)
    assert fused.shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    tried = [(t["model"], t["accuracy"], t["joins"]) for t in fused.facts["tried"]]
    assert tried == [("1", 0.7, True), ("2", 0.7, True), ("3", 0.6, False), ("0", 0.8, True)]
    assert Greedy(repair="none", stop="first").fuse(of).model[0] == 3
    assert Best(repair="none").fuse(of).model[0] == 2
    assert Best(repair="none").fuse(of).facts == {"chosen": "1"}


def test_slerp_of_right_angles_and_of_parallels():
    """At 90 degrees sin(45)/sin(90) of each; at 1/3 sin(60) and sin(30)."""
    of = ingredients([2.0, 0, 0, 0], [0, 2.0, 0, 0])
    half, third = math.sqrt(2), (math.sqrt(3), 1)
    assert numbers(Slerp(), of) == pytest.approx([half, half, 0, 0])
    assert numbers(Slerp(t=1 / 3), of) == pytest.approx([*third, 0, 0])
    assert numbers(Slerp(), ingredients([1.0, 0, 0, 0], [3.0, 0, 0, 0])) == [2, 0, 0, 0]
    three = ingredients([2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0])
    found = numbers(Slerp(), three)  # the first two, then a third of the way to the third model
    assert found == pytest.approx([math.sqrt(1.5), math.sqrt(1.5), 1, 0])
    with pytest.raises(InputError, match=r"fusion.t: 0.3 is a place between two models, not 3"):
        Slerp(t=0.3).fuse(three)


def test_slerp_across_tensors():
    """The weights are at right angles, the biases parallel."""
    of = ingredients([2.0, 0, 1, 1], [0, 2.0, 3, 3])
    half = math.sqrt(2)
    assert numbers(Slerp(across="tensor"), of) == pytest.approx([half, half, 2, 2])


def test_task_vectors():
    """From the start (1, 1, 0, 0) the models differ by (0, 1, 0, 4) and (2, 1, -2, 0)."""
    of = ingredients(A, B, start=[1.0, 1, 0, 0])
    assert numbers(TaskArithmetic(scale=1.0), of) == [3, 3, -2, 4]
    assert numbers(TaskArithmetic(scale=0.5), of) == numbers(Mean(), of) == [2, 2, -1, 2]
    assert numbers(TaskArithmetic(scale="mean"), of) == [2, 2, -1, 2]


def test_the_scale_of_task_vectors_is_the_least_that_is_best_on_held_out_examples():
    """One model that has learnt to tell white by a weight: w1 = 4 scale, against a bias of 1.

    White is class 1 if 4 scale > 1, so from 0.3 on; of all those the largest margin has 1.
    """
    of = ingredients([0.0, 4, 1, 0], start=[0.0, 0, 1, 0])
    fused = TaskArithmetic().fuse(of)
    assert fused.facts["scale"] == 1
    accuracy = {round(t["scale"], 2): t["accuracy"] for t in fused.facts["tried"]}
    assert (accuracy[0.25], accuracy[0.3], len(accuracy)) == (0.5, 1, 20)


def test_ties_trims_elects_and_merges():
    """Task vectors (4, -1, 2, 0), (-3, -2, 1, 0), (1, 5, 2, 0), of which half is kept:

    (4, 0, 2, 0), (-3, -2, 0, 0), (0, 5, 2, 0). Signs of the sums 1, 3, 4: all +. Means of those
    with the sign: 4, 5, 2. Scaled by one half, from the start (1, 1, 1, 1).
    """
    start = [1.0, 1, 1, 1]
    tasks = [4.0, -1, 2, 0], [-3.0, -2, 1, 0], [1.0, 5, 2, 0]
    of = ingredients(*([1 + number for number in own] for own in tasks), start=start)
    assert numbers(TIES(density=0.5), of) == [5, 6, 3, 1]
    assert numbers(TIES(density=0.5, scale=0.5), of) == [3, 3.5, 2, 1]
    # All is kept: sums 2, 2, 5; means over (4, 1), (5), (2, 1, 2).
    assert numbers(TIES(density=1.0), of) == pytest.approx([3.5, 6, 1 + 5 / 3, 1])


def test_fisher_information_of_one_pixel():
    """Zero weights predict 1/2 each, so a logit's gradient is ±1/2 for the weights times the pixel.

    Squared 1/4: the biases have it for both pixels, the weights for the white one only. With the
    label's gradient it is the same, as it is with a drawn one.
    """
    network = line()
    zero = network.layout.spread(torch.zeros(4))
    for kind in ("exact", "empirical", "sampled"):
        found = diagonal_fisher(network, zero, BLACK_AND_WHITE, kind)
        assert network.layout.compact(found).tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4, 1 / 4])


def test_empirical_and_exact_fisher_differ_where_the_model_is_sure():
    """Biases (0, log 3) predict 1/4 and 3/4; the gradients of log p0 are (3/4, -3/4), of log p1
    (-1/4, 1/4). Exact: 1/4 · 9/16 + 3/4 · 1/16 = 3/16; empirical: (9/16 + 1/16) / 2 = 5/16.
    """
    network = line()
    model = network.layout.spread(torch.tensor([0, 0, 0, math.log(3)]))
    for kind, bias in (("exact", 3 / 16), ("empirical", 5 / 16)):
        found = network.layout.compact(diagonal_fisher(network, model, BLACK_AND_WHITE, kind))
        assert found[2:].tolist() == pytest.approx([bias, bias])


def test_weights_count_by_their_information():
    """Of two models with biases (0, 0) and (0, log 3) the informations are 1/4 and 3/16: 4 to 3."""
    of = ingredients([0.0, 0, 0, 0], [0.0, 0, 0, math.log(3)])
    found = numbers(FisherWeighted(normalise=False), of)
    assert found[3] == pytest.approx(3 / 7 * math.log(3), rel=1e-5)
    # With weights 1 and 4 it is 4 to 12.
    found = numbers(FisherWeighted(normalise=False, weights=[1.0, 4]), of)
    assert found[3] == pytest.approx(12 / 16 * math.log(3), rel=1e-5)
    # Normalised by the norms sqrt(2/64 + 2/16) and sqrt(2 (3/32)² + 2 (3/16)²): now both alike.
    assert numbers(FisherWeighted(), of)[3] == pytest.approx(math.log(3) / 2, rel=1e-3)


def test_an_ensemble_averages_logits_or_probabilities():
    """Biases (0, 0) and (0, log 9): mean logits (0, log 3), mean probabilities (0.3, 0.7)."""
    of = ingredients([0.0, 0, 0, 0], [0.0, 0, 0, math.log(9)])
    loss, accuracy = Ensemble().fuse(of).predict(BLACK_AND_WHITE)
    assert (loss, accuracy) == (pytest.approx(-math.log(1 / 4 * 3 / 4) / 2), 0.5)
    loss, _ = Ensemble(average="probabilities").fuse(of).predict(BLACK_AND_WHITE)
    assert loss == pytest.approx(-math.log(0.3 * 0.7) / 2)


HOW = {
    "cycle": Matched(),
    "first": Matched(to="first"),
    "start": Matched(to="start"),
    "activations": Matched(match="activations", to="first"),
}


@pytest.mark.parametrize("how", HOW)
def test_permuted_copies_become_the_first_one_or_the_start(how, data):
    torch.manual_seed(1)
    network = Network(mlp((1, 6, 6), 3, depth=2, width=8), data, CPU)
    layout = network.layout
    first = layout.to_vector(network.initial)
    copies = [shuffled(layout, network.symmetry, rng(i, "s"), first) for i in range(2)]
    start = shuffled(layout, network.symmetry, rng(9, "s"), first)
    supplies = Supplies(network, 0, data.images, None, 20)
    begun = start if how == "start" else None
    of = Ingredients(supplies, torch.stack([first, *copies]), None, begun)
    fused = HOW[how].fuse(of).model
    same = [network.watch(model, data.images, [""])[""] for model in (fused, first)]
    torch.testing.assert_close(*same)
    if how != "activations":  # which cannot tell silent neurons apart
        torch.testing.assert_close(fused, first if begun is None else begun)


def test_matching_all_to_one_another_is_by_weights():
    with pytest.raises(InputError, match=r"fusion.to: 'cycle' matches by weights only"):
        Matched(match="activations")


# The page.


def test_the_page_names_every_fusion_and_its_options_and_its_example_works():
    page = (HOME / "docs" / "fusing.md").read_text()
    for name in BUILTIN["fusions"]:
        (row,) = re.findall(rf"^\| `{name}` \|.*", page, re.MULTILINE)
        own = options("fusions", name).keys() - {"repair"}
        assert all(f"`{key}" in row or f", {key}" in row for key in own), (name, own)
    *_, code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, space := {})
    assert numbers(space["Median"](), ingredients(A, B, C)) == [3, 2, 0, 0]


# Properties.

NEUTRAL = {
    "mean": Mean(),
    "weighted": Weighted(weights=[1, 2, 4]),
    "greedy": Greedy(),
    "best": Best(),
    "slerp": Slerp(),
    "slerp, tensors": Slerp(across="tensor"),
    "task arithmetic": TaskArithmetic(scale="mean"),
    "ties": TIES(density=1.0),
    "fisher": FisherWeighted(fisher="sampled", examples=3),
    "matched": Matched(),
    "matched to the first": Matched(to="first"),
    "matched activations": Matched(match="activations", to="first"),
}


@pytest.fixture(scope="module")
def normed():
    """A network with BatchNorm, and data for it."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 2, 2), dtype=torch.uint8)
    data = Dataset(images, torch.arange(12) % 3, 3, (0.5,), (0.3,), "made up")
    module = nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3)
    )
    return Network(module, data, CPU), data


@pytest.mark.parametrize("repair", ["none", "statistics", "repair"])
@pytest.mark.parametrize("name", NEUTRAL)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1e-3, 1.0, 1e4]))
def test_equal_models_are_themselves_to_the_bit(normed, name, repair, seed, size):
    """With settings that neither shrink nor stretch: all of a task vector, the mean of several."""
    (network, data), draw = normed, torch.Generator().manual_seed(seed)
    layout = network.layout
    model, start = (
        layout.spread(size * torch.randn(layout.num_values, generator=draw)) for _ in range(2)
    )
    for entry in layout.buffers:
        entry.view(model).abs_()
    recipe = NEUTRAL[name]
    of = Ingredients(
        Supplies(network, 0, data.images, data, 6), model.repeat(3, 1), [1, 1, 1],
        None if "matched" in name else start,
    )  # fmt: skip
    fused = type(recipe)(**{**vars(recipe), "repair": repair}).fuse(of)
    assert torch.equal(fused.model, model)


def test_statistics_and_activations_are_repaired(normed):
    """Statistics are those of the mean itself; REPAIR then moves the layers' outputs."""
    network, data = normed
    layout, draw = network.layout, torch.Generator().manual_seed(0)
    models = layout.spread(torch.randn(2, layout.num_values, generator=draw).abs())
    of = Ingredients(Supplies(network, 0, data.images, None, 12), models)
    plain, statistics = (Mean(repair=how).fuse(of).model for how in ("none", "statistics"))
    size = layout.parameter_size
    assert torch.equal(plain[size:], models.mean(0)[size:])
    assert torch.equal(plain[:size], statistics[:size])
    seen = network.watch(statistics, data.images, ["0"])["0"]
    mean = layout.buffers[0].view(statistics)
    torch.testing.assert_close(mean, seen.mean((0, 2, 3)))
    assert torch.equal(Mean(repair="repair").fuse(of).model, statistics)  # no layer has a bias


def test_repair_gives_layers_the_moments_of_the_parts(data):
    torch.manual_seed(0)
    network = Network(mlp((1, 6, 6), 3, depth=1, width=8), data, CPU)
    models = torch.stack([network.layout.to_vector(network.initial) for _ in range(2)])
    models += 0.5 * torch.randn(models.shape) * (models != 0)
    of = Ingredients(Supplies(network, 0, data.images, None, 20), models, [1, 3])
    fused = Weighted(repair="repair").fuse(of).model
    outs = [network.watch(own, data.images, ["fc1"])["fc1"] for own in (*models, fused)]
    wanted = 0.25 * outs[0].std(0, correction=0) + 0.75 * outs[1].std(0, correction=0)
    torch.testing.assert_close(outs[2].std(0, correction=0), wanted, rtol=1e-3, atol=1e-4)
