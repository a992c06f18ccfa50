"""The adapter to flwr-datasets; most tests need that package, which is an extra."""

import sys

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.partitioning import split
from fedalign.settings.config import Config, from_run_config, read
from fedalign.testing import check_partitioner
from partitions.flower import FlowerDatasets

LABELS = np.arange(1000) % 10


@pytest.fixture
def flower():
    return pytest.importorskip("flwr_datasets.partitioner", reason="flwr-datasets is an extra")


def test_options_travel_in_a_run_config():
    words = {
        "partition": "flwr",
        "partition.partitioner": "DirichletPartitioner",
        "partition.options.alpha": 0.5,
        "partition.options.self_balancing": True,
    }
    config = read(None, words)
    assert config.partition.options["options"] == {"alpha": 0.5, "self_balancing": True}
    assert from_run_config(config.run_config()) == config
    plain = Config(partition={"name": "flwr", "options": {}})
    assert from_run_config(plain.run_config()).digest() == plain.digest()
    with pytest.raises(InputError, match=r"partition\.options\.alpha: .* is not allowed"):
        read(None, words | {"partition.options.alpha": [0.5, 1]})


def test_what_is_not_installed_is_said_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'fedalign\[flwr-datasets\]'"):
        FlowerDatasets().split(LABELS, 4, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("IidPartitioner", {}, {}),
        ("DirichletPartitioner", {"alpha": 0.5}, {}),
        ("InnerDirichletPartitioner", {"alpha": 0.5}, {}),
        ("ShardPartitioner", {"num_shards_per_partition": 2}, {}),
        ("PathologicalPartitioner", {"num_classes_per_partition": 2}, {"partial": True}),
        ("LinearPartitioner", {}, {}),
        ("SquarePartitioner", {}, {}),
        ("NaturalIdPartitioner", {"partition_by": "group"}, {}),
        ("flwr_datasets.partitioner:SizePartitioner", {}, {}),
    ],
)
@pytest.mark.usefixtures("flower")
def test_a_partitioner_of_flower_is_one_of_ours(name, options, allowed):
    groups = LABELS.copy()
    partitioner = FlowerDatasets(name, options)
    check_partitioner(partitioner, labels=LABELS, groups=groups, **allowed)


def test_it_deals_what_the_package_deals(flower):
    import datasets

    theirs = flower.DirichletPartitioner(10, "label", 0.5, seed=7)
    theirs.dataset = datasets.Dataset.from_dict({"label": LABELS, "index": np.arange(1000)})
    ours = FlowerDatasets("DirichletPartitioner", {"alpha": 0.5, "seed": 7})
    shares = split(ours, LABELS, 10, np.random.default_rng(0))
    for client, share in enumerate(shares):
        assert share.tolist() == sorted(theirs.load_partition(client)["index"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NoSuchPartitioner", {}, "flwr_datasets.partitioner has no 'NoSuchPartitioner'"),
        ("DirichletPartitioner", {}, "missing 1 required positional argument: 'alpha'"),
        ("DirichletPartitioner", {"alpha": -1.0}, "Alpha values should be strictly greater"),
        ("DirichletPartitioner", {"alhpa": 1.0}, "unexpected keyword argument 'alhpa'"),
        ("NaturalIdPartitioner", {}, "NaturalIdPartitioner makes 10 clients, not 4"),
        ("no_such_package:Thing", {}, "cannot be imported: No module named 'no_such_package'"),
    ],
)
@pytest.mark.usefixtures("flower")
def test_what_it_refuses_is_reported_in_one_line(name, options, message):
    with pytest.raises(InputError, match=message):
        FlowerDatasets(name, options).split(LABELS, 4, np.random.default_rng(0))
