import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.settings.config import read
from partitions.feature_skew import FeatureSkew

GREY = torch.full((50, 1, 20, 20), 128, dtype=torch.uint8)


def generator(seed=0):
    return np.random.default_rng(seed)


def federation(**settings):
    dotted = {"partition": "feature-skew"} | {k.replace("__", "."): v for k, v in settings.items()}
    return Federation(read(None, dotted))


@pytest.mark.parametrize(("client", "std"), [(0, 0.01), (4, 0.05), (9, 0.1)])
def test_noise_grows_with_the_number_of_the_client(client, std):
    seen = FeatureSkew(noise=0.1).transform(GREY, client, 10, generator()).float() / 255
    assert seen.std().item() == pytest.approx(std, rel=0.05)
    assert seen.mean().item() == pytest.approx(128 / 255, abs=0.003)


def test_noise_stays_within_bytes():
    white = torch.full((2, 1, 9, 9), 250, dtype=torch.uint8)
    seen = FeatureSkew(noise=1.0).transform(white, 0, 1, generator())
    assert seen.max() == 255
    assert (seen == 255).float().mean() > 0.4  # cut off, not wrapped around


@pytest.mark.parametrize("client", range(6))
def test_four_angles_are_quarter_turns(client):
    images = torch.randint(0, 256, (3, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    skew = FeatureSkew(noise=0, rotation=360, angles=4)
    seen = skew.transform(images.to(torch.uint8), client, 6, generator())
    assert torch.equal(seen.long(), images.rot90(client % 4, (2, 3)))


def test_without_a_number_of_angles_each_client_has_its_own():
    dot = torch.zeros(1, 1, 21, 21, dtype=torch.uint8)
    dot[0, 0, 10, 18] = 255
    skew = FeatureSkew(noise=0, rotation=90)
    rows = [int(skew.transform(dot, k, 3, generator()).sum(3).argmax()) for k in range(3)]
    assert rows == [10, 6, 3]  # 10 - 8 sin(0, 30, 60 degrees)


def test_skews_can_be_stacked():
    inner = read(
        None,
        {
            "partition": "feature-skew",
            "partition.noise": 0,
            "partition.base": "feature-skew",
            "partition.base.noise": 0.2,
            "partition.base.base": "shards",
        },
    ).partition.build()
    assert inner.transform(GREY, 1, 2, generator()).float().std() / 255 == pytest.approx(0.2, 0.1)


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match=r"feature-skew needs uint8 images, not torch.int64"):
        FeatureSkew().transform(torch.zeros(3, 4, dtype=torch.int64), 0, 1, generator())


def test_the_base_deals_and_is_named_in_errors():
    plain = Federation(read(None, {"partition": "dirichlet", "partition.alpha": 0.3})).shards(9)
    skewed = federation(partition__base="dirichlet", partition__base__alpha=0.3).shards(9)
    assert all(map(np.array_equal, plain, skewed))
    with pytest.raises(InputError, match="natural needs groups"):
        federation(partition__base="natural").shards(9)


def test_an_example_is_seen_alike_alone_in_company_and_by_whoever_tests_on_it():
    one = federation(evaluation__holdout=0.3, partition__noise=0.3)
    shards, kept = one.shards(8), one.holdouts(8)
    together, places = one.examples.seen(8, [2, 5], [shards[2], shards[5]])
    alone, (rows,) = one.examples.seen(8, [5], [shards[5]])
    assert torch.equal(together.images[places[1]], alone.images[rows])
    assert torch.equal(together.labels[places[1]], one.train.labels[shards[5]])
    assert len(together) == len(shards[2]) + len(shards[5])
    whole = federation(partition__noise=0.3)  # nobody keeps anything back
    every, (places,) = whole.examples.seen(8, [5], [whole.shards(8)[5]])
    tested, (rows,) = one.examples.seen(8, [5], [kept[5]])
    where = np.searchsorted(whole.shards(8)[5], kept[5])
    assert torch.equal(every.images[places][where], tested.images[rows])
    assert not torch.equal(tested.images[rows], one.train.images[kept[5]])


def test_other_partitioners_show_the_training_set_itself():
    plain = Federation(read(None, {"partition": "iid"}))
    data, rows = plain.examples.seen(4, [1], [plain.shards(4)[1]])
    assert data is plain.train
    assert rows[0] is plain.shards(4)[1]


def model(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return all(np.array_equal(first[key], second[key]) for key in first)


ALL = {"evaluation__client_fraction": 1, "evaluation__holdout": 0.2, "evaluation__alphas": 0}
NOISY = {"partition": "feature-skew", "partition__noise": 0.3, "partition__rotation": 90.0}
ONE_BY_ONE = {"simulation__stack": 1, "simulation__partial_aggregation": False}


def test_no_skew_is_the_base_to_the_bit(run):
    plain = run(partition="iid", **ALL)
    none = run(partition="feature-skew", partition__noise=0, **ALL)
    assert same(model(plain), model(none))
    assert (plain / "clients.csv").read_text() == (none / "clients.csv").read_text()


def test_skew_changes_the_run_which_stays_itself(run):
    settings = NOISY | ALL | {"rounds": 1, "evaluation__finetune_epochs": 1}
    first = run(**settings, simulation__stack=3)
    found, clients = model(first), (first / "clients.csv").read_text()
    again = run(**settings, simulation__stack=3, name="again")
    assert same(found, model(again))
    assert clients == (again / "clients.csv").read_text()
    assert not same(found, model(run(**settings | {"partition__noise": 0.1})))
    alone = model(run(**settings, **ONE_BY_ONE, name="alone"))
    assert all(np.allclose(found[key], alone[key], atol=1e-5) for key in found)


@pytest.mark.xdist_group("ray")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_all_engines_see_the_same(run, backend):
    settings = NOISY | ALL | ONE_BY_ONE | {"rounds": 1}
    inline = run(**settings)
    other = run(**settings, simulation__backend=backend, name="other")
    assert same(model(inline), model(other))
    assert (inline / "clients.csv").read_text() == (other / "clients.csv").read_text()
