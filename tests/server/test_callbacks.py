import threading

import pytest

from fedalign.server.callbacks import CallbackRunner
from fedalign.server.round import Round


class Slow:
    """A callback that takes a round when it is let to."""

    def __init__(self):
        self.go, self.seen = threading.Event(), []

    def on_round(self, outcome):
        assert self.go.wait(10)
        self.seen.append((outcome.number, threading.current_thread() is threading.main_thread()))


def outcome(number):
    return Round(number, None, None, {})


def test_a_round_is_told_of_beside_the_next_one_and_before_it_is():
    slow, last = Slow(), []
    quick = type("Quick", (), {"on_round": lambda _, outcome: last.append(outcome.number)})()
    with CallbackRunner([slow, quick], lambda _: True) as afterwards:
        afterwards.tell(outcome(1), 0.0)  # returns although the callback has not
        assert not slow.seen
        slow.go.set()
        afterwards.tell(outcome(2), 0.0)
        assert slow.seen[0] == (1, False)
        assert last[0] == 1
    assert slow.seen == [(1, False), (2, False)]
    assert last == [1, 2]


def test_a_round_that_must_not_overlap_is_told_of_at_once():
    slow = Slow()
    slow.go.set()
    with CallbackRunner([slow], lambda number: number == 1) as afterwards:
        afterwards.tell(outcome(1), 0.0)
        afterwards.tell(outcome(2), 0.0)
        assert slow.seen == [(1, False), (2, True)]


def test_the_round_behind_is_finished_when_the_next_one_fails():
    slow = Slow()
    slow.go.set()

    def train():
        with CallbackRunner([slow], lambda _: True) as afterwards:
            afterwards.tell(outcome(1), 0.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert slow.seen == [(1, False)]


def test_what_a_callback_raises_comes_out():
    def fail(_, outcome):
        raise ValueError(f"round {outcome.number}")

    with (
        pytest.raises(ValueError, match="round 1"),
        CallbackRunner([type("Bad", (), {"on_round": fail})()], lambda _: True) as afterwards,
    ):
        afterwards.tell(outcome(1), 0.0)


def test_overlap_changes_no_number(run):
    import pandas as pd

    for strategy in ("fedpnu", "fedavg"):
        found = []
        for overlap in (True, False):
            folder = run(
                strategy=strategy, evaluation__overlap=overlap, rounds=4, checkpoint_every=3,
                evaluation__match="weights", evaluation__fusion_gap=True, name=f"o{overlap}",
            )  # fmt: skip
            tables = {name: pd.read_csv(folder / name) for name in ("metrics.csv", "landscape.csv")}
            tables["metrics.csv"].pop("seconds")
            found.append((tables, (folder / "model.safetensors").read_bytes()))
        assert found[0][1] == found[1][1]
        for name, table in found[0][0].items():
            pd.testing.assert_frame_equal(table, found[1][0][name], check_exact=True)
            assert set(table["round"]) == {1, 2, 3, 4}
