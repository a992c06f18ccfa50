"""`fedalign connect` as a person types it, with models from anywhere."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.models.mlp import mlp
from fedalign.models.symmetry import Group, Neurons, Place, symmetry
from fedalign.network.layout import Layout
from fedalign.network.permutations import shuffled

DIGITS = ["--model", "mlp", "--data", "digits", "model.width=8", "evaluation.alphas=5"]


class Own(nn.Module):
    """A model of which nothing is known."""

    def __init__(self, shape, classes):  # noqa: ARG002
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 8), nn.Linear(8, classes)

    def forward(self, images):
        return self.fc2(torch.tanh(self.fc1(images.flatten(1))))


class Told(Own):
    """The same, which says what it is."""

    def symmetry(self):
        hidden = Neurons("fc1", 8)
        hidden.own(self.fc1, "fc1")
        hidden.feed(self.fc2, "fc2")
        return hidden.groups()


class Mistaken(Own):
    """A model that speaks of a layer it does not have."""

    def symmetry(self):
        return (Group("fc1", 8, (Place("fc3.weight", 0, np.arange(8)[:, None]),)),)


def state(seed, build=lambda: mlp((1, 8, 8), 10, width=8)):
    torch.manual_seed(seed)
    return build().state_dict()


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Connect the files a, b, …, made of state dicts, in a folder of their own."""
    monkeypatch.chdir(tmp_path)

    def connect(*states, words=DIGITS):
        files = [f"{chr(ord('a') + i)}.safetensors" for i in range(len(states))]
        for file, tensors in zip(files, states, strict=True):
            save_file(tensors, file)
        return CliRunner().invoke(app, ["connect", *files, *words])

    return connect


def single_spaced(output):
    """The output, whose tables have padded cells, with one space for many."""
    return re.sub(" +", " ", output)


def refused(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for words in parts:
        assert words in result.stderr


def test_models_and_paths_are_told_and_written(connect, tmp_path):
    result = connect(state(0), state(1), state(2))
    assert result.exit_code == 0, result.output
    for row in ("| A | a.safetensors |", "| matched mean |", "| A-C |", "| matched:B-C |"):
        assert row in single_spaced(result.output)
    assert "all measured on 360 test examples" in result.output
    folder = tmp_path / "connection"
    assert len(pd.read_csv(folder / "landscape.csv")) == 6 * 5
    assert pd.read_csv(folder / "barriers.csv")["path"].is_unique
    assert (folder / "figure.png").stat().st_size > 10_000
    assert (folder / "figure.pdf").stat().st_size > 5_000


def test_a_permuted_copy_is_the_model_itself_after_matching(connect, tmp_path):
    module = mlp((1, 8, 8), 10, width=8)
    layout, groups = Layout.of(module), symmetry(module)
    vector = layout.flatten(module)
    copy = shuffled(layout, groups, np.random.default_rng(0), vector)
    entries = {e.name: e for e in layout.entries}
    first, second = ({n: e.view(v).clone() for n, e in entries.items()} for v in (vector, copy))
    assert connect(first, second).exit_code == 0
    found = pd.read_csv(tmp_path / "connection" / "barriers.csv").set_index("path")
    assert abs(found.loc["A-B", "midpoint_loss_gap"]) > 1e-3
    assert found.loc["matched:A-B", "midpoint_loss_gap"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(connect, dtype):
    same = state(0)
    result = connect({name: tensor.to(dtype) for name, tensor in same.items()}, same)
    assert result.exit_code == 0, result.output


def test_the_configuration_beside_the_first_file_serves_even_if_it_measured_no_paths(
    connect, tmp_path
):
    tree = {"data": "digits", "model": {"name": "mlp", "width": 8}, "evaluation": {"alphas": 0}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    result = connect(state(0), state(1), words=["evaluation.match=none"])
    assert result.exit_code == 0, result.output
    assert "matched" not in result.output
    assert set(pd.read_csv(tmp_path / "connection" / "landscape.csv")["path"]) == {"A-B"}


def test_a_file_may_have_an_equals_sign_in_its_name(connect, tmp_path):
    save_file(state(1), tmp_path / "lr=0.1.safetensors")
    words = ["lr=0.1.safetensors", *DIGITS]
    output = connect(state(0), words=words).output
    assert "| B | lr=0.1.safetensors |" in single_spaced(output)
    refused(connect(state(0), words=["lr=2.safetensors", *DIGITS]), "lr=2.safetensors: no such")


def test_ones_own_model_is_matched_if_it_says_how(connect):
    states, words = [state(s, lambda: Own((), 10)) for s in (0, 1)], ["--data", "digits"]
    result = connect(*states, words=[*words, "--model", f"{__name__}:Told"])
    assert "| matched:A-B |" in single_spaced(result.output)
    result = connect(*states, words=[*words, "--model", f"{__name__}:Own"])
    assert result.exit_code == 0, result.output
    assert "matched:A-B" not in result.output
    assert "neurons were not matched: this model does not say" in result.output
    result = connect(*states, words=[*words, "--model", f"{__name__}:Mistaken"])
    refused(result, "Mistaken.symmetry(): group 'fc1': no tensor 'fc3.weight'; did you mean")


def test_a_line_needs_two_files(connect):
    refused(connect(state(0)), "1 safetensors file, but a line has two ends")


def test_what_the_files_are_must_be_said(connect):
    two = state(0), state(1)
    refused(connect(*two, words=["--data", "digits"]), "--model: must be given", "mlp, cnn, lenet5")
    refused(connect(*two, words=["--model", "mlp"]), "--data: must be given", "digits, fashion-")


def test_tensors_of_another_model_are_named_and_so_are_those_wanted(connect):
    chain = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    result = connect(state(0), chain.state_dict())
    refused(result, "b.safetensors: the model has no '0.bias', ", "the file has no 'fc1.weight', ")
    wide = state(0, lambda: mlp((1, 8, 8), 10, width=9))
    refused(connect(state(0), wide), "b.safetensors: 'fc1.weight' is (9, 64), not (8, 64)")
    chain = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    refused(connect(state(0), chain.state_dict()), "'2.weight' and 14 more, and the file has")


def test_numbers_that_are_none_are_refused(connect):
    bad = state(1)
    bad["fc2.bias"][3] = torch.nan
    message = "b.safetensors: 1 of 8 numbers in 'fc2.bias' are not finite"
    refused(connect(state(0), bad), message)
    whole = {name: tensor.to(torch.int8) for name, tensor in state(1).items()}
    refused(connect(state(0), whole), "b.safetensors: 'fc1.weight' is int8, not a floating-point")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", "none.safetensors: no such file"),
        ("folder", "folder is a folder"),
        ("text", "text is not a safetensors file"),
        ("pickle.pt", "pickle.pt has more than tensors, or is damaged"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(connect, tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no tensors here")
    torch.save(Own((), 10), tmp_path / "pickle.pt")  # a module, whose class would be run
    refused(connect(state(0), words=[name, *DIGITS]), message)
    assert not (tmp_path / "connection").exists()


def test_a_file_is_not_overwritten_by_the_folder(connect):
    result = connect(state(0), state(1), words=[*DIGITS, "--out", "b.safetensors"])
    refused(result, "--out: b.safetensors is a file, not a folder")


def test_repaired_lines_and_a_plane_through_three_files(connect, tmp_path):
    words = [*DIGITS, "evaluation.repair=true", "evaluation.plane=4"]
    result = connect(state(0), state(1), state(2), words=words)
    assert result.exit_code == 0, result.output
    barriers = pd.read_csv(tmp_path / "connection" / "barriers.csv")
    kinds = [path.rpartition(":")[0] for path in barriers["path"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "": 3, "matched": 3, "repaired": 3, "matched_repaired": 3,
    }  # fmt: skip
    planes = pd.read_csv(tmp_path / "connection" / "planes.csv", keep_default_na=False)
    assert list(planes["corner"][:3]) == ["A", "B", "C"]
    assert len(planes) == 3 + 16
    assert (tmp_path / "connection" / "plane.png").stat().st_size > 10_000
