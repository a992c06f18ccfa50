import threading

import pytest

from fedalign.runs.tables import COSTS
from fedalign.server.callbacks import SOON, Callback, CallbackRunner
from fedalign.server.measure import Measure
from fedalign.server.meter import Meter
from fedalign.server.round import Added, Round
from tests.doubles import Watch


class Slow(Callback):
    """A callback that takes a round when it is let to."""

    def __init__(self):
        self.go, self.seen = threading.Event(), []

    def on_round(self, outcome):
        assert self.go.wait(10)
        self.seen.append((outcome.number, threading.current_thread() is threading.main_thread()))


def outcome(number):
    return Round(number, None, None, {})


class Note(Callback):
    """A callback that notes what it sees, and adds to it."""

    def __init__(self):
        self.seen = []

    def on_round(self, outcome):
        self.seen.append(outcome)
        return Added({"mine": float(outcome.number)})


def test_callbacks_run_beside_the_next_round_and_before_they_are_called_again():
    slow, quick = Slow(), Note()
    with CallbackRunner([slow, quick], overlap=True, rounds=3) as runner:
        runner.call(outcome(1), Meter())  # returns although the callback has not
        assert not slow.seen
        slow.go.set()
        runner.call(outcome(2), Meter())
        assert slow.seen[0] == (1, False)
        assert quick.seen[0].number == 1
        runner.call(outcome(3), Meter())  # after the last round nothing trains
        assert slow.seen == [(1, False), (2, False), (3, True)]
    assert [seen.number for seen in quick.seen] == [1, 2, 3]


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_without_a_thread_short_rounds_are_handled_after_the_next_one(seconds):
    note = Note()
    with CallbackRunner([note], overlap=True, rounds=3, thread=False) as runner:
        for number, seen in ((1, []), (2, [1]), (3, [1, 2, 3])):
            meter = Meter()
            meter.began -= seconds
            runner.call(outcome(number), meter)
            late = seen if seconds < SOON else list(range(1, number + 1))
            assert [own.number for own in note.seen] == late
    assert all(own.metrics["seconds"] >= seconds for own in note.seen)


def test_what_the_next_round_changes_is_captured_before_it_starts():
    class Capturing(Slow):
        captured = ()

        def capture(self, outcome):
            here = threading.current_thread() is threading.main_thread()
            self.captured += ((outcome.number, here, len(self.seen)),)

    slow = Capturing()
    with CallbackRunner([slow], overlap=True, rounds=9) as runner:
        runner.call(outcome(1), Meter())
        assert slow.captured == ((1, True, 0),)  # though the round is still being handled
        slow.go.set()
        runner.call(outcome(2), Meter())
    assert slow.captured[1] == (2, True, 1)


def test_callbacks_see_what_those_before_them_added():
    first, last, given = Note(), Note(), outcome(1)
    with CallbackRunner([first, last]) as runner:
        runner.call(given, Meter())
    assert "mine" not in first.seen[0].metrics
    assert last.seen[0].metrics["mine"] == 1
    assert last.seen[0].metrics["seconds"] >= first.seen[0].metrics["seconds"] > 0
    assert not given.metrics


def test_the_models_wanted_are_those_of_all_callbacks():
    want = [Watch(lambda number, _: [number]), Watch(lambda _, partitions: partitions[-1:])]
    assert CallbackRunner(want).models_wanted(3, [3, 5, 8]) == {3, 8}


def test_the_round_behind_is_finished_when_the_next_one_fails():
    slow = Slow()
    slow.go.set()

    def train():
        with CallbackRunner([slow], overlap=True, rounds=9) as runner:
            runner.call(outcome(1), Meter())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert slow.seen == [(1, False)]


def test_what_a_callback_raises_comes_out():
    class Bad(Callback):
        def on_round(self, outcome):
            raise ValueError(f"round {outcome.number}")

    with (
        pytest.raises(ValueError, match="round 1"),
        CallbackRunner([Bad()], overlap=True, rounds=9) as runner,
    ):
        runner.call(outcome(1), Meter())


@pytest.mark.parametrize("strategy", ["fedpnu", "fedavg"])
def test_overlap_changes_no_number(run, monkeypatch, strategy):
    import pandas as pd

    def as_on_a_gpu():
        def start(measure, outcome):
            measure._started = measure._start(outcome)

        monkeypatch.setattr(Measure, "capture", start)
        runner = "fedalign.server_app.CallbackRunner"
        monkeypatch.setattr(runner, lambda *given, **_: CallbackRunner(*given, thread=False))

    found = []
    for way, overlap in (("thread", True), ("waiting", False), ("later", True)):
        if way == "later":
            as_on_a_gpu()
        folder = run(
            strategy=strategy, evaluation__overlap=overlap, rounds=4, checkpoint_every=3,
            evaluation__match="weights", evaluation__fusion_gap=True, name=way,
        )  # fmt: skip
        tables = {name: pd.read_csv(folder / name) for name in ("metrics.csv", "landscape.csv")}
        tables["metrics.csv"] = tables["metrics.csv"].drop(columns=[*COSTS])
        found.append((tables, (folder / "model.safetensors").read_bytes()))
    for tables, model in found[1:]:
        assert model == found[0][1]
        for name, table in found[0][0].items():
            pd.testing.assert_frame_equal(table, tables[name], check_exact=True)
            assert set(table["round"]) == {1, 2, 3, 4}
