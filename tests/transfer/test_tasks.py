"""Evaluation tasks: which there are, what is judged by them, and what is refused."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.api import load
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.network.device import torch_threads
from fedalign.report.tables import groups
from fedalign.report.tasks import lines
from fedalign.runs.tables import COSTS
from fedalign.server.round import Round
from fedalign.server.tasks import FILE, Judging
from fedalign.settings.config import Config
from fedalign.settings.layers import validate
from fedalign.transfer.judge import Judge, columns
from fedalign.transfer.tasks import tasks_of
from tests.runs.test_checkpoint import interrupt  # noqa: F401 - a fixture

pytestmark = pytest.mark.xdist_group("probe")  # PyTorch's first optimiser takes a second

HERE = "tests.transfer.sources"
PARITY, LOW, HIGH = f"{HERE}:Parity", f"{HERE}:Low", {"name": f"{HERE}:Low", "first": 5}
BOTH = {"own": "digits", "parity": PARITY}


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


def federation(data="digits", client=(), model=("mlp",), **tasks):
    settings = {"examples": 100, "test_examples": 200} | tasks
    tree = {
        "data": data,
        "model": {"name": model[0], "width": 16} if model == ("mlp",) else model[0],
        "client": dict(client),
        "evaluation": {"tasks": settings, "threads": 1},
    }
    return Federation(validate(Config, tree))


def test_which_tasks_are_seen():
    """Those that are the run's own data, however many of its examples are taken, unless told."""
    found = tasks_of(federation(on=BOTH | {"few": {"name": "digits", "max_examples": 50}}))
    assert [(t.name, t.seen, len(t.train), t.spec.classes) for t in found] == [
        ("own", True, 100, 10), ("parity", False, 100, 2), ("few", True, 50, 10),
    ]  # fmt: skip
    assert {len(t.test) for t in found} == {200}
    low = federation(LOW, on=["low", "high"])
    assert [(t.name, t.seen) for t in tasks_of(low)] == [("low", True), ("high", False)]
    assert {t.seen for t in tasks_of(federation(on=BOTH, unseen=[]))} == {True}
    some, on = {"name": "digits", "classes": "0-6"}, {"name": "digits", "classes": [7, 8, 9]}
    pretrained = tasks_of(federation(some, on={"others": on, "same": some}))
    assert [(t.seen, t.spec.classes) for t in pretrained] == [(False, 3), (True, 7)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on": BOTH, "unseen": ["own"]}, "tasks.unseen: clients train on 'own', a part of"),
        ({"on": ["mr"]}, r"evaluation.tasks.on: data set 'digits' knows no tasks .*\{mr: \{name: "),
        ({"on": {"wide": f"{HERE}:Wide"}},
         "on.wide: its examples are images of 1x8x16, and the run's images of 1x8x8"),
        ({"on": {"low": LOW}}, "100.0% of the examples of 'low', which is to be unseen, are"),
        ({"on": {"few": {"name": "digits", "max_examples": 9}}}, "9 training examples are too few"),
        ({"on": {"text": "shakespeare-excerpt"}}, "its examples are text of 80 characters, and"),
    ],
)  # fmt: skip
def test_tasks_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        tasks_of(federation(**settings))


def test_a_trained_body_is_better_than_a_random_one_which_is_better_than_chance():
    of = federation(on=BOTH, ways=["probe"], l2=0.01)
    judge, network = Judge(of), of.network
    start = network.layout.to_vector(network.initial)
    own, _ = tasks_of(federation(on=BOTH, examples=None))
    optimizer = torch.optim.Adam(network.module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        images = (own.train.images / 255 - 0.3048) / 0.3759
        functional.cross_entropy(network.module(images), own.train.labels).backward()
        optimizer.step()
    random, trained = judge.scores(start), judge.scores(network.layout.flatten(network.module))
    assert [(s.task, s.seen, s.way, s.examples) for s in random] == [
        ("own", 1, "probe", 100), ("parity", 0, "probe", 100),
    ]  # fmt: skip
    assert trained[0].accuracy > random[0].accuracy + 0.1 > 0.5
    assert random[1].accuracy > 0.6
    assert judge.scores(start) == random  # to the bit


def test_fine_tuning_by_hand():
    """Two steps of plain gradient descent on all examples, from the body and a new head."""
    how = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 200, "epochs": 2}
    of = federation(on=BOTH, ways=["finetune"], client={"lr": 3.0}, finetune=how)
    judge, layout = Judge(of), of.network.layout
    model = layout.to_vector(of.network.initial)
    _, task = judge.tasks
    tuner = judge._tuners[task.spec]
    start = tuner.start(model, task.name)
    assert torch.equal(start, tuner.start(2 * model, task.name)) is False
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    tensors = dict(zip(["1", "3"], ["fc1", "fc2"], strict=True))
    theirs = {e.name: e.view(model) for e in layout.entries}
    ours = {e.name: e.view(start) for e in tuner.network.layout.entries}
    state = {
        f"{n}.{k}": theirs[f"{fc}.{k}"] for n, fc in tensors.items() for k in ("weight", "bias")
    }
    state |= {f"5.{k}": ours[f"fc3.{k}"] for k in ("weight", "bias")}
    module.load_state_dict(state)
    for _ in range(2):
        images = (task.train.images / 255 - 0.3048) / 0.3759
        loss = functional.cross_entropy(module(images), task.train.labels)
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(module.parameters(), gradients, strict=True):
                weight -= 0.1 * gradient
    tuned = tuner.network.layout.compact(tuner.tune(model, task))
    expected = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(tuned, expected, rtol=1e-4, atol=1e-6)
    logits = module((task.test.images / 255 - 0.3048) / 0.3759)
    right = (logits.argmax(1) == task.test.labels).double().mean()
    assert judge.scores(model)[1].accuracy == pytest.approx(float(right), abs=1e-9)


def test_every_body_gets_the_same_new_head():
    judge = Judge(of := federation(on=BOTH, ways=["finetune"]))
    own, parity = judge.tasks
    model = of.network.layout.to_vector(of.network.initial)
    tuner = judge._tuners[own.spec]
    one, other = (tuner.start(own_model, "own") for own_model in (model, -model))
    assert torch.equal(one[-176:], other[-176:])  # 10 rows of 16, and 10 biases, padded
    assert torch.equal(one[:-176], -other[:-176])
    assert not torch.equal(one[-176:], model[-176:])  # the run's own head is not it
    assert tuner is not judge._tuners[parity.spec]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": "shakespeare-excerpt", "model": ("char-lstm",),
          "on": {"own": "shakespeare-excerpt"}, "ways": ["probe"]}, None),
        ({"model": ({"name": f"{__name__}:Convolution"},)}, "has no linear layer, whose inputs"),
        ({"model": ({"name": f"{__name__}:Scaled"},)}, "last linear layer 'fc' .* has 12 outputs"),
        ({"model": ({"name": f"{__name__}:Early", "frozen": "head.*"},)}, "'head' never trains"),
        ({"model": ({"name": f"{__name__}:Early", "wide": True},)},
         r"of 2 classes: 'body.weight' is \(2, 64\), and the run's \(10, 64\)"),
    ],
)  # fmt: skip
def test_models_whose_features_are_not_known_are_refused(settings, says):
    settings = {"on": BOTH, "examples": 10, "test_examples": 10} | settings
    if says is None:
        assert Judge(federation(**settings))
    else:
        with pytest.raises(InputError, match=says):
            Judge(federation(**settings))


class Convolution(nn.Module):
    """Logits by a convolution."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], classes, 8)

    def forward(self, x):
        return self.conv(x).flatten(1)


class Scaled(nn.Module):
    """Twelve logits, of which ten are classes."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.fc = nn.Linear(shape[1] * shape[2], classes + 2)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Early(nn.Module):
    """A network whose head is drawn before its body, and used after it."""

    def __init__(self, shape: tuple[int, ...], classes: int, wide: bool = False):
        super().__init__()
        width = classes if wide else 8
        head = nn.Linear(width, classes)
        self.body, self.head = nn.Linear(shape[1] * shape[2], width), head

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu())


def test_what_never_trains_is_that_of_the_run_for_any_number_of_classes():
    of = federation(model=({"name": f"{__name__}:Early", "frozen": "body.*"},), on=BOTH)
    judge, fixed = Judge(of), of.network.module.body.weight
    for task in judge.tasks:
        network = judge._tuners[task.spec].network
        assert torch.equal(network.module.body.weight, fixed)
        assert [entry.name for entry in network.layout.entries] == ["head.weight", "head.bias"]


def test_the_callback_measures_the_start_the_last_round_and_what_is_due():
    of = federation(on=BOTH, ways=["probe"], every=2, l2=0.1)
    settings, start = of.config.evaluation, of.network.initial
    observer = Judging(Judge(of), settings, rounds=5)
    seen = {n: observer.on_round(Round(n, start, start, {})) for n in (1, 2, 3, 4, 5)}
    measured = {n: {row["round"] for row in added.tables[FILE]} for n, added in seen.items()}
    assert measured == {1: {0}, 2: {2}, 3: set(), 4: {4}, 5: {5}}
    assert list(seen[2].metrics) == columns(settings) == ["probe_seen", "probe_unseen"]
    assert seen[2].metrics["probe_seen"] == seen[2].tables[FILE][0]["accuracy"]
    assert not seen[1].metrics
    assert [r | {"round": 5} for r in seen[1].tables[FILE]] == seen[5].tables[FILE]


ON = {
    "evaluation__tasks.on": BOTH,
    "evaluation__tasks.examples": 60,
    "evaluation__tasks.ways": ["probe", "finetune"],
}


def test_a_run_is_read_and_drawn_with_its_start(run):
    brief = {"rounds": 2, "num_clients": 2, "evaluation__alphas": 0, "evaluation__tasks.l2": 0.1}
    found = load(run(**ON, **brief))
    assert found.tasks.groupby("round").size().to_dict() == {0: 4, 1: 4, 2: 4}
    seen = found.tasks[(found.tasks["way"] == "finetune") & (found.tasks["seen"] == 1)]
    assert seen["accuracy"].tolist()[1:] == found.metrics["finetune_seen"].tolist()
    titles = [ax.get_title() for ax in found.figure("tasks").axes]
    assert titles == [
        *("seen tasks, probing", "unseen tasks, probing"),
        *("seen tasks, fine-tuning", "unseen tasks, fine-tuning"),
    ]
    points = found.figure("tasks").axes[2].lines[0].get_xydata().tolist()
    assert points == [list(pair) for pair in zip([0, 1, 2], seen["accuracy"], strict=True)]
    line = next(own for own in lines(groups([found])) if own.seen and own.way == "fine-tuning")
    assert (*line.start, *line.last) == (points[0][1], points[2][1])


@pytest.mark.slow
def test_nothing_of_it_changes_training_and_overlap_changes_nothing(run):
    plain = run()
    found = [run(**ON, evaluation__overlap=how, name=f"o{how}") for how in (True, False)]
    tables = [pd.read_csv(folder / "metrics.csv").drop(columns=list(COSTS)) for folder in found]
    pd.testing.assert_frame_equal(*tables)
    assert (found[0] / "tasks.csv").read_bytes() == (found[1] / "tasks.csv").read_bytes()
    without = pd.read_csv(plain / "metrics.csv").drop(columns=list(COSTS))
    pd.testing.assert_frame_equal(tables[0][without.columns], without)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_goes_on_ends_with_the_same_tables(run, interrupt, number):  # noqa: F811
    straight = run(**ON, name="straight")
    stopped = {"name": "stopped", "checkpoint_every": 1}
    interrupt(number, **ON, **stopped)
    resumed = run(**ON, **stopped)
    assert (straight / "tasks.csv").read_bytes() == (resumed / "tasks.csv").read_bytes()
