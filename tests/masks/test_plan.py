import doctest
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from fedalign.masks import drawing
from fedalign.masks import phases as phases_module
from fedalign.masks.drawing import Draw
from fedalign.masks.freezer import Freezer
from fedalign.masks.phases import Phase, phases, update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.network.layout import Entry, Layout
from fedalign.settings.builtin import BUILTIN

LAYOUT = Layout(
    (
        Entry("conv.weight", (8, 3, 3, 3), 0),
        Entry("conv.bias", (8,), 224),
        Entry("norm.weight", (8,), 240),
        Entry("norm.bias", (8,), 256),
        Entry("fc.weight", (5, 8), 272),
        Entry("fc.bias", (5,), 320),
    ),
    (Entry("norm.running_mean", (8,), 336),),
    (),
)
COUNT = 285  # weights, the last 45 of them the head's
ratios = st.floats(0, 1, allow_nan=False)
schedules = st.sampled_from(
    [
        "hold",
        "complement_half",
        "alternate_rounds",
        "growing",
        "frozen_then_full",
        json.dumps({"name": "complement_half", "first": "complement"}),
        json.dumps({"name": "k_way", "parts": 3}),
        json.dumps({"name": "growing", "over": "rounds", "length": 5}),
    ]
)
plans = st.builds(
    MaskPlan,
    seed=st.integers(0, 9),
    mask_index=st.integers(0, 9),
    fixed_ratio=ratios,
    schedule=schedules,
    server_round=st.integers(1, 20),
    granularity=st.sampled_from(["weight", "neuron", "layer"]),
    sampling=st.sampled_from(["bernoulli", "exact"]),
    include=st.sampled_from(["*", "*.weight", "head", "conv.* fc.bias"]),
    exclude=st.sampled_from(["", "head", "norm.*"]),
    per_client=st.booleans(),
)


@pytest.mark.parametrize("module", [drawing, phases_module])
def test_examples_in_docstrings_run(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def mask(plan, layout=LAYOUT):
    return Draw(plan, layout).between(plan.fixed_ratio, 1)


def weights(mask):
    """A mask `(P,)` without padding, which trains in none; None is the mask that trains all."""
    if mask is None:
        return torch.ones(COUNT, dtype=bool)
    assert mask.sum() == LAYOUT.compact(mask).sum()
    return LAYOUT.compact(mask)


def test_same_plan_same_mask_on_any_machine():
    """These entries were drawn once and must never change: a federation spans versions."""
    drawn = mask(MaskPlan(7, 2, 0.4))
    assert drawn[:8].tolist() == [False, False, False, False, True, True, False, True]


def test_a_tensor_is_masked_alike_whatever_else_the_model_holds():
    alone = Layout((Entry("conv.bias", (8,), 0),), (), ())
    plan = MaskPlan(7, 2, 0.4)
    assert torch.equal(mask(plan, alone), mask(plan)[216:224])


def test_masks_differ_between_turns_seeds_tensors_and_clients():
    plan = MaskPlan(0, 0, 0.5, per_client=True)
    first = mask(plan)
    others = [MaskPlan(0, 1, 0.5), MaskPlan(1, 0, 0.5), plan.of(0), plan.of(1)]
    assert len({tuple(m.tolist()) for m in [first, *map(mask, others)]}) == 5
    assert not torch.equal(first[216:224], first[224:232])
    assert MaskPlan(0, 0, 0.5).of(3).client is None


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.9])
def test_the_fixed_share_is_binomial_or_exact(ratio):
    size = 100_001
    layout = Layout((Entry("w", (size,), 0),), (), ())
    fixed = size - int(mask(MaskPlan(3, 0, ratio), layout).sum())
    assert 0 < abs(fixed - ratio * size) < 5 * np.sqrt(size * ratio * (1 - ratio))
    fixed = size - int(mask(MaskPlan(3, 0, ratio, sampling="exact"), layout).sum())
    assert abs(fixed - ratio * size) <= 0.5


def test_a_neuron_is_a_unit_with_its_bias_and_norm_terms():
    assert [[e.name for e in own] for own in LAYOUT.layers] == [
        ["conv.weight", "conv.bias", "norm.weight", "norm.bias"],
        ["fc.weight", "fc.bias"],
    ]
    drawn = mask(MaskPlan(1, 0, 0.5, granularity="neuron", sampling="exact"))
    bias = drawn[216:224]
    assert int((~bias).sum()) == 4
    assert torch.equal(drawn[:216].view(8, 27), bias[:, None].expand(8, 27))
    assert torch.equal(drawn[224:232], bias)
    assert torch.equal(drawn[232:240], bias)
    assert torch.equal(drawn[240:280].view(5, 8), drawn[280:285, None].expand(5, 8))


def test_half_of_two_layers_is_one_layer():
    found = set()
    for turn in range(20):
        drawn = mask(MaskPlan(0, turn, 0.5, granularity="layer", sampling="exact"))
        found.add((bool(drawn[:240].all()), bool(drawn[240:].all())))
        assert drawn[:240].all() != drawn[240:].all()
    assert found == {(True, False), (False, True)}


def test_include_and_exclude():
    only = mask(MaskPlan(0, 0, 1.0, include="head"))
    assert only[:240].all()
    assert not only[240:].any()
    without = mask(MaskPlan(0, 0, 1.0, exclude="conv.bias fc.*"))
    assert without.nonzero().flatten().tolist() == [*range(216, 224), *range(240, 285)]
    with pytest.raises(
        ValueError, match=r"'heat' is no tensor of the model \(head, body, conv.weight"
    ):
        mask(MaskPlan(0, 0, 1.0, include="heat"))


def test_excluded_weights_train_in_both_halves():
    planned = phases(MaskPlan(0, 0, 0.5, "complement_half", exclude="head"), LAYOUT, 4)
    first, second = (weights(phase.trains) for phase in planned)
    assert torch.equal(first[:240], ~second[:240])
    assert first[240:].all()
    assert second[240:].all()


@given(plan=plans, steps=st.integers(1, 50), client=st.integers(0, 3))
def test_any_plan_spends_all_steps_and_moves_what_it_says(plan, steps, client):
    plan = plan.of(client)
    planned = phases(plan, LAYOUT, steps)
    assert sum(phase.steps for phase in planned) == steps
    union = torch.stack([weights(phase.trains) for phase in planned]).any(0)
    assert torch.equal(union, weights(update_mask(plan, LAYOUT)))


@given(plan=plans, steps=st.integers(1, 50))
def test_complement_half_is_disjoint_and_complete(plan, steps):
    plan = MaskPlan(plan.seed, plan.mask_index, plan.fixed_ratio, "complement_half")
    planned = phases(plan, LAYOUT, steps)
    if len(planned) == 1:
        assert planned[0].trains is None
    else:
        assert torch.equal(weights(planned[0].trains), ~weights(planned[1].trains))
        assert planned[0].steps == (steps + 1) // 2


def test_complement_epochs_changes_between_epochs():
    planned = phases(MaskPlan(0, 0, 0.5, "complement_epochs"), LAYOUT, 21, epochs=3)
    assert [phase.steps for phase in planned] == [14, 7]
    with pytest.raises(ValueError, match="2 epochs or more are needed, not 1"):
        phases(MaskPlan(0, 0, 0.5, "complement_epochs"), LAYOUT, 21, epochs=1)


def test_alternate_rounds_keeps_a_mask_for_two_rounds():
    masks = [
        weights(update_mask(MaskPlan(0, t - 1, 0.5, "alternate_rounds", server_round=t), LAYOUT))
        for t in range(1, 5)
    ]
    assert torch.equal(masks[0], ~masks[1])
    assert torch.equal(masks[2], ~masks[3])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("schedule", sorted(set(BUILTIN["schedules"]) - {"k_way"}))
@pytest.mark.parametrize("server_round", [1, 2, 11])
def test_fixing_nothing_is_one_stretch_of_everything(schedule, server_round):
    """And so FedAvg, whose optimiser does not start anew within a round."""
    plan = MaskPlan(0, 0, 0.0, schedule, server_round)
    assert phases(plan, LAYOUT, 12, epochs=2) == [Phase(None, 12)]


@pytest.mark.parametrize("server_round", [1, 2])
def test_alternating_with_nothing_trains_everything(server_round):
    assert phases(MaskPlan(0, 0, 1.0, "alternate_rounds", server_round), LAYOUT, 4) == [
        Phase(None, 4)
    ]


def test_a_mask_that_goes_on_is_one_phase():
    """Of two layers 0.9, 0.6, 0.3 and 0 leave none, one, one, and both: the first has no weight."""
    plan = MaskPlan(0, 0, 0.9, "growing", granularity="layer", sampling="exact")
    assert [phase.steps for phase in phases(plan, LAYOUT, 9)] == [6, 3]


def test_k_way_takes_disjoint_parts_in_turn():
    schedule = json.dumps({"name": "k_way", "parts": 4})
    planned = phases(MaskPlan(0, 0, 0.4, schedule, sampling="exact"), LAYOUT, 10)
    assert [phase.steps for phase in planned] == [3, 2, 3, 2]
    assert torch.stack([weights(phase.trains) for phase in planned]).sum(0).eq(1).all()
    assert [int(phase.trains[:216].sum()) for phase in planned] == [54] * 4


def test_growing_ends_with_everything():
    planned = phases(MaskPlan(0, 0, 0.9, "growing", sampling="exact"), LAYOUT, 8)
    shares = [1.0 if p.trains is None else float(p.trains[:216].float().mean()) for p in planned]
    assert shares == pytest.approx([0.1, 0.4, 0.7, 1.0], abs=0.003)
    assert (weights(planned[1].trains) | ~weights(planned[0].trains)).all()
    over = json.dumps({"name": "growing", "over": "rounds", "length": 4})
    by_round = [
        update_mask(MaskPlan(0, 0, 0.8, over, t, sampling="exact"), LAYOUT) for t in range(1, 6)
    ]
    assert by_round[4] is None
    assert [int(m[:216].sum()) for m in by_round[:4]] == [43, 86, 130, 173]


def test_frozen_then_full():
    schedule = json.dumps({"name": "frozen_then_full", "rounds": 2})
    moved = [update_mask(MaskPlan(0, 0, 0.4, schedule, t), LAYOUT) for t in (1, 2, 3)]
    assert [mask is None for mask in moved] == [False, False, True]


def test_a_schedule_nobody_has():
    with pytest.raises(InputError, match="'k_ways' is not a schedule; did you mean 'k_way'"):
        phases(MaskPlan(0, 0, 0.4, "k_ways"), LAYOUT, 3)


def test_one_step_trains_the_first_part_only():
    first, second = phases(MaskPlan(0, 0, 0.5, "complement_half"), LAYOUT, 1)
    assert (first.steps, second.steps) == (1, 0)


def test_nothing_fixed_means_no_mask_at_all():
    assert phases(MaskPlan(), LAYOUT, 4)[0].trains is None
    assert update_mask(MaskPlan(), LAYOUT) is None
    assert update_mask(MaskPlan(0, 0, 0.4, "complement_half"), LAYOUT) is None


@pytest.mark.parametrize(
    "more", [{"freeze": "grad_only"}, {"fixed_lr_scale": 0.1}, {"per_client": True}]
)
def test_what_may_move_although_it_is_fixed_is_sent(more):
    assert update_mask(MaskPlan(0, 0, 0.4, **more), LAYOUT) is None


def test_slow_weights_make_a_share_of_each_step():
    weights, free = torch.zeros(1, 2), torch.tensor([True, False])
    freezer = Freezer(weights, [[Phase(free, 2)]], MaskPlan(fixed_lr_scale=0.25))
    freezer.enter(0, weights)
    for _ in range(2):
        weights += 4
        freezer.put_back(weights)
    assert weights.tolist() == [[8.0, 2.0]]


def test_grad_only_leaves_the_weights_to_the_optimiser():
    weights, free = torch.zeros(1, 2), torch.tensor([True, False])
    freezer = Freezer(weights, [[Phase(free, 2)]], MaskPlan(freeze="grad_only"))
    freezer.enter(0, weights)
    weights += 4
    freezer.put_back(weights)
    assert weights.tolist() == [[4.0, 4.0]]
    assert freezer.filters
    assert torch.equal(freezer.trains(1), free[None])
