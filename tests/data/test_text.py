import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.data.shakespeare import Excerpt, Shakespeare, read_plays
from fedalign.data.text import LETTERS, UNKNOWN, VOCABULARY, Cut, by_speaker, encode, windows
from fedalign.errors import InputError

PLAY = """First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die
than to famish?
"""


def decode(codes):
    return "".join((LETTERS + "#")[code] for code in codes.tolist())


def pairs(dataset):
    """Each speaker's windows and what follows, as text."""
    found = {name: [] for name in dataset.group_names}
    for x, y, who in zip(dataset.images, dataset.labels, dataset.groups, strict=True):
        found[dataset.group_names[who]].append((decode(x), decode(y[None])))
    return found


def write(folder, text=PLAY, name="shakespeare.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    raw = text.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(folder)


def test_the_vocabulary_is_leafs():
    assert len(LETTERS) == len(set(LETTERS)) == 80
    assert VOCABULARY == 81
    assert decode(encode(LETTERS)) == LETTERS
    assert encode("a\tß€\U0001f600\x7f\x80z").tolist() == [53, *[UNKNOWN] * 6, 78]


def test_windows_by_hand():
    x, y = windows(encode("abcdefgh"), 3, 2)
    assert [decode(own) for own in x] == ["abc", "cde", "efg"]
    assert decode(y) == "dfh"
    for short in ("", "abc"):
        x, y = windows(encode(short), 3, 2)
        assert (x.shape, y.shape) == ((0, 3), (0,))


def test_a_speakers_end_is_the_test_part_by_hand():
    texts, cut = {"A": "abcdefghij", "B": "0123456789"}, Cut(2, 1, 0.4, 10)
    train, test = (by_speaker(texts, part, cut, "a play") for part in ("train", "test"))
    assert pairs(train)["A"] == [("ab", "c"), ("bc", "d"), ("cd", "e"), ("de", "f")]
    assert pairs(test)["B"] == [("67", "8"), ("78", "9")]
    assert train.is_text
    assert (train.classes, train.mean, train.std) == (81, (), ())
    assert train.source == "a play, train part: 2 of 2 speakers, windows of 2, stride 1"


def test_speakers_who_say_too_little_are_left_out_of_both_parts():
    texts = {"long": "x" * 30, "short": "y" * 19, "other": "z" * 20}
    for part in ("train", "test"):
        dataset = by_speaker(texts, part, Cut(5, 1, 0.5, 20), "a play")
        assert dataset.group_names == ("long", "other")
    with pytest.raises(InputError, match=r"data\.min_characters: none of 3 .* 20 characters, 31 "):
        by_speaker(texts, "train", Cut(30, 1, 0.5, 20), "a play")


LINES = st.text(st.sampled_from("ab \n"), min_size=0, max_size=60)


@given(
    texts=st.lists(LINES, min_size=1, max_size=4),
    window=st.integers(1, 6),
    stride=st.integers(1, 5),
    share=st.floats(0.05, 0.95),
)
def test_no_window_has_anothers_text_or_text_from_across_the_cut(texts, window, stride, share):
    """Each speaker's letters are made their own, and a letter's case says in which part it is."""
    said = {}
    for number, text in enumerate(texts):
        end = round(len(text) * (1 - share))
        own = text.replace("a", "mnop"[number]).replace("b", "qrst"[number])
        said[str(number)] = own[:end] + own[end:].upper()
    cut = Cut(window, stride, share, 1)
    kept = [name for name, text in said.items() if round(len(text) * (1 - share)) > window]
    if not kept:
        with pytest.raises(InputError):
            by_speaker(said, "train", cut, "plays")
        return
    for part in ("train", "test"):
        expected = {}
        for name in kept:
            end = round(len(said[name]) * (1 - share))
            text = said[name][:end] if part == "train" else said[name][end:]
            starts = range(0, len(text) - window, stride)
            expected[name] = [(text[i : i + window], text[i + window]) for i in starts]
        if any(expected.values()):
            assert pairs(by_speaker(said, part, cut, "plays")) == expected
        else:
            with pytest.raises(InputError, match="there are no examples"):
                by_speaker(said, part, cut, "plays")


@pytest.mark.parametrize(
    "name", ["shakespeare.txt", "shakespeare.txt.gz", "tinyshakespeare.txt.gz"]
)
@pytest.mark.parametrize("inside", ["", "shakespeare"])
def test_plays_are_found_under_every_name(tmp_path, name, inside):
    write(tmp_path / inside, name=name)
    source = Shakespeare(dir=str(tmp_path), window=5, min_characters=20)
    train = source.load("train")
    assert train.group_names == ("First Citizen",)
    text = (
        "Before we proceed any further, hear me speak.\nYou are all resolved rather to die\nthan "
    )
    (own,) = pairs(train).values()
    assert own[0] == ("Befor", "e")
    assert own[41] == ("eak.\n", "Y")
    assert decode(train.images[:, 0]).startswith(text[:70])
    assert f"{name} (data.dir), SHA-256 " in train.source


def test_max_examples_keeps_examples_and_speakers_together(tmp_path):
    options = {"dir": write(tmp_path), "window": 5, "min_characters": 5}
    some, every = Shakespeare(**options, max_examples=7), Shakespeare(**options)
    assert len(some.load("train")) == 7
    assert len(some.load("test")) == len(every.load("test"))
    known = pairs(every.load("train"))
    for name, own in pairs(some.load("train")).items():
        assert set(own) <= set(known[name])


def test_speeches_may_have_gaps_and_files_a_mark_and_other_line_ends(tmp_path):
    text = "\ufeffA:\r\none\r\n \r\ntwo\r\n\r\nB:\r\nthree: four\r\n\r\n\r\nA:\r\n\r\nfive"
    write(tmp_path, text)
    texts, _ = read_plays(tmp_path / "shakespeare.txt")
    assert texts == {"A": "one\ntwo\nfive", "B": "three: four"}


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("shakespeare.txt", b"To be\n\nHAMLET:\nor not", "begins with 'To be', not with a speaker"),
        ("shakespeare.txt", b"", "begins with ''"),
        ("shakespeare.txt", b"A:\n\xff\xfe", "not a readable text in UTF-8"),
        ("shakespeare.txt.gz", b"A:\nplain", "not a readable text"),
    ],
)
def test_a_file_that_is_no_play_is_named(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        Shakespeare(dir=str(tmp_path)).load("train")


def test_where_there_is_nothing_the_error_promises_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDALIGN_DATA", str(tmp_path))
    with pytest.raises(InputError) as error:
        Shakespeare().load("train")
    for word in ("there is no download", str(tmp_path), "shakespeare.txt.gz", "set data.dir or"):
        assert word in str(error.value)
    assert "data.download" not in str(error.value)


def test_leafs_own_files_are_read_as_they_are_cut(tmp_path):
    for part, letters in (("train", "bcd"), ("test", "e")):
        folder = tmp_path / "shakespeare" / part
        folder.mkdir(parents=True)
        own = {"x": ["abcde"[i : i + 1] for i in range(len(letters))], "y": list(letters)}
        (folder / "all_data.json").write_text(
            json.dumps({"users": ["HAMLET"], "user_data": {"HAMLET": own}})
        )
    train = Shakespeare(dir=str(tmp_path), max_examples=2).load("train")
    assert (len(train), train.group_names) == (2, ("HAMLET",))
    assert pairs(Shakespeare(dir=str(tmp_path)).load("test")) == {"HAMLET": [("a", "e")]}


def test_the_excerpt_has_twelve_speakers_of_hamlet_in_both_parts(monkeypatch):
    monkeypatch.setenv("FEDALIGN_DATA", "/nowhere")
    train, test = (Excerpt().load(part) for part in ("train", "test"))
    assert train.group_names == test.group_names
    assert len(train.group_names) == 12
    assert np.bincount(train.groups).min() > 100
    assert np.bincount(test.groups).min() > 10
    assert UNKNOWN not in train.images
    first = train.group_names.index("Polonius"), train.group_names.index("Bernardo")
    starts = [decode(train.images[train.groups == who][0])[:23] for who in first]
    assert starts == ["He hath, my lord, wrung", "Who's there?\nLong live "]
