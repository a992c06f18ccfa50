"""`fedalign fuse` as a person types it, on models that plain PyTorch has trained."""

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.data.digits import Digits
from fedalign.fusions.recipe import Fused, Recipe
from fedalign.models.symmetry import Group, Neurons
from fedalign.network.device import torch_threads

MINE = ["--model", f"{__name__}:Mine", "--data", "digits", "evaluation.alphas=3"]


class Mine(nn.Module):
    """A network of a user's own: a norm, and one weight under two names."""

    def __init__(self):
        super().__init__()
        self.norm, self.one = nn.BatchNorm1d(64), nn.Linear(64, 16)
        self.two, self.three = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.three.weight = self.two.weight
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        x = torch.relu(self.one(self.norm(images.flatten(1))))
        return self.head(torch.relu(self.three(torch.relu(self.two(x)))))


class Told(nn.Module):
    """A network that says which of its neurons may be exchanged."""

    forgets = ""

    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, images):
        return self.head(torch.relu(self.one(images.flatten(1))))

    def symmetry(self):
        hidden = Neurons("hidden", 16)
        hidden.own(self.one, "one")
        hidden.feed(self.head, "head")
        places = (place for group in hidden.groups() for place in group.places)
        return [Group("hidden", 16, tuple(p for p in places if p.tensor != self.forgets))]


class Mistaken(Told):
    """The same, which forgets that they have a bias."""

    forgets = "one.bias"


def trained(module, seed, lr=0.1, epochs=6):
    """A loop as anybody writes it; a third of the digits will do."""
    data = Digits().load("train").subset(500)
    x = (data.images / 255 - data.mean[0]) / data.std[0]
    stream = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=stream).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(module(x[rows]), data.labels[rows]).backward()
            optimizer.step()
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """start.pt and what became of it three times; and three models of different starts."""
    place = tmp_path_factory.mktemp("models")
    with torch_threads(1):
        torch.manual_seed(0)
        start = trained(Mine(), 0, epochs=2)
        torch.save(start.state_dict(), place / "start.pt")
        for number, lr in enumerate((0.02, 0.05, 0.1)):
            module = Mine()
            module.load_state_dict(start.state_dict())
            state = trained(module, number, lr).state_dict()
            saved = {"state_dict": {f"module.{name}": own for name, own in state.items()}}
            torch.save(saved, place / f"tuned-{number}.pt")
            torch.manual_seed(10 + number)
            state = trained(Mine(), number).state_dict()
            state.pop("three.weight")  # safetensors refuses shared memory
            save_file(state, place / f"apart-{number}.safetensors")
    return place


@pytest.fixture
def fuse(folder, tmp_path, monkeypatch):
    """Run `fuse` in the folder of the models; it writes elsewhere."""
    monkeypatch.chdir(folder)

    def fuse(kind, *words, count=3, mine=MINE):
        ending = "pt" if kind == "tuned" else "safetensors"
        files = [f"{kind}-{number}.{ending}" for number in range(count)]
        out = tmp_path / "out.safetensors"
        result = CliRunner().invoke(app, ["fuse", *files, *mine, "--out", str(out), *words])
        card = tmp_path / "out.json"
        return result, json.loads(card.read_text()) if card.exists() else None

    return fuse


def told(result):
    """What it prints, with one space for many."""
    assert result.exit_code == 0, result.output
    return re.sub(" +", " ", result.output)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    for words in parts:
        assert words in result.stderr


def test_a_mean_of_models_of_one_start_is_written_with_its_card(fuse, folder, tmp_path):
    result, card = fuse(
        "tuned", "--start", "start.pt", "--by", "task-arithmetic", "fusion.scale=mean"
    )
    for words in (
        "| A | tuned-0.pt |",
        "| fused | task-arithmetic |",
        "| A-B |",
        "common start: start",
    ):
        assert words in told(result)
    module = Mine()  # whose own class reads what was written
    module.load_state_dict(load_file(tmp_path / "out.safetensors"))
    parts = [torch.load(folder / f"tuned-{i}.pt")["state_dict"] for i in range(3)]
    mean = torch.stack([part["module.one.weight"] for part in parts]).mean(0)
    torch.testing.assert_close(module.one.weight.data, mean)
    assert torch.equal(module.two.weight, module.three.weight)
    # BatchNorm's statistics are those of its own inputs, estimated anew and not averaged.
    assert not torch.allclose(module.norm.running_mean, parts[0]["module.norm.running_mean"])
    data = Digits().load("test")
    x = (data.images / 255 - data.mean[0]) / data.std[0]
    right = module.eval()(x).argmax(1) == data.labels
    assert card["fused"]["test"]["accuracy"] == pytest.approx(right.double().mean().item())
    assert card["start"] == "start.pt"
    assert card["inputs"]["B"]["file"] == "tuned-1.pt"
    assert card["fusion"] == {"name": "task-arithmetic", "scale": "mean", "repair": "statistics"}
    assert card["test_examples"] == {"models": 360, "lines": 360}
    assert set(card["barriers"]) == {"A-B", "A-C", "B-C"}
    digests = [own["sha256"] for own in (card["model"], *card["inputs"].values())]
    assert len({*digests}) == 4
    assert {len(digest) for digest in digests} == {64}


def test_a_mean_of_models_of_different_starts_is_worse_than_the_best_and_greedy_refuses_it(fuse):
    result, card = fuse("apart")
    best, fused = (card["inputs"][card["best"]]["test"], card["fused"]["test"])
    assert best["accuracy"] > 0.8
    assert fused["accuracy"] < 0.6
    assert (
        f"the fused model ({fused['accuracy']:.4f}) is WORSE than the best single model ("
        in told(result)
    )
    assert card["worse_than_best"] is True
    result, card = fuse("apart", "--by", "greedy")
    chosen = card["decided"]["tried"][0]["model"]
    assert card["fused"]["test"] == card["inputs"][chosen]["test"]
    assert [tried["joins"] for tried in card["decided"]["tried"]] == [True, False, False]
    assert sum(own["share"] for own in card["inputs"].values()) == 1
    result, card = fuse("apart", "--by", "ensemble")
    assert card["fused"]["test"]["accuracy"] >= best["accuracy"]
    assert "no model; card in" in told(result)
    assert card["model"] is None


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("slerp", ["fusion.across=tensor"]),
        ("fisher", ["fusion.fisher=exact", "fusion.examples=5"]),
        ("ties", ["--start", "start.pt", "fusion.density=0.5"]),
        ("weighted", ["fusion.weights=[1,2,3]"]),
        ("best", ["fusion.metric=loss"]),
    ],
)
def test_options_are_given_as_words(fuse, by, words):
    """Each of them fuses models of one start to one that is about as good."""
    result, card = fuse("tuned", "--by", by, "evaluation.alphas=0", *words)
    assert result.exit_code == 0, result.output
    accuracies = [own["test"]["accuracy"] for own in card["inputs"].values()]
    assert card["fused"]["test"]["accuracy"] >= min(accuracies)


def test_held_out_examples_are_a_share_of_the_training_set_that_the_seed_draws(fuse):
    cards = [
        fuse("tuned", "--held-out", "0.25", f"seed={s}", "evaluation.alphas=0")[1]
        for s in (0, 0, 1)
    ]
    one, again, other = (card["held_out"] for card in cards)
    assert one["examples"] == round(0.25 * len(Digits().load("train")))
    assert one == again
    assert one["sha256_of_row_numbers"] != other["sha256_of_row_numbers"]
    assert one["trained_on"] == "not known"
    result, _ = fuse("tuned", "--by", "greedy", "--held-out", "0")
    refused(result, "fusion: 'greedy' needs held-out examples, and there are none", "--held-out")


def test_what_is_lacking_or_wrong_is_told_in_a_line(fuse, tmp_path):
    refused(fuse("tuned", "--by", "ties")[0], "'ties' needs the model that all", "--start FILE")
    refused(fuse("tuned", "--by", "gredy")[0], "fusion.name: 'gredy' is not a fusion; did you mean")
    refused(fuse("tuned", "fusion.scale=1")[0], "fusion.scale: 'mean' has no such option")
    refused(fuse("tuned", count=1)[0], "1 model, but a fusion is of two or more")
    reason = (
        "'matched' needs a model whose exchangeable neurons are known: Mine is no nn.Sequential"
    )
    refused(fuse("tuned", "--by", "matched")[0], reason, "give its class a method symmetry()")
    refused(fuse("tuned", "--out", "apart-0.pt")[0], "--out: apart-0.pt must end in .safetensors")
    refused(fuse("apart", "--out", "apart-0.safetensors")[0], "is one of the models to be fused")
    refused(fuse("apart", "--out", "no/folder.safetensors")[0], "there is no folder no")
    refused(fuse("apart", str(tmp_path))[0], "neither model.safetensors nor client-*.safetensors")


def test_a_symmetry_that_changes_the_function_is_refused_by_group_and_tensor(
    fuse, tmp_path, monkeypatch
):
    """Before it is used: a plain mean does not ask for it."""
    for number in range(2):
        torch.manual_seed(number)
        save_file(Told().state_dict(), tmp_path / f"apart-{number}.safetensors")
    monkeypatch.chdir(tmp_path)
    right, wrong = (["--model", f"{__name__}:{name}", *MINE[2:]] for name in ("Told", "Mistaken"))
    result, card = fuse("apart", "--by", "matched", count=2, mine=right)
    assert result.exit_code == 0, result.output
    assert min(card["decided"]["sweeps"]) >= 1
    result, _ = fuse("apart", "--by", "matched", count=2, mine=wrong)
    reason = "Mistaken.symmetry(): group 'hidden': exchanging its neurons changes what the network"
    refused(result, reason, "it lacks 'one.bias' (axis 0)")
    assert fuse("apart", "evaluation.alphas=0", count=2, mine=wrong)[0].exit_code == 0


@dataclass(frozen=True)
class Careless(Recipe):
    """A fusion of a user's own that returns what it should not."""

    returns: str = "nothing"

    def combine(self, of):
        model = {"nan": of.models[0] * torch.nan, "short": of.models[0][:3]}.get(self.returns)
        return Fused(of.models[9] if self.returns == "fails" else model, of.models, [1])

    def fuse(self, of):
        return None if self.returns == "nothing" else super().fuse(of)


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        ("nothing", "returned a NoneType, no Fused"),
        ("nan", "numbers not finite"),
        ("short", "returned a model of shape (3,), not ("),
        ("fails", "IndexError: index 9 is out of bounds"),
    ],
)
def test_what_a_fusion_of_ones_own_does_wrong_is_told_in_a_line(fuse, returns, told):
    words = ["--by", f"{__name__}:Careless", f"fusion.returns={returns}", "fusion.repair=none"]
    refused(fuse("apart", *words)[0], f"fusion: '{__name__}:Careless'", told)


def test_the_kept_models_of_a_run_know_their_start_their_examples_and_what_was_held_out(
    tmp_path, monkeypatch
):
    """The clients' models are the run's start, moved by 1, 2 and 3 in one weight each."""
    from fedalign.federation.federation import Federation
    from fedalign.settings.config import read

    tree = {
        "data": "digits", "model": {"name": "mlp", "width": 4}, "num_clients": 3, "seed": 5,
        "partition": "quantity", "evaluation": {"holdout": 0.2, "alphas": 0},
    }  # fmt: skip
    run = tmp_path / "run-1234"
    kept = run / "models" / "round-1"
    kept.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    federation = Federation(read(str(run / "config.yaml"), {}))
    start = {n: torch.from_numpy(a.numpy().copy()) for n, a in federation.network.initial.items()}
    for client in range(3):
        moved = start["fc1.bias"] + torch.tensor([client + 1.0, 0, 0, 0])
        save_file(start | {"fc1.bias": moved}, kept / f"client-{client}.safetensors")
    monkeypatch.chdir(tmp_path)

    def fused(*words):
        result = CliRunner().invoke(app, ["fuse", *words])
        card = json.loads((tmp_path / "fused.json").read_text())
        found = load_file(tmp_path / "fused.safetensors")["fc1.bias"] - start["fc1.bias"]
        return told(result), card, found[0].item()

    printed, card, moved = fused("run-1234", "--by", "task-arithmetic", "fusion.scale=1")
    assert moved == pytest.approx(6)
    assert "common start: the weights of seed 5" in printed
    shards, held = federation.shards(3), federation.holdouts(3)
    assert [own["examples"] for own in card["inputs"].values()] == list(map(len, shards))
    assert card["held_out"]["examples"] == sum(map(len, held))
    assert card["held_out"]["trained_on"] == "by no client of the run"
    _, _, moved = fused(str(kept.relative_to(tmp_path)), "--by", "weighted")
    assert moved == pytest.approx(np.average([1, 2, 3], weights=list(map(len, shards))), rel=1e-5)
    # With another configuration nothing of this is known.
    result = CliRunner().invoke(app, ["fuse", "run-1234", "--by", "weighted", "seed=6"])
    refused(result, "not known on how many examples")
    given = ["--model", "mlp", "--data", "digits", "model.width=4", "--by", "task-arithmetic"]
    refused(CliRunner().invoke(app, ["fuse", "run-1234", *given]), "--start FILE")
    (kept.parent / "round-2").mkdir()
    for client in (0, 2):
        file = kept.parent / "round-2" / f"client-{client}.safetensors"
        save_file(start | {"fc1.bias": start["fc1.bias"] + 10.0 + client}, file)
    save_file(start, run / "model.safetensors")
    assert fused("run-1234")[2] == pytest.approx(11)  # of the last round
    save_file(start | {"fc1.bias": start["fc1.bias"] + 1}, kept / "global.safetensors")
    _, card, moved = fused("run-1234", "--by", "task-arithmetic", "fusion.scale=1")
    assert moved == pytest.approx(1 + 9 + 11)
    assert card["start"].endswith("models/round-1/global.safetensors")
    assert fused("run-1234", f"{kept}/client-0.safetensors", "--start", "init")[2] == pytest.approx(
        0.5
    )
