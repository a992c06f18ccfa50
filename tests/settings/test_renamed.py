"""Settings by the names that they had in the version before."""

import logging

import pytest

from fedalign.errors import InputError
from fedalign.settings import renamed
from fedalign.settings.config import read
from fedalign.studies.plan import plan
from fedalign.studies.sweep import read_sweep

OLD = {
    "strategy": "fednova",
    "strategy.base": "fedpfn",
    "strategy.base.counts": "exact",
    "strategy.base.value": "zero",
    "strategy.base.slow": 0.25,
    "simulation.cohort": 3,
    "simulation.fuse": False,
}
NEW = {
    "strategy": "fednova",
    "strategy.base": "fedpfn",
    "strategy.base.sampling": "exact",
    "strategy.base.fixed_value": "zero",
    "strategy.base.fixed_lr_scale": 0.25,
    "simulation.stack": 3,
    "simulation.partial_aggregation": False,
}
YAML = """
strategy: {name: fednova, base: {name: fedpfn, counts: exact, value: zero, slow: 0.25}}
simulation: {cohort: 3, fuse: false}
"""


@pytest.fixture
def warnings(caplog):
    renamed._warn.cache_clear()
    caplog.set_level(logging.WARNING, "fedalign")
    return lambda: [record.getMessage() for record in caplog.records]


def test_overrides(warnings):
    assert read(None, OLD) == read(None, NEW)
    assert len(warnings()) == 5
    assert warnings()[0].startswith("simulation.cohort is called simulation.stack now")


def test_a_file_and_a_text(tmp_path, warnings):
    (tmp_path / "old.yaml").write_text(YAML)
    assert read(str(tmp_path / "old.yaml"), {}) == read(YAML, {}) == read(None, NEW)
    told = "strategy.base.slow is called strategy.base.fixed_lr_scale now"
    assert sum(line.startswith(told) for line in warnings()) == 1


def test_an_override_by_the_old_name_wins_over_the_file_and_is_blamed(tmp_path):
    (tmp_path / "new.yaml").write_text("strategy: {name: fedpfn, sampling: exact}")
    path = str(tmp_path / "new.yaml")
    config = read(path, {"strategy.counts": "bernoulli"})
    assert config.strategy.options["sampling"] == "bernoulli"
    with pytest.raises(InputError, match=r"command line: strategy.sampling: 'x' is not allowed"):
        read(path, {"strategy.counts": "x"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("simulation: {cohort: 2, stack: 2}", {}),
        ("strategy: {name: fedpfn, slow: 0, fixed_lr_scale: 0}", {}),
        ("{}", {"simulation.cohort": 2, "simulation.stack": 2}),
        ("strategy: fedpfn", {"strategy.counts": "exact", "strategy.sampling": "exact"}),
    ],
)
def test_both_names_at_once_are_refused(text, words):
    with pytest.raises(InputError, match=r"this is called .* now, and both are given"):
        read(f"{text}\n#", words)


def test_where_no_setting_had_the_name_nothing_is_renamed():
    with pytest.raises(InputError, match=r"strategy.counts: 'fedavg' has no such option"):
        read(None, {"strategy.counts": "exact"})


def test_a_study(tmp_path, warnings):
    file = tmp_path / "study.yaml"
    file.write_text(
        "simulation.cohort: 1\nsweep:\n  base: quickstart\n"
        "  grid: {strategy.slow: [0, 0.5]}\n"
        "  arms:\n    a: {strategy: {name: fedpfn, counts: exact}}\n    b: {strategy: fedavg}\n"
    )
    runs = plan(read_sweep(str(file)))
    assert len(runs) == 4
    masked = [run.config.strategy.options for run in runs if run.arm == "a"]
    assert [options["fixed_lr_scale"] for options in masked] == [0, 0.5]
    assert all(options["sampling"] == "exact" for options in masked)
    assert len(warnings()) == 3


def test_another_strategy_keeps_what_a_file_says_by_the_old_name(tmp_path):
    (tmp_path / "old.yaml").write_text("strategy: {name: fedpfn, counts: exact, slow: 0.5}")
    words = {"strategy": "fedpnu", "strategy.fixed_lr_scale": 0.25}
    options = read(str(tmp_path / "old.yaml"), words).strategy.options
    assert (options["sampling"], options["fixed_lr_scale"]) == ("exact", 0.25)
