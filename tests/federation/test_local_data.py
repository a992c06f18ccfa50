"""A node that holds its own data: what it trains on, what it tests on, what it is refused for."""

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.federation.examples import hold_out
from fedalign.federation.federation import Federation
from fedalign.federation.local_data import description, local_federation
from fedalign.rng import rng
from fedalign.settings.config import read


def write(folder, part, count):
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(folder / f"{part}.npz", images=images, labels=np.arange(count) % 10)


def federation(**settings):
    return Federation(read(None, {f"evaluation.{key}": v for key, v in settings.items()}))


def local(folder, **settings):
    own = federation(**settings)
    return local_federation(own.config, folder, own.spec)


def test_the_test_part_comes_last_and_is_tested_on_only(tmp_path):
    write(tmp_path, "train", 20)
    write(tmp_path, "test", 5)
    for settings in ({}, {"holdout": 0.5}):
        own = local(tmp_path, **settings)
        held = own.held(3, 0)
        assert held.trained.tolist() == list(range(20))
        assert held.tested.tolist() == list(range(20, 25))
        assert own.train.images[20:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_without_a_test_part_a_share_is_held_out_or_all_is_tested_on(tmp_path):
    write(tmp_path, "train", 20)
    held = local(tmp_path).held(3, 0)
    assert held.trained.tolist() == held.tested.tolist() == list(range(20))
    held = local(tmp_path, holdout=0.25).held(3, 0)
    trained, tested = hold_out(np.arange(20), 0.25, rng(0, "holdout", 3))
    assert held.trained.tolist() == trained.tolist()
    assert held.tested.tolist() == tested.tolist()
    assert len(tested) == 5


def test_a_node_sees_its_own_data_as_they_are(tmp_path):
    write(tmp_path, "train", 20)
    settings = {"partition": "feature-skew", "partition.noise": 0.5}
    plain = federation()
    own = local_federation(read(None, settings), tmp_path, plain.spec)
    rows = np.arange(3)
    data, (found,) = own.examples.seen(1, [0], [rows])
    assert data is own.train
    assert found is rows


def test_what_a_node_would_bring_in_a_line(tmp_path):
    write(tmp_path, "train", 7)
    write(tmp_path, "test", 5)
    told = "7 examples to train on, of 7 of the 10 classes; 5 to test on"
    assert description(tmp_path, federation()) == f"{tmp_path}: {told}"


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"data-dir: .*nowhere' is no folder"):
        local(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data-dir: .* has no training part \("):
        local(tmp_path)
