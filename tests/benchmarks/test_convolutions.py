import math

import pytest
import torch


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("name", ["grouped", "grouped, channels last", "unfold + bmm"])
def test_every_way_to_convolve_computes_the_same(name, padding):
    from convolutions import WAYS, Layer, both_ways, separate

    layer = Layer("odd", k=3, b=4, c=2, side=7, o=5, kernel=3, padding=padding)
    x, w = layer.tensors(torch.device("cpu"))
    expected, found = both_ways(separate, x, w, padding), both_ways(WAYS[name], x, w, padding)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_separate_convolutions_are_those_of_each_model():
    from convolutions import Layer, separate

    x, w = Layer("odd", 3, 4, 2, 7, 5, 3).tensors(torch.device("cpu"))
    one = torch.nn.functional.conv2d(x[4:8], w[1])
    torch.testing.assert_close(separate(x, w, 0)[4:8], one)


def test_operations_are_counted_by_hand():
    from convolutions import Layer

    # 2 models, 3 examples, 2x2 outputs, 5 kernels of 4 x 3 x 3 multiplications and additions
    assert Layer("hand", k=2, b=3, c=4, side=4, o=5, kernel=3).flops == 2 * 3 * 4 * 5 * 36 * 2


def test_a_layer_without_time_is_named():
    from convolutions import SMALL, table

    assert "| small | skipped: no time left | | | |" in list(table(SMALL, False, 0, ["grouped"]))
    lines = table(SMALL, bf16=True, end=math.inf, names=["triton", "grouped", "separate"])
    assert len([line for line in lines if line.startswith("| small")]) == 2  # triton wants a GPU
