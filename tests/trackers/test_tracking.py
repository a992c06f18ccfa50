"""Trackers are told of every round once, and never end a run."""

import json
import sys
from contextlib import suppress

import pytest

from fedalign.errors import InputError
from fedalign.runs.paths import folder_of
from fedalign.server.round import Round
from fedalign.settings.config import read
from fedalign.trackers.tracking import NOTES, Tracking

SEEN = []


class Lists:
    """Notes all that it is told; it has what it was told before."""

    def __init__(self, forgets: bool = False, fails_in: int = 0):
        self.forgets, self.fails_in = forgets, fails_in

    def start(self, run):
        run.notes["starts"] = run.notes.get("starts", 0) + 1
        SEEN.append(("start", run.resumed_after, run.told, run.notes["starts"]))
        return 0 if self.forgets else run.told

    def log(self, number, metrics):
        if number == self.fails_in:
            raise ConnectionError("no network")
        SEEN.append((number, metrics["test_accuracy"]))

    def figure(self, name, figure):
        SEEN.append((name, figure))

    def finish(self, status):
        SEEN.append(status)


OWN = f"{__name__}:Lists"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Lists.__module__])
    SEEN.clear()


@pytest.fixture
def tracking(tmp_path):
    def tracking(resumed_after=0, **options):
        config = read("quickstart", {"out": str(tmp_path), "trackers": {"name": OWN, **options}})
        folder_of(config).mkdir(exist_ok=True)
        rows = [f"{n},{n / 10}" for n in range(1, resumed_after + 1)]
        (folder_of(config) / "metrics.csv").write_text(
            "\n".join(["round,test_accuracy", *rows, ""])
        )
        return Tracking(config, lambda: {"rounds": "drawn"}).resume(resumed_after)

    return tracking


def tell(tracking, *numbers):
    for number in numbers:
        tracking.on_round(Round(number, None, None, {}, {"test_accuracy": number / 10}))


def test_a_run_begins_has_rounds_figures_and_an_end(tracking, tmp_path):
    with tracking() as told:
        tell(told, 1, 2)
    start, *rest = SEEN
    assert start == ("start", 0, 0, 1)
    assert rest == [(1, 0.1), (2, 0.2), ("rounds", "drawn"), "finished"]
    (file,) = tmp_path.glob(f"*/{NOTES}")
    assert json.loads(file.read_text()) == {OWN: {"told": 2, "notes": {"starts": 1}}}


@pytest.mark.parametrize(("error", "end"), [(KeyboardInterrupt, "stopped"), (OSError, "failed")])
def test_a_run_that_goes_on_tells_each_round_once(tracking, error, end):
    with suppress(error), tracking() as told:
        tell(told, 1, 2, 3, 4, 5)
        raise error
    assert SEEN[-1] == end
    SEEN.clear()
    with tracking(resumed_after=3) as told:  # rounds 4 and 5 are trained again
        tell(told, 4, 5, 6)
    assert SEEN == [("start", 3, 5, 2), (6, 0.6), ("rounds", "drawn"), "finished"]


def test_a_tracker_that_lacks_earlier_rounds_is_told_of_them(tracking):
    with tracking(resumed_after=2) as told:
        tell(told, 3)
    assert SEEN[:4] == [("start", 2, 0, 1), (1, 0.1), (2, 0.2), (3, 0.3)]
    SEEN.clear()
    with tracking(resumed_after=2, forgets=True) as told:
        tell(told, 3)
    assert SEEN[:4] == [("start", 2, 3, 2), (1, 0.1), (2, 0.2), (3, 0.3)]


def test_one_that_fails_is_named_once_and_the_run_goes_on(tracking, caplog):
    with tracking(fails_in=2) as told:
        tell(told, 1, 2, 3)
    assert SEEN[1:] == [(1, 0.1)]
    (line,) = caplog.messages
    assert line.startswith(f"tracker {OWN}: ConnectionError: no network")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_an_error_that_names_the_extra(name, monkeypatch):
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)
    wanted = rf"trackers: '{name}' cannot be used .*pip install 'fedalign\[{name}\]'"
    with pytest.raises(InputError, match=wanted):
        Tracking(read("quickstart", {"trackers": name}), dict)


def test_trackers_are_no_part_of_what_a_run_computes():
    plain, tracked = (read("quickstart", {"trackers": t}) for t in ([], ["wandb", "mlflow"]))
    assert plain.digest() == tracked.digest()
    with pytest.raises(InputError, match="trackers: 'wandb' is given twice"):
        read("quickstart", {"trackers": ["wandb", {"name": "wandb", "project": "mine"}]})
    with pytest.raises(InputError, match=r"trackers\.uri: 'wandb' has no such option"):
        read("quickstart", {"trackers": [{"name": "wandb", "uri": "x"}]})
