from pathlib import Path

import pytest

from fedalign.errors import InputError
from fedalign.settings.sources import find
from fedalign.studies.study import axes, find_study, plan, read_study

STUDY = """
title: Some arms
base: fashion-mnist
settings: {rounds: 7, evaluation: {every: 3}}
vary:
  partition.alpha: [0.1, 0.5]
  seed: [0, 1]
arms:
  FedAvg: {strategy: fedavg}
  FedPFN: {strategy: {fixed_ratio: 0.3, name: fedpfn}}
  Adam: {client: {optimizer: adam, lr: 0.001}}
baseline: FedAvg
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def planned(write):
    def planned(text, *words):
        path = write(text)
        return plan(read_study(path), path, words)

    return planned


def test_every_arm_is_run_under_every_combination(planned):
    runs = planned(STUDY)
    assert len(runs) == 3 * 2 * 2
    assert len({run.config.digest() for run in runs}) == 12
    last = runs[-1]
    assert (last.arm, last.chosen) == ("Adam", {"partition.alpha": 0.5, "seed": 1})
    assert (last.config.partition.options["alpha"], last.config.seed) == (0.5, 1)
    assert (last.config.rounds, last.config.evaluation.every) == (7, 3)
    assert axes(runs) == ["partition.alpha"]


def test_options_of_the_base_stay_where_an_arm_names_its_part(planned):
    fedavg, fedpfn, adam = (run.config for run in planned(STUDY)[::4])
    assert fedavg.strategy.options == {}
    assert fedpfn.strategy.options["fixed_ratio"] == 0.3
    assert (adam.client.options["lr"], adam.client.options["weight_decay"]) == (0.001, 5e-4)
    other = "title: x\nbase: quickstart\narms: {a: {model: cnn}, b: {strategy: fedpnu}}"
    cnn, fedpnu = (run.config for run in planned(other))
    assert "depth" not in cnn.model.options
    assert fedpnu.strategy.options["fixed_ratio"] == 0.4


def test_an_axis_means_nothing_to_an_arm_without_the_option(planned):
    text = STUDY.replace("partition.alpha", "strategy.fixed_ratio")
    runs = planned(text.replace("fixed_ratio: 0.3, ", ""))
    different = [len({run.config.digest() for run in runs[i : i + 4]}) for i in (0, 4)]
    assert different == [2, 4]  # of FedAvg and FedPFN
    assert [r.config.strategy.options["fixed_ratio"] for r in runs[4:8]] == [0.1, 0.1, 0.5, 0.5]


def test_an_arms_own_setting_wins_over_an_axis(planned):
    runs = planned(STUDY.replace("partition.alpha", "strategy.fixed_ratio"))
    assert {r.config.strategy.options["fixed_ratio"] for r in runs[4:8]} == {0.3}


def test_an_arm_may_have_values_of_its_own_for_an_axis(planned):
    runs = planned(STUDY.replace("0.001}}", "0.001}, vary: {partition.alpha: [0.5, 1, 2]}}"))
    assert len(runs) == 4 + 4 + 6
    assert {run.chosen["partition.alpha"] for run in runs if run.arm == "Adam"} == {0.5, 1, 2}


def test_words_hold_for_all_runs_and_take_the_place_of_axes(planned):
    runs = planned(STUDY, "seed=5", "rounds=2", "client.lr=0.5")
    assert len(runs) == 6
    assert {(r.config.seed, r.config.rounds, r.config.client.options["lr"]) for r in runs} == {
        (5, 2, 0.5)
    }
    assert axes(runs) == ["partition.alpha"]
    runs = planned(STUDY, "seed=5", "model=cnn,mlp", "partition.alpha=1")
    assert axes(runs) == ["model.name"]
    assert [run.config.model.name for run in runs[:2]] == ["cnn", "mlp"]


def test_without_arms_there_is_one_named_after_the_strategy(planned):
    (run,) = planned("title: x\nbase: quickstart")
    assert (run.arm, run.chosen) == ("fedpfn", {})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title: Some arms", "titel: x", "titel: no such setting; did you mean 'title'?"),
        ("title: Some arms", "", "title: must be given"),
        ("baseline: FedAvg", "baseline: FedAgv", "baseline: 'FedAgv' is not an arm; did you mean"),
        ("baseline: FedAvg", "figure: {kind: swep}", "figure.kind: 'swep' is not allowed"),
        ("baseline: FedAvg", "figure: {kind: sweep}", "figure.x: must be given for a sweep"),
        ("baseline: FedAvg", "figure: {kind: sweep, x: lr}", "figure.x: 'lr' is not varied"),
        ("baseline: FedAvg", "figure: {kind: differences}", "baseline: must be given"),
        ("baseline: FedAvg", "figure: {kinds: x}", "figure.kinds: no such setting"),
        ("baseline: FedAvg", "table: [acuracy]", "table: 'acuracy' is not a column; did you mean"),
        ("[0.1, 0.5]", "[]", "vary.partition.alpha: [] is not allowed"),
        ("[0.1, 0.5]", "[[1]]", "vary.partition.alpha"),
        ("[0.1, 0.5]", "[0.1, 0]", "vary: partition.alpha: 0 is not allowed"),
        ("partition.alpha", "partition.alhpa", "vary: partition.alhpa: no arm has such a setting"),
        ("rounds: 7", "ruonds: 7", "settings: ruonds: no such setting; did you mean 'rounds'?"),
        ("name: fedpfn", "name: fedpfm", "arms.FedPFN: strategy.name: 'fedpfm' is not a strategy"),
        ("optimizer: adam", "optimiser: adam", "arms.Adam: client.optimiser: 'local' has no such"),
        (
            "0.001}}",
            "0.001}, vary: {client.lr: [1]}}",
            "arms.Adam.vary: client.lr: no arm has such a setting",
        ),
        ("FedAvg: {strategy: fedavg}", "FedAvg: fedavg", "arms.FedAvg: 'fedavg' is not allowed"),
    ],
)
def test_a_bad_study_is_refused_with_its_place(planned, write, old, new, told):
    assert old in STUDY
    with pytest.raises(InputError) as caught:
        planned(STUDY.replace(old, new))
    assert str(caught.value).startswith(f"{write(STUDY)}: {told}")


def test_the_base_and_the_command_line_are_named_too(planned, write):
    with pytest.raises(InputError, match=r"fashion-mnits: no such file.*did you mean 'fashion-m"):
        planned(STUDY.replace("fashion-mnist", "fashion-mnits"))
    with pytest.raises(InputError, match=r"command line: seed: -1 is not allowed"):
        planned(STUDY, "seed=-1")
    with pytest.raises(InputError, match=r"command line: strategy\.mu: no arm has such a setting"):
        planned(STUDY, "strategy.mu=1")
    base = write("rounds: 0")
    base = base.rename(base.with_name("base.yaml"))
    with pytest.raises(InputError, match=rf"^{base}: rounds: 0 is not allowed"):
        planned(f"title: x\nbase: {base}")


def test_a_sweep_needs_numbers(planned):
    sweep = "figure: {kind: sweep, x: partition.alpha}"
    with pytest.raises(InputError, match=r"vary\.partition\.alpha: 'a' is not a number"):
        planned(STUDY.replace("baseline: FedAvg", sweep).replace("[0.1, 0.5]", "[0.1, a]"))


def test_a_study_is_no_configuration_and_is_told_from_one():
    with pytest.raises(InputError, match=r"algorithms: no such file, nor one in configs"):
        find("algorithms")
    with pytest.raises(InputError, match=r"did you mean 'fixed-ratio'"):
        find_study("fixed-ration")
    assert Path(find_study("algorithms")).parent.name == "studies"
