import numpy as np
import pytest
import torch

from fedalign.landscape.paths import Path, grid, hybrids, pairs, simplex, some


def test_the_grid_has_both_ends_and_goes_beyond():
    assert grid(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert grid(5, 1.6).tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert 1.0 in grid(11, 2.0).tolist()
    assert len(grid(11, 2.0)) == 21


def test_the_ends_are_their_models_and_nothing_else():
    first, middle, last, beyond = Path("x", "a", "b", np.array([0, 0.25, 1, 1.5])).mixes()
    assert first == {"a": 1.0}
    assert middle == {"a": 0.75, "b": 0.25}
    assert last == {"b": 1.0}
    assert beyond == {"a": -0.5, "b": 1.5}


def test_pairs_are_all_there_are_at_most():
    assert pairs([4, 7, 9], 10, 0, 1) == [(4, 7), (4, 9), (7, 9)]
    assert pairs([4], 3, 0, 1) == []
    assert len(pairs(range(50), 5, 0, 1)) == 5


def test_some_are_drawn_from_those_who_take_part():
    assert some([4, 7], 5, 0, "x", 1) == (4, 7)
    drawn = some(range(30), 3, 0, "x", 1)
    assert len(set(drawn)) == 3
    assert drawn != some(range(30), 3, 0, "x", 2)


def test_clients_that_go_by_the_ids_of_their_nodes_are_drawn_as_they_are():
    """Of numbers above and below 2^63 NumPy makes floats."""
    ids = [3, 13237178743894837249]
    assert pairs(ids, 1, 0, 1) == [tuple(ids)]
    assert some(ids, 2, 0, "x", 1) == tuple(ids)


def test_mixes_lie_on_the_simplex():
    weights = simplex(4, 2000, 0, 1)
    assert np.allclose(weights.sum(1), 1)
    assert (weights >= 0).all()
    assert weights.mean(0) == pytest.approx(np.full(4, 0.25), abs=0.02)
    assert weights.var(0) == pytest.approx(
        np.full(4, 3 / 80), abs=0.005
    )  # of Dirichlet(1, 1, 1, 1)


def test_hybrids_differ_from_the_start_in_one_layer_and_cover_all(network):
    start = network.layout.to_vector(network.initial)
    end = start + 1
    found = hybrids(network.layout, start, end)
    assert list(found) == ["conv", "fc"]
    models, count = torch.stack(list(found.values())), network.layout.num_parameters
    moved = network.layout.compact(models != start)[:, :count]
    assert (moved.sum(0) == 1).all()
    fc = network.layout.compact(torch.stack([found["fc"], end]))[:, :count]
    assert torch.equal(*fc[:, moved[1]])
