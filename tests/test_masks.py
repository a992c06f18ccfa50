import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedalign.masks import MaskPlan, mask, phases, trained
from fedalign.parameters import Entry, Layout

LAYOUT = Layout(
    (Entry("conv.weight", (8, 3, 3, 3), 0), Entry("conv.bias", (8,), 216)),
    (Entry("norm.running_mean", (8,), 224),),
    (),
)
ratios = st.floats(0, 1, allow_nan=False)


def test_same_plan_same_mask_on_any_machine():
    drawn = mask(MaskPlan(7, 2, 0.4), LAYOUT)
    mask.cache_clear()
    assert torch.equal(drawn, mask(MaskPlan(7, 2, 0.4), LAYOUT))


def test_a_tensor_is_masked_alike_whatever_else_the_model_holds():
    alone = Layout((Entry("conv.bias", (8,), 0),), (), ())
    plan = MaskPlan(7, 2, 0.4)
    assert torch.equal(mask(plan, alone), mask(plan, LAYOUT)[216:224])


def test_masks_differ_between_draws_seeds_and_tensors():
    first = mask(MaskPlan(0, 0, 0.5), LAYOUT)
    assert not torch.equal(first, mask(MaskPlan(0, 1, 0.5), LAYOUT))
    assert not torch.equal(first, mask(MaskPlan(1, 0, 0.5), LAYOUT))
    assert not torch.equal(first[:8], first[216:224])


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.9])
def test_the_fixed_share_is_binomial(ratio):
    size = 100_000
    layout = Layout((Entry("w", (size,), 0),), (), ())
    fixed = size - int(mask(MaskPlan(3, 0, ratio), layout).sum())
    assert abs(fixed - ratio * size) < 5 * np.sqrt(size * ratio * (1 - ratio))


def test_ratio_one_fixes_all_and_buffers_are_never_masked():
    drawn = mask(MaskPlan(0, 0, 1.0), LAYOUT)
    assert drawn.shape == (224,)
    assert not drawn.any()


@given(ratio=ratios, steps=st.integers(1, 50))
def test_complement_half_is_disjoint_and_complete(ratio, steps):
    planned = phases(MaskPlan(0, 0, ratio, "complement_half"), LAYOUT, steps)
    assert sum(phase.steps for phase in planned) == steps
    if len(planned) == 1:
        assert planned[0].trains is None
    else:
        first, second = (phase.trains for phase in planned)
        assert torch.equal(first, ~second)
        assert planned[0].steps == (steps + 1) // 2


def test_one_step_trains_the_first_part_only():
    first, second = phases(MaskPlan(0, 0, 0.5, "complement_half"), LAYOUT, 1)
    assert (first.steps, second.steps) == (1, 0)


def test_hold_is_one_phase_and_what_it_trains_is_what_moves():
    plan = MaskPlan(0, 0, 0.5)
    (phase,) = phases(plan, LAYOUT, 9)
    assert phase.steps == 9
    assert torch.equal(phase.trains, trained(plan, LAYOUT))


def test_nothing_fixed_means_no_mask_at_all():
    assert phases(MaskPlan(), LAYOUT, 4)[0].trains is None
    assert trained(MaskPlan(), LAYOUT) is None
    assert trained(MaskPlan(0, 0, 0.4, "complement_half"), LAYOUT) is None
