"""Sentences as tokens: several tasks in one file, a user's own files, and what is refused."""

import gzip
import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from fedalign.data.hub import Hub
from fedalign.data.packaged import find_model
from fedalign.data.text_tasks import TextTasks
from fedalign.data.texts import Texts
from fedalign.data.tokens import encoder_of
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.settings.config import read
from partitions.natural import Natural

FILMS = [[f"a {word} film , number {i}", int(word == "good")]
         for i in range(10) for word in ("good", "bad")]  # fmt: skip
KINDS = [[f"{word} is number {i} ?", label]
         for i in range(6) for label, word in enumerate(("who", "where", "when"))]  # fmt: skip
TASKS = {
    "film": {"labels": ["bad", "good"], "train": FILMS, "test": FILMS[:4], "dev": []},
    "kind": {"labels": ["HUM", "LOC", "NUM"], "train": KINDS, "test": KINDS[:3]},
    "again": {"labels": ["no", "yes"], "train": [*FILMS[:9], ["zebra", 0]], "test": []},
}
WORDS = {"tokenizer": "words", "length": 5}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text-tasks.json.gz").write_bytes(gzip.compress(json.dumps(TASKS).encode()))
    return str(tmp_path)


def test_several_tasks_are_one_data_set_with_label_sets(folder):
    source = TextTasks(dir=folder, tasks=("kind", "film"), **WORDS)
    train, test = source.load("train"), source.load("test")
    assert train.spec == test.spec
    assert train.class_names == ("kind:HUM", "kind:LOC", "kind:NUM", "film:bad", "film:good")
    assert (train.classes, train.label_sets) == (5, (0, 0, 0, 1, 1))
    expected = [label for _, label in KINDS] + [3 + label for _, label in FILMS]
    assert train.labels.tolist() == expected
    assert train.group_names == ("kind", "film")
    groups = train.groups.numpy()
    assert groups.tolist() == [0] * 18 + [1] * 20
    shares = Natural().split(train.labels.numpy(), 2, np.random.default_rng(0), groups)
    assert [own.tolist() for own in shares] == [[*range(18)], [*range(18, 38)]]
    words = source.encoder.words
    assert train.vocabulary == len(words) + 2
    shown = [words[n - 2] for n in train.images[0].tolist() if n > 1]
    assert shown == ["who", "is", "number", "0", "?"]
    assert "52.6% of the texts are longer" in train.source  # films have 6 words, kinds 5


def test_a_task_alone_has_the_tokens_of_all_and_classes_of_its_own(folder):
    source = TextTasks(dir=folder, tasks=("kind", "film"), **WORDS)
    both, alone = source.load("train"), source.task("film").load("train")
    assert torch.equal(alone.images, both.images[18:])
    assert (alone.class_names, alone.label_sets) == (("bad", "good"), ())
    unseen = source.task("again")  # of which no word was seen but those of films
    assert unseen.load("train").vocabulary == both.vocabulary
    assert not unseen.has("test")
    assert unseen.load("train").images[9].tolist() == [1, 0, 0, 0, 0]


def test_limits_take_the_same_examples_of_each_task(folder):
    few, more = (TextTasks(dir=folder, tasks=("kind", "film"), task_examples=n, test_examples=2,
                           **WORDS).load("train") for n in (3, 7))  # fmt: skip
    assert [len(few), len(more)] == [6, 14]
    assert torch.equal(few.images[3:], more.images[7:10])
    told = TextTasks(dir=folder, tasks=("kind",), max_examples=5, test_examples=2, **WORDS)
    assert [len(told.load(part)) for part in ("train", "test")] == [5, 2]


def test_tasks_that_share_texts_are_named(folder, caplog):
    with caplog.at_level(logging.WARNING, "fedalign"):
        TextTasks(dir=folder, tasks=("kind", "film"), **WORDS).load("train")
        assert not caplog.messages
        TextTasks(dir=folder, tasks=("film", "again"), **WORDS).load("train")
    assert [line for line in caplog.messages if "'film' and 'again' share 9 texts" in line]


def lines(name, path, rows, task=None):
    """Write rows of text and label as CSV or JSON lines."""
    if name.endswith(".jsonl"):
        text = "".join(json.dumps({"text": t, "label": l, "more": [1]}) + "\n" for t, l in rows)  # noqa: E741
    else:
        text = (
            pd.DataFrame(rows, columns=["text", "label"]).assign(**task or {}).to_csv(index=False)
        )
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(text)
    return path / name


def test_own_files_of_every_form_hold_the_same(tmp_path):
    lines("film.csv", tmp_path / "a", FILMS)
    lines("train.jsonl", tmp_path / "a" / "kind", KINDS)
    lines("test.csv", tmp_path / "a" / "kind", KINDS[:3])
    folders = Texts(path=str(tmp_path / "a"), test_share=0.3, **WORDS)
    assert folders.tasks == ("film", "kind")
    one = lines("all.csv", tmp_path, FILMS, {"task": "film"})
    two = lines("more.csv", tmp_path, KINDS, {"task": "kind"}).read_text()
    one.write_text(one.read_text() + two.partition("\n")[2])
    single = Texts(path=str(one), test_share=0.3, **WORDS)
    ours, theirs = folders.load("train"), single.load("train")
    assert (ours.class_names, ours.label_sets) == (theirs.class_names, theirs.label_sets)
    assert theirs.class_names == ("film:0", "film:1", "kind:0", "kind:1", "kind:2")
    film, other = (s.find("film") for s in (folders, single))
    assert film == other
    tests = set(film.test.texts)
    assert 2 <= len(tests) <= 12  # of 20, each with a chance of 0.3
    assert tests.isdisjoint(film.train.texts)
    assert tests | {*film.train.texts} == {text for text, _ in FILMS}
    kind = folders.find("kind")
    assert (list(kind.train.texts), list(kind.test.texts)) == (
        [text for text, _ in KINDS],
        [text for text, _ in KINDS[:3]],
    )
    assert not Texts(path=str(one), test_share=0, **WORDS).has("test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nhello,\n", r"a.csv line 2: must have a 'label'; it has text, label"),
        ("a.csv", "words,label\nhello,1\n", r"line 2: must have a 'text'; it has words, label"),
        ("a.csv", "text,label\n", "a.csv: there are no examples"),
        ("a.jsonl", '{"text": 1, "label": 2}\n', r"line 1: \[1, 2\] is no text with a label"),
        ("a.jsonl", '\n["text"]\n', "line 2: not an object"),
        ("a.jsonl", "{\n", "a.jsonl line 1: not JSON"),
        ("a.txt", "hello", "is not a .csv or .jsonl file, a folder with train.csv"),
    ],
)
def test_own_files_that_hold_something_else_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        Texts(path=str(tmp_path / name)).load("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("film", "knd")}, "has no task 'knd'; did you mean 'kind'"),
        ({"tasks": ("film", "film")}, "data.tasks: film, film has a task twice"),
        ({"file": "nowhere.json"}, "data.file: nowhere.json: not readable JSON"),
        ({"tokenizer": "no-such-package"}, "'no-such-package' is not installed, and there is no"),
        ({"tokenizer": "a/b/c"}, "'a/b/c' is no folder, and neither the name of a package"),
    ],
)
def test_what_is_not_there_is_refused_by_name(folder, options, message):
    told = {"tasks": ("film", "kind"), "dir": folder} | options
    with pytest.raises(InputError, match=message):
        TextTasks(**told).load("train")


@pytest.mark.parametrize(
    "task", [{"labels": ["a"], "train": [["x", 1]]}, {"labels": [1]}, {"train": []}, [1]]
)
def test_a_file_of_another_form_is_refused(tmp_path, task):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"a": task}))
    with pytest.raises(InputError, match=r"own.json: a: must be as in \{task: "):
        TextTasks(file=str(file), tasks=("a",), **WORDS).load("train")


def test_a_folder_is_a_model_and_two_words_are_one_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert find_model(str(tmp_path), "config.json", "x") == tmp_path
    with pytest.raises(InputError, match=r"^x: .* holds no tokenizer.json"):
        find_model(str(tmp_path), "tokenizer.json", "x")
    assert find_model("owner/name", "config.json", "x") == "owner/name"
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'runs/missing' is no folder"):
        find_model("runs/missing", "config.json", "x")
    with pytest.raises(InputError, match=r"package 'json' holds no config\.json"):
        find_model("json", "config.json", "x")


@pytest.mark.parametrize("pad", [0, 3])
def test_the_tokens_of_a_pretrained_tokenizer(tmp_path, pad):
    """The number that fills up is 0, whatever it is in the tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    known = ["[UNK]", "a", "b", "c", "d"]
    known.insert(pad, "[PAD]")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    encoder = encoder_of(str(tmp_path), 3)
    assert encoder.vocabulary == 6
    found = encoder.encode(["a d", "b zebra c a"])
    swap = {0: pad, pad: 0}
    expected = [["a", "d", "[PAD]"], ["b", "[UNK]", "c"]]
    numbers = [[known.index(word) for word in row] for row in expected]
    assert found.tokens.tolist() == [[swap.get(n, n) for n in row] for row in numbers]
    assert found.cut == 1


BAG = """
from torch import nn

class Bag(nn.Module):
    def __init__(self, classes, vocabulary):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(vocabulary, 8), nn.Linear(8, classes)

    def forward(self, tokens):
        return self.fc(self.embedding(tokens).mean(1))
"""


def test_a_run_on_two_tasks_is_measured_task_by_task(run, folder, tmp_path, monkeypatch):
    (tmp_path / "bags.py").write_text(BAG)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = {"data__name": "text-tasks", "data__dir": folder, "data__tasks": ["film", "kind"]}
    told |= {"data__tokenizer": "words", "model__name": "bags:Bag", "partition__name": "natural"}
    told |= {"num_clients": 2, "rounds": 3, "client__lr": 0.05}
    told |= {"client__optimizer": "adam", "client__epochs": 8, "client__batch_size": 4}
    out = run(**told)
    metrics = pd.read_csv(out / "metrics.csv")
    federation = Federation(read(str(out / "config.yaml"), {}))
    test, network = federation.test, federation.network
    module = network.module
    module.load_state_dict(load_file(out / "model.safetensors"))
    logits = module(test.images.long()).detach()
    film, kind = logits[:4, :2], logits[4:, 2:]
    losses = functional.cross_entropy(film, test.labels[:4], reduction="sum")
    losses += functional.cross_entropy(kind, test.labels[4:] - 2, reduction="sum")
    hits = (film.argmax(1) == test.labels[:4]).sum() + (kind.argmax(1) == test.labels[4:] - 2).sum()
    assert metrics["test_loss"].iloc[-1] == pytest.approx(losses.item() / 7, rel=1e-4)
    assert metrics["test_accuracy"].iloc[-1] == pytest.approx(hits.item() / 7)
    assert metrics["test_loss"].iloc[-1] < metrics["test_loss"].iloc[0] - 0.05


@pytest.mark.parametrize("model", ["mlp", "char-lstm"])
def test_a_model_of_something_else_takes_no_tokens(folder, model):
    told = {"data.name": "text-tasks", "data.dir": folder, "data.tasks": ["film"]}
    told |= {"data.tokenizer": "words", "model.name": model}
    with pytest.raises(
        InputError, match=f"'{model}' takes no tokens, and this data is text of 32 t"
    ):
        Federation(read(None, told)).network  # noqa: B018


def test_a_model_of_tokens_takes_nothing_else():
    told = {"data.name": "shakespeare-excerpt", "model.name": "transformer"}
    with pytest.raises(
        InputError, match=r"'transformer' takes text of tokens, such as 'text-tasks'"
    ):
        Federation(read(None, told)).network  # noqa: B018


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_by_the_package(tmp_path):
    """Here from a folder, which the package reads as it reads what it has downloaded."""
    pytest.importorskip("datasets")
    for part, rows in (("train", range(20)), ("test", range(20, 25))):
        lines(f"{part}.csv", tmp_path, [[f"number {i}", "odd" if i % 2 else "even"] for i in rows])
    source = Hub(datasets=(str(tmp_path),), tokenizer="words", length=3)
    train, test = source.load("train"), source.load("test")
    assert (train.class_names, train.labels[:4].tolist()) == (("even", "odd"), [0, 1, 0, 1])
    assert (train.images[:, 0] == 2).all()  # the most frequent word
    assert (len(test), test.labels.tolist()) == (5, [0, 1, 0, 1, 0])
    with pytest.raises(InputError, match="has the columns text, label, none of body"):
        Hub(datasets=(str(tmp_path),), text=("body",)).load("train")
    with pytest.raises(InputError, match="Unknown split"):
        Hub(datasets=(str(tmp_path),), test_split="dev").load("train")
