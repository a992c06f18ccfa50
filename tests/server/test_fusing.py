"""Every fusion of a round's models is measured, and training does not notice."""

import pandas as pd
import pytest
import torch

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.fusions.fuse import fuse
from fedalign.fusions.inputs import sources
from fedalign.landscape.files import read
from fedalign.network.losses import losses_of
from fedalign.report.reading import read_runs
from fedalign.runs.tables import columns
from fedalign.server.fusing import judges, labels
from fedalign.settings.config import Config
from fedalign.settings.config import read as read_config
from fedalign.settings.layers import validate
from fedalign.settings.registry import parse
from fedalign.settings.sections import Evaluation
from fedalign.settings.sources import parse_choices

TWO = {"name": "ties", "density": 0.4}
FUSIONS = ["mean", "greedy", "best", "ensemble", "ties", TWO]
SMALL = {"rounds": 2, "num_clients": 3, "keep_models": "all", "evaluation__holdout": 0.2}
HOW = {"evaluation__fusions": FUSIONS, "evaluation__every": 2}


@pytest.fixture
def fused(run):
    """A run of three clients whose models of the last round are fused, its table by fusion."""
    folder = run(**SMALL, **HOW, evaluation__corruptions=["contrast", "shot_noise"])
    return folder, read_runs([folder])[0]


def test_numbers_are_those_of_fuse_and_of_the_mean_of_logits(fused):
    """And `metrics.csv` has the same, and what lies between them."""
    folder, found = fused
    table = found.fusions.set_index("fusion")
    told = ["mean", "greedy", "best", "ensemble", "ties-density-0.2", "ties-density-0.4"]
    assert list(table.index) == ["client 0", "client 1", "client 2", *told]
    assert set(table["round"]) == {2}
    config = read_config(str(folder / "config.yaml"), {"evaluation.alphas": 0})
    files = sources([folder / "models" / "round-2"])
    for label, part in zip(told, config.evaluation.fusions, strict=True):
        done = fuse(files, part, config, None, 0.1)
        ours = table.loc[
            label, ["test_loss", "test_accuracy", "held_out_loss", "held_out_accuracy"]
        ]
        assert tuple(ours) == (*done.result.test, *done.result.held_out), label
        used = [n for n, share in enumerate(done.fused.shares) if share]
        assert table.loc[label, "ingredients"] == "+".join(map(str, used))
    for number, own in enumerate(done.measured.values()):
        assert table.loc[f"client {number}", "test_accuracy"] == own.test[1]
    federation = Federation(config)
    test, network = federation.test, federation.network
    logits = [network.function_of(read(s.file, network))(test.images).detach() for s in files]
    mean = torch.stack(logits).double().mean(0)
    told = table.loc["ensemble"]
    assert told["test_accuracy"] == float((mean.argmax(1) == test.labels).double().mean())
    assert told["test_loss"] == pytest.approx(float(losses_of(mean, test.labels).mean()))
    # The columns of metrics.csv.
    last, table = found.metrics.iloc[-1], found.fusions.set_index("fusion")
    ingredients = table[table.index.str.startswith("client ")]
    assert (
        last["fusion_ties-density-0.4_accuracy"] == table.loc["ties-density-0.4", "test_accuracy"]
    )
    assert last["mean_ingredient_loss"] == pytest.approx(ingredients["test_loss"].mean())
    assert last["highest_ingredient_accuracy"] == ingredients["test_accuracy"].max()
    corrupted = found.corruptions.groupby("model")[["loss", "accuracy"]].mean()
    assert set(corrupted.index) == {"global", *table.index}
    assert last["corrupted_accuracy"] == pytest.approx(corrupted.loc["global", "accuracy"])
    assert last["fusion_mean_corrupted_loss"] == pytest.approx(corrupted.loc["mean", "loss"])
    assert found.metrics.iloc[0].filter(regex="fusion|ingredient|corrupted").isna().all()


@pytest.mark.slow
def test_training_is_the_same_with_and_without_and_in_sums(run, fused):
    plain = run(**SMALL)
    one, other = (pd.read_csv(folder / "metrics.csv") for folder in (plain, fused[0]))
    for column in ("train_loss", "test_loss", "test_accuracy", "bytes_up"):
        assert one[column].tolist() == other[column].tolist()
    apart = run(**SMALL, **HOW, simulation__partial_aggregation=False, name="apart")
    table = pd.read_csv(apart / "fusions.csv")
    assert table["test_loss"].tolist() == fused[1].fusions["test_loss"].tolist()


def federation_of(**tree):
    return Federation(validate(Config, {"model": {"name": "mlp", "width": 4}} | tree))


@pytest.mark.parametrize(
    ("evaluation", "more", "message"),
    [
        ({"fusions": "greedy"}, {}, "'greedy' needs held-out examples, on which no client trains"),
        ({"fusions": "ties"}, {"init": "own"}, "'ties' needs the model that all .* init: shared"),
        ({"fusions": ["mean", "mean"]}, {}, "evaluation.fusions: 'mean' is given twice"),
        ({"fusions": {"name": "ties", "densty": 1}}, {}, "fusions.densty: 'ties' has no such"),
        ({"corruptions": "fog"}, {}, "evaluation.corruptions: 'fog' is not allowed: give none"),
        ({"corruptions": "all", "severity": 6}, {}, "evaluation.severity: 6 is not allowed: give"),
        ({"corruptions": "all"}, {"data": "shakespeare-excerpt", "model": "char-lstm"},
         "the examples are text of 80 characters, and only images"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_the_run(evaluation, more, message):
    with pytest.raises(InputError, match=message):
        judges(federation_of(evaluation=evaluation, **more))


@pytest.mark.slow
def test_a_fusion_that_fails_costs_its_row_and_no_more(run, caplog):
    slerp = {"name": "slerp", "t": 0.3}
    folder = run(**SMALL, evaluation__fusions=[slerp, "mean"], evaluation__every=2)
    assert list(pd.read_csv(folder / "fusions.csv")["fusion"])[3:] == ["mean"]
    assert "round 2: 'slerp' is not measured: fusion.t: 0.3 is a place between" in caplog.text


def test_settings_have_one_spelling_and_leave_older_digests_alone():
    plain, given = Config(), {"corruptions": "none", "severity": 3, "fusions": []}
    assert validate(Config, {"evaluation": given}).digest() == plain.digest()
    one = Evaluation(corruptions=["rotation", "contrast", "rotation"], severity=[5, 1])
    assert (one.corruptions, one.severity) == (["contrast", "rotation"], [1, 5])
    word = "evaluation.fusions=[mean,{name: ties, density: 0.4}],best"
    assert parse_choices([word]) == {"evaluation.fusions": [["mean", TWO], "best"]}
    parts = [parse("fusions", own, "x") for own in ({"name": "greedy", "metric": "loss"}, "greedy")]
    assert labels(parts) == ["greedy-metric-loss", "greedy-metric-accuracy"]
    found = columns(Evaluation(fusions=["ties", "mean"], corruptions="all"))
    assert found["fusions.csv"][-2:] == ["corrupted_loss", "corrupted_accuracy"]
    assert "fusion_mean_corrupted_accuracy" in found["metrics.csv"]
