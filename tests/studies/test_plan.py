import pytest

from fedalign.errors import InputError
from fedalign.settings.config import read
from fedalign.settings.layers import flatten
from fedalign.settings.sources import find, parse_overrides
from fedalign.studies.plan import axes, plan, prepared
from fedalign.studies.sweep import read_sweep

SWEEP = """
rounds: 7
evaluation: {every: 3}
sweep:
  title: Some arms
  base: fashion-mnist
  grid: {partition.alpha: [0.1, 0.5]}
  seeds: 2
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
        return plan(read_sweep(str(write(text))), words)

    return planned


def test_every_arm_is_run_under_every_combination(planned):
    runs = planned(SWEEP)
    assert len(runs) == 3 * 2 * 2
    assert len({run.config.digest() for run in runs}) == 12
    last = runs[-1]
    assert (last.arm, last.chosen) == ("Adam", {"partition.alpha": 0.5, "seed": 1})
    assert (last.config.partition.options["alpha"], last.config.seed) == (0.5, 1)
    assert (last.config.rounds, last.config.evaluation.every) == (7, 3)
    assert axes(runs) == ["partition.alpha"]


def test_options_of_the_base_stay_where_an_arm_names_its_part(planned):
    fedavg, fedpfn, adam = (run.config for run in planned(SWEEP)[::4])
    assert fedavg.strategy.options == {}
    assert fedpfn.strategy.options["fixed_ratio"] == 0.3
    assert (adam.client.options["lr"], adam.client.options["weight_decay"]) == (0.001, 5e-4)
    other = "sweep: {base: quickstart, arms: {a: {model: cnn}, b: {strategy: fedpnu}}}"
    cnn, fedpnu = (run.config for run in planned(other))
    assert "depth" not in cnn.model.options
    assert fedpnu.strategy.options["fixed_ratio"] == 0.4


def test_an_axis_means_nothing_to_an_arm_without_the_option(planned):
    text = SWEEP.replace("partition.alpha", "strategy.fixed_ratio")
    runs = planned(text.replace("fixed_ratio: 0.3, ", ""))
    different = [len({run.config.digest() for run in runs[i : i + 4]}) for i in (0, 4)]
    assert different == [2, 4]  # of FedAvg and FedPFN
    assert [r.config.strategy.options["fixed_ratio"] for r in runs[4:8]] == [0.1, 0.1, 0.5, 0.5]


def test_an_arms_own_setting_wins_over_an_axis(planned):
    runs = planned(SWEEP.replace("partition.alpha", "strategy.fixed_ratio"))
    assert {r.config.strategy.options["fixed_ratio"] for r in runs[4:8]} == {0.3}


def test_an_arm_may_have_values_of_its_own_for_an_axis(planned):
    runs = planned(SWEEP.replace("0.001}}", "0.001}, grid: {partition.alpha: [0.5, 1, 2]}}"))
    assert len(runs) == 4 + 4 + 6
    assert {run.chosen["partition.alpha"] for run in runs if run.arm == "Adam"} == {0.5, 1, 2}


def test_words_hold_for_all_runs_and_take_the_place_of_axes(planned):
    runs = planned(SWEEP, "seed=5", "rounds=2", "client.lr=0.5")
    assert len(runs) == 6
    assert {(r.config.seed, r.config.rounds, r.config.client.options["lr"]) for r in runs} == {
        (5, 2, 0.5)
    }
    assert axes(runs) == ["partition.alpha"]
    runs = planned(SWEEP, "seed=5", "model=cnn,mlp", "partition.alpha=1")
    assert axes(runs) == ["model.name"]
    assert [run.config.model.name for run in runs[:2]] == ["cnn", "mlp"]


def test_without_arms_there_is_one_named_after_the_strategy(planned):
    (run,) = planned("sweep: {base: quickstart}")
    assert (run.arm, run.chosen) == ("fedpfn", {})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title: Some arms", "titel: x", "sweep.titel: no such setting; did you mean 'title'?"),
        ("baseline: FedAvg", "baseline: FedAgv", "sweep.baseline: 'FedAgv' is not an arm; did"),
        ("baseline: FedAvg", "figure: {kind: swep}", "sweep.figure.kind: 'swep' is not allowed"),
        ("baseline: FedAvg", "figure: {kind: sweep}", "sweep.figure.x: must be given"),
        ("baseline: FedAvg", "figure: {kind: sweep, x: lr}", "sweep.figure.x: 'lr' is not varied"),
        ("baseline: FedAvg", "figure: {kind: differences}", "sweep.baseline: must be given"),
        ("baseline: FedAvg", "figure: {kinds: x}", "sweep.figure.kinds: no such setting"),
        ("baseline: FedAvg", "table: [acuracy]", "sweep.table: 'acuracy' is not a column; did"),
        ("seeds: 2", "seeds: 0", "sweep.seeds: 0 is not allowed"),
        ("seeds: 2", "seeds: [0, -1]", "sweep: seed: -1 is not allowed"),
        ("seeds: 2", "seeds: [0, x]", "sweep.seeds"),
        ("grid: {", "grid: {seed: [1], ", "sweep.seeds: the seed is an axis of its own too"),
        ("seeds: 2", "pairs: {rounds: [1, 2], client.lr: [1]}", "sweep.pairs: values that go"),
        ("seeds: 2", "pairs: {partition.alpha: [1]}", "sweep.pairs.partition.alpha: is an axis"),
        ("seeds: 2", "pairs: {partition.alhpa: [1]}", "sweep.pairs: partition.alhpa: no arm has"),
        ("[0.1, 0.5]", "[]", "sweep.grid.partition.alpha: [] is not allowed"),
        ("[0.1, 0.5]", "[[1]]", "sweep.grid.partition.alpha"),
        ("[0.1, 0.5]", "[0.1, 0]", "sweep: partition.alpha: 0 is not allowed"),
        ("partition.alpha", "partition.alhpa", "sweep.grid: partition.alhpa: no arm has such"),
        ("rounds: 7", "ruonds: 7", "ruonds: no such setting; did you mean 'rounds'?"),
        ("name: fedpfn", "name: fedpfm", "sweep.arms.FedPFN: strategy.name: 'fedpfm' is not a"),
        ("optimizer: adam", "optimiser: adam", "sweep.arms.Adam: client.optimiser: 'local' has"),
        (
            "0.001}}",
            "0.001}, grid: {client.lr: [1]}}",
            "sweep.arms.Adam.grid: client.lr: no arm has such a setting",
        ),
        ("FedAvg: {strategy: fedavg}", "FedAvg: fedavg", "sweep.arms.FedAvg: 'fedavg' is not"),
        ("sweep:", "sweep: 3\nname:", "sweep: 3 is not a table of settings"),
        ("sweep:", "vary: {}\nname:", "vary: a study is a sweep now"),
    ],
)
def test_a_bad_study_is_refused_with_its_place(planned, write, old, new, told):
    assert old in SWEEP
    with pytest.raises(InputError) as caught:
        planned(SWEEP.replace(old, new))
    assert str(caught.value).startswith(f"{write(SWEEP)}: {told}")


def test_the_base_and_the_command_line_are_named_too(planned, write):
    with pytest.raises(InputError, match=r"fashion-mnits: no such file.*did you mean 'fashion-m"):
        planned(SWEEP.replace("fashion-mnist", "fashion-mnits"))
    with pytest.raises(InputError, match=r"command line: seed: -1 is not allowed"):
        planned(SWEEP, "seed=-1")
    with pytest.raises(InputError, match=r"command line: strategy\.mu: no arm has such a setting"):
        planned(SWEEP, "strategy.mu=1")
    base = write("rounds: 0")
    base = base.rename(base.with_name("base.yaml"))
    with pytest.raises(InputError, match=rf"^{base}: rounds: 0 is not allowed"):
        planned(f"sweep: {{base: {base}}}")


def test_a_sweep_needs_numbers(planned):
    sweep = "figure: {kind: sweep, x: partition.alpha}"
    with pytest.raises(InputError, match=r"grid\.partition\.alpha: 'a' is not a number"):
        planned(SWEEP.replace("baseline: FedAvg", sweep).replace("[0.1, 0.5]", "[0.1, a]"))


def test_a_sweep_is_no_configuration_and_is_told_from_one(write):
    with pytest.raises(InputError, match=r"algorithms: no such file, nor one in configs"):
        find("algorithms")
    with pytest.raises(InputError, match=r"in configs/studies or configs; did you mean 'fixed-r"):
        read_sweep("fixed-ration")
    assert read_sweep("algorithms").file.parent.name == "studies"
    with pytest.raises(InputError, match=r"some.yaml: its block `sweep` describes several runs: "):
        read(str(write(SWEEP)), {})


def test_values_that_go_together(planned):
    pairs = "seeds: 2\n  pairs: {client.lr: [0.1, 0.01], rounds: [5, 50]}"
    runs = planned(SWEEP.replace("seeds: 2", pairs).replace(", lr: 0.001", ""))
    assert len(runs) == 3 * 2 * 2 * 2
    together = {(r.config.client.options["lr"], r.config.rounds) for r in runs}
    assert together == {(0.1, 5), (0.01, 50)}
    runs = planned(SWEEP.replace("seeds: 2", pairs), "client.lr=1", "seed=7")
    assert {(r.config.client.options["lr"], r.config.rounds) for r in runs} == {(1, 5), (1, 50)}
    assert len(runs) == 3 * 2 * 2


def test_one_number_in_several_spellings_is_one_run(planned):
    values = 'client.lr: [0.05, 5e-2, 0.050, "5e-2", .05], rounds: [3, "3", 3.0]'
    runs = planned(f"sweep: {{base: quickstart, grid: {{{values}}}, seeds: [0, 0, 00]}}")
    assert [(run.chosen, run.name) for run in runs] == [
        ({"client.lr": 0.05, "rounds": 3, "seed": 0}, "fedpfn, seed 0")
    ]
    fedavg = {"strategy": "fedavg"}
    runs = planned(
        f"sweep: {{base: quickstart, arms: {{a: {fedavg}, b: {{}}}},"
        " grid: {strategy.fixed_ratio: [0.1, 1e-1, '0.10']}}"
    )
    assert [run.chosen for run in runs] == [{"strategy.fixed_ratio": 0.1}] * 2


def test_every_number_in_any_spelling_has_one_hash():
    name = "algorithms/fedadam"
    config = read(name, {})
    settings = flatten(config.model_dump())
    numbers = {k: v for k, v in settings.items() if type(v) in (int, float)}
    assert {"rounds", "client.lr", "evaluation.extrapolate"} <= numbers.keys()
    for key, value in numbers.items():
        for text in (f"{value:.17e}", f'"{value}"', f"+{value}", f"{float(value)}0"):
            other = read(name, parse_overrides([f"{key}={text}"]))
            assert other.digest() == config.digest(), (key, text)


def test_where_no_arms_are_named_the_first_axis_makes_them(planned):
    grid = "strategy: [fedavg, fedpfn], strategy.fixed_ratio: [0.2, 0.4], seed: [0, 1]"
    text = f"sweep: {{base: quickstart, baseline: fedavg, grid: {{{grid}}}}}"
    runs = planned(text)
    assert [run.arm for run in runs] == ["fedavg"] * 4 + ["fedpfn"] * 4
    assert axes(runs) == ["strategy.fixed_ratio"]
    assert len({run.config.digest() for run in runs}) == 2 + 4
    assert runs[-1].name == "fedpfn, fixed_ratio 0.4, seed 1"
    assert {run.arm for run in planned(text, "strategy=fedpnu")} == {
        "fixed_ratio 0.2",
        "fixed_ratio 0.4",
    }
    over = text.replace("baseline: fedavg", "figure: {kind: sweep, x: strategy.fixed_ratio}")
    assert {run.arm for run in planned(over, "strategy=fedpnu")} == {"fedpnu"}
    with pytest.raises(InputError, match=r"sweep.baseline: 'fedpnu' is not an arm"):
        planned(text.replace("baseline: fedavg", "baseline: fedpnu"))


def test_an_ordinary_configuration_is_a_sweep_of_one():
    (run,) = plan(read_sweep("quickstart"))
    assert run.config == read("quickstart", {})
    runs = plan(read_sweep("quickstart"), ["strategy=fedavg,fedpfn", "seed=0,1"])
    assert [run.name for run in runs] == [
        f"{arm}, seed {seed}" for arm in ("fedavg", "fedpfn") for seed in (0, 1)
    ]


def test_prepared_runs(write):
    prepare = "prepare: {data.dir: {base: quickstart, rounds: 3, model.width: 9}}"
    source = read_sweep(str(write(SWEEP.replace("title: Some arms", prepare))))
    (made,) = prepared(source).values()
    assert (made.rounds, made.model.options["width"], made.data.name) == (3, 9, "digits")
    runs = plan(source, (), {"data.dir": "runs/made"})
    assert {run.config.data.options["dir"] for run in runs} == {"runs/made"}
    assert axes(runs) == ["partition.alpha"]
    wrong = read_sweep(str(write(SWEEP.replace("title: Some arms", prepare.replace("9", "0")))))
    with pytest.raises(InputError, match=r"some.yaml: sweep.prepare.data.dir: model.width: 0 is"):
        prepared(wrong)
