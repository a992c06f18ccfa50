"""A federation reads nothing before it must, nothing twice, and cannot be changed."""

from dataclasses import FrozenInstanceError

import pytest
from torch import nn

from fedalign.data.digits import Digits
from fedalign.errors import InputError
from fedalign.federation.federation import Federation, adopt, federation_of
from fedalign.federation.start import Start
from fedalign.settings.config import read

SETTINGS = {"data.max_examples": 100, "partition": "iid", "num_clients": 4}


def test_nothing_is_read_before_it_is_used_and_nothing_twice(monkeypatch):
    load, parts = Digits.load, []

    def spy(self, part):
        parts.append(part)
        return load(self, part)

    monkeypatch.setattr(Digits, "load", spy)
    federation = Federation(read(None, SETTINGS))
    assert federation.client_of(0)
    assert parts == []
    assert federation.network
    assert len(federation.shards(4)) == len(federation.shards(5)) - 1
    assert federation.reference is federation.train
    assert parts == ["train"]
    assert federation.test is federation.test
    assert parts == ["train", "test"]


def test_a_federation_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Federation(read(None, SETTINGS)).config = None


def test_a_process_keeps_the_last_federation():
    first, second = (read(None, SETTINGS | {"seed": seed}).run_config() for seed in (1, 2))
    one = federation_of(first)
    assert federation_of(dict(reversed(first.items()))) is one
    assert federation_of(second) is not one
    assert federation_of(first) is not one


def test_a_process_that_adopts_data_deals_them_alike():
    run_config = read(None, SETTINGS | {"evaluation.holdout": 0.2}).run_config()
    one = federation_of(run_config)
    other = adopt(run_config, one.train.to_numpy())
    assert other is federation_of(run_config) is not one
    assert other.spec == one.spec
    for ours, theirs in [(one.shards(4), other.shards(4)), (one.holdouts(4), other.holdouts(4))]:
        assert [rows.tolist() for rows in ours] == [rows.tolist() for rows in theirs]


class Returning(nn.Module):
    """Returns what `make` makes of the logits."""

    def __init__(self, make, classes=10):
        super().__init__()
        self.fc, self.make = nn.Linear(64, classes), make

    def forward(self, x):
        return self.make(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), "'1.weight' has no shape yet"),
        (lambda: Returning(lambda out: (out, 1)), "returns a tuple, not a tensor of logits"),
        (lambda: Returning(lambda out: out, 9), r"shape \(2, 9\) for two examples of 10 classes"),
        (lambda: nn.Linear(8, 10), r"of shape \(2, 1, 8, 10\) for two examples"),
        (lambda: Returning(lambda out: out[:1]), r"of shape \(1, 10\) for two examples"),
        (lambda: Returning(lambda out: out.nothing), r"AttributeError: .*test_federation\.py:"),
    ],
)
def test_a_model_that_makes_no_logits_is_one_line(monkeypatch, module, problem):
    monkeypatch.setattr(Federation, "start", property(lambda _: Start(module())))
    with pytest.raises(InputError, match=f"^model: 'mlp': .*{problem}"):
        Federation(read(None, SETTINGS)).network  # noqa: B018
