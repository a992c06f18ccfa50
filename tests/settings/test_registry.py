import sys
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from fedalign.errors import BadValueError
from fedalign.masks.phases import phases
from fedalign.network.layout import Entry, Layout
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import ShadowedFolderError, load, options, parse

LAYOUT = Layout((Entry("w", (1000,), 0),), (), ())


class Halves:
    """First clients get the first examples."""

    def __init__(self, path: str, share: Annotated[float, Field(gt=0, le=1)] = 0.5):
        self.path, self.share = path, share

    def split(self, labels, num_clients, rng):  # noqa: ARG002
        return np.array_split(np.arange(len(labels)), num_clients)


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_parts", sys.modules[__name__])
    return "my_parts:Halves"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in BUILTIN for n in BUILTIN[k]])
def test_every_built_in_part_loads_and_says_what_it_is(kind, name):
    assert load(kind, name).__doc__
    if not name.startswith(("dp-", "qfed")):  # Flower's, whose users must choose
        assert all(option.default is not ... for option in options(kind, name).values())


@dataclass(frozen=True)
class Thirds:
    """The mask for a third of the steps, then everything."""

    high: Annotated[float, Field(gt=0, le=1)] = 0.5
    by_epochs = False

    def stretches(self, draw):
        return [(draw.between(0, self.high), 1), (draw.between(0, 1), 2)]


def test_a_schedule_of_ones_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_parts", sys.modules[__name__])
    section = {"name": "fedpnu", "schedule": {"name": "my_parts:Thirds", "high": 0.25}}
    strategy = parse("strategies", section, "strategy").build(layout=LAYOUT, initial=None, seed=0)
    first, rest = phases(strategy.plan(1), LAYOUT, 9)
    assert (first.steps, rest.steps) == (3, 6)
    assert 0.2 < first.trains.float().mean() < 0.3
    assert rest.trains is None
    with pytest.raises(BadValueError, match=r"strategy.schedule.high: 2 is not allowed"):
        parse(
            "strategies", section | {"schedule": {"name": "my_parts:Thirds", "high": 2}}, "strategy"
        )


def test_a_part_of_ones_own_is_checked_like_a_built_in(plugin):
    part = parse("partitioners", {"name": plugin, "path": "p"}, "partition")
    built = part.build(seed=3)
    assert (built.path, built.share) == ("p", 0.5)
    with pytest.raises(BadValueError, match=r"partition.path: must be given"):
        parse("partitioners", {"name": plugin}, "partition")
    with pytest.raises(BadValueError, match=r"partition.share: 2 is not allowed"):
        parse("partitioners", {"name": plugin, "path": "p", "share": 2}, "partition")
    with pytest.raises(BadValueError, match=r"has no such option; did you mean 'share'"):
        parse("partitioners", {"name": plugin, "path": "p", "sahre": 1}, "partition")


def test_flowers_sampling_and_callbacks_are_no_options():
    assert set(options("strategies", "fedavgm")) == {"server_learning_rate", "server_momentum"}


def test_a_folder_that_hides_ours_is_named(tmp_path, monkeypatch):
    other = tmp_path / "partitions"
    other.mkdir()
    (other / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "partitions"]:
        monkeypatch.delitem(sys.modules, name)
    from fedalign.settings.registry import _check_own

    with pytest.raises(ShadowedFolderError, match="rename that folder"):
        _check_own("partitions")
