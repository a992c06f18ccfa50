"""A partition has a seed of its own, and can be written to a file and read back."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.partitioning import write_indices
from fedalign.settings.config import read

SMALL = {"data.max_examples": 300, "num_clients": 6}


def owned(settings, source=None):
    """Return what each client trains on and holds out."""
    config = read(source, SMALL | settings)
    federation, count = Federation(config), config.num_clients
    parts = federation.shards(count), federation.holdouts(count)
    return [[rows.tolist() for rows in part] for part in parts]


def test_runs_of_other_seeds_have_the_same_clients():
    own = {"partition.seed": 7, "evaluation.holdout": 0.3}
    assert owned(own | {"seed": 0}) == owned(own | {"seed": 1}) == owned(own | {"seed": 7})
    assert owned({"evaluation.holdout": 0.3, "seed": 7}) == owned(own)
    assert owned({"evaluation.holdout": 0.3, "seed": 0}) != owned(own)


def test_clients_see_their_images_alike():
    skewed = {"partition": "feature-skew", "partition.noise": 0.5, "partition.seed": 3}
    seen = []
    for seed in (0, 1):
        federation = Federation(read(None, SMALL | skewed | {"seed": seed}))
        seen.append(federation.examples.seen(6, [4], [federation.shards(6)[4]])[0].images)
    assert seen[0].equal(seen[1])


def test_where_it_is_not_given_a_run_keeps_its_name():
    config = read("quickstart", {})
    assert config.partition_seed == config.seed == 0
    assert config.digest() == "a55b943d"  # before there was `partition.seed`
    assert config.digest() == read("quickstart", {"partition.seed": None}).digest()
    assert config.digest() != read("quickstart", {"partition.seed": 0}).digest()


def test_another_partitioner_keeps_the_seed_and_one_within_has_none():
    assert read("{partition: {name: iid, seed: 4}}", {"partition": "shards"}).partition_seed == 4
    with pytest.raises(InputError, match=r"partition.base.seed: 'iid' has no such option"):
        read(None, {"partition": "feature-skew", "partition.base": {"name": "iid", "seed": 1}})


@pytest.mark.parametrize("ending", [".json", ".npz"])
@pytest.mark.parametrize("name", ["dirichlet", "replicated", "partial"])
def test_a_saved_partition_is_the_same_when_it_is_read(tmp_path, ending, name):
    settings = {"partition": name, "seed": 5}
    if name == "partial":
        file = tmp_path / "some.json"
        file.write_text(json.dumps([[2 * k, 2 * k + 1] for k in range(6)]))
        settings |= {"partition": "indices", "partition.file": str(file), "partition.partial": True}
    words = [f"{key}={json.dumps(value)}" for key, value in (SMALL | settings).items()]
    saved = tmp_path / f"mine{ending}"
    command = ["partition", "quickstart", *words, "--save", str(saved)]
    told = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "x.png")]).output
    again = dict(word.split("=") for word in told.strip().rpartition(": ")[2].split())
    assert owned(again | {"seed": 9}) == owned(settings, "quickstart")


def test_a_partition_is_saved_as_json_or_npz(tmp_path):
    with pytest.raises(InputError, match=r"--save: '.*mine.txt' must end in .json or .npz"):
        write_indices([np.arange(3)], tmp_path / "mine.txt")
