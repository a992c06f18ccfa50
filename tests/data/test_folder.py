"""Users' own images, written as real files and read back."""

import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.common.serde import config_record_from_proto, config_record_to_proto
from PIL import Image

from fedalign.data import Spec
from fedalign.data.folder import FolderData, read_folder
from fedalign.errors import InputError
from fedalign.federation.federation import Federation, adopt
from fedalign.settings.config import read

NAMES = ("cat", "dog", "fox")
GREY = np.random.default_rng(0).integers(0, 256, (12, 6, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.repeat(np.arange(3), 4)
SPEC = Spec((1, 6, 5), 3, (0.25,), (0.5,), NAMES)


def folders(place, images=GREY, labels=LABELS, names=NAMES, suffix="png"):
    """A folder for each class, as it comes in train/ or test/."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = place / names[label] / f"{number:03}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return place


def listed(place, part="train", images=GREY, labels=LABELS, names=NAMES):
    """A CSV file, and its images in a folder beside it."""
    (place / "pictures").mkdir(parents=True, exist_ok=True)
    lines = ["label,file,more"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(place / "pictures" / f"{part}{number}.png")
        lines.append(f"{names[label]}, pictures/{part}{number}.png, x")
    (place / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return place


def archive(place, part="train", images=GREY, labels=LABELS, keys=("images", "labels"), **more):
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / f"{part}.npz", **dict(zip(keys, (images, labels), strict=True)), **more)
    return place


def same(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    assert one.spec == other.spec


def sha(dataset):
    return dataset.source.rpartition(" ")[2]


@pytest.mark.parametrize(("images", "channels"), [(GREY, 1), (COLOUR, 3)])
def test_all_forms_hold_the_same_bits(tmp_path, images, channels):
    first = read_folder(folders(tmp_path / "0" / "train").parent, "train", None)
    assert first.images.shape == (12, 1, 6, 5)
    texts = np.array(NAMES)[LABELS]
    places = [
        folders(tmp_path / "a" / "train", images).parent,
        folders(tmp_path / "b", images),
        folders(tmp_path / "c" / "train", images, suffix="BMP").parent,
        folders(tmp_path / "d" / "train", images, suffix="tif").parent,
        listed(tmp_path / "e", images=images),
        archive(tmp_path / "f", images=images, labels=texts),
        archive(tmp_path / "g", images=images, labels=texts[:, None], keys=("x", "y")),
    ]
    found = [read_folder(place, "train", None) for place in places]
    for other in found:
        same(other, found[0])
        assert sha(other) == sha(found[0])
    pixels = images.reshape(12, 6, 5, channels).transpose(0, 3, 1, 2)
    assert torch.equal(found[0].images, torch.from_numpy(pixels))
    assert found[0].images.is_contiguous()
    assert found[0].labels.tolist() == LABELS.tolist()
    assert (found[0].labels.dtype, found[0].class_names) == (torch.int64, NAMES)
    assert found[0].source.startswith(f"own images, train part, from {places[0]}/train, SHA-256")


def test_channels_may_come_first_or_last_and_many_images_are_turned_in_their_memory(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (600, 6, 5, 3), dtype=np.uint8)
    labels = np.arange(600) % 2
    last = read_folder(archive(tmp_path / "a", images=images, labels=labels), "train", None)
    first = archive(tmp_path / "b", images=images.transpose(0, 3, 1, 2), labels=labels)
    fortran = archive(tmp_path / "c", images=np.asfortranarray(images), labels=labels)
    same(last, read_folder(first, "train", None))
    same(last, read_folder(fortran, "train", None))
    assert torch.equal(last.images[517], torch.from_numpy(images[517]).permute(2, 0, 1))


def test_what_fits_both_ways_is_decided_by_the_shape_or_refused(tmp_path):
    images = np.zeros((4, 3, 5, 1), np.uint8)
    place = archive(tmp_path, images=images, labels=np.array([0, 1, 0, 1]))
    with pytest.raises(InputError, match=r"train.npz: images \(4, 3, 5, 1\) must have 1 or 3 ch"):
        read_folder(place, "train", None)
    for shape, wanted in (("3x5x1", (3, 5, 1)), ("1x3x5", (1, 3, 5))):
        assert FolderData(dir=str(place), image_shape=shape).load("train").shape == wanted
    archive(tmp_path, images=np.zeros((4, 2, 5, 6), np.uint8), labels=np.array([0, 1, 0, 1]))
    assert FolderData(dir=str(place), image_shape="2x5x6").spec().mean == (0.0, 0.0)


def test_the_order_is_that_of_names_whatever_order_files_were_written_in(tmp_path):
    one = folders(tmp_path / "one" / "train").parent
    for file in sorted((one / "train").rglob("*.png"), reverse=True):
        copy = tmp_path / "two" / file.relative_to(one)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for hidden in (".DS_Store", "cat/.hidden.png", "cat/Thumbs.db"):
        (tmp_path / "two" / "train" / hidden).write_bytes(b"not an image")
    (tmp_path / "two" / "train" / ".ipynb_checkpoints").mkdir()
    same(read_folder(one, "train", None), read_folder(tmp_path / "two", "train", None))


def test_mean_and_std_are_those_of_the_training_part(tmp_path):
    folders(tmp_path / "train", COLOUR)
    folders(tmp_path / "test", 255 - COLOUR[:3], LABELS[:3])
    train, test = (read_folder(tmp_path, part, None) for part in ("train", "test"))
    pixels = COLOUR / 255
    assert train.mean == tuple(round(x, 4) for x in pixels.mean((0, 1, 2)).tolist())
    assert train.std == tuple(round(x, 4) for x in pixels.std((0, 1, 2)).tolist())
    assert test.spec == train.spec
    flat = archive(tmp_path / "flat", images=np.full_like(GREY, 51))
    assert read_folder(flat, "train", None).spec.std == (1.0,)
    assert read_folder(flat, "train", None).spec.mean == (0.2,)


def test_classes_are_those_of_both_parts_and_numbers_are_sorted_as_numbers(tmp_path):
    folders(tmp_path / "train", GREY[:8], LABELS[:8])
    folders(tmp_path / "test", GREY[8:], LABELS[8:] - 2, names=("ape",))
    train, test = (read_folder(tmp_path, part, None) for part in ("train", "test"))
    assert train.class_names == ("ape", "cat", "dog")
    assert (train.labels.unique().tolist(), test.labels.unique().tolist()) == ([1, 2], [0])
    numbers = folders(tmp_path / "n", GREY, np.arange(12), names=list(map(str, range(12))))
    found = read_folder(numbers, "train", None)
    assert (found.class_names, found.classes) == ((), 12)
    assert found.labels.tolist() == [0, 1, 10, 11, *range(2, 10)]
    gaps = folders(tmp_path / "gaps", GREY[:3], [0, 1, 2], names=("2", "10", "1"))
    assert read_folder(gaps, "train", None).class_names == ("1", "2", "10")
    archive(tmp_path / "npz")
    archive(tmp_path / "npz", "test", GREY[:2], np.array([1, 4], np.uint8))
    assert read_folder(tmp_path / "npz", "train", None).classes == 5


def test_with_a_specification_labels_are_its_numbers_and_classes_may_be_missing(tmp_path):
    folders(tmp_path / "train", GREY[:2], [0, 0], names=("fox",))
    (tmp_path / "train" / "dog").mkdir()
    found = read_folder(tmp_path, "train", SPEC)
    assert found.labels.tolist() == [2, 2]
    assert found.spec == SPEC
    listed(tmp_path, "test", GREY[:2], [1, 0], names=("7", "0"))
    ten = Spec((1, 6, 5), 10, (0.5,), (0.5,))
    assert read_folder(tmp_path, "test", ten).labels.tolist() == [0, 7]
    archive(tmp_path / "a", labels=LABELS.astype(np.uint64))
    assert read_folder(tmp_path / "a", "train", SPEC).labels.tolist() == LABELS.tolist()
    archive(tmp_path / "b", images=GREY[:2], labels=np.array(["fox", "cat"]))
    assert read_folder(tmp_path / "b", "train", SPEC).labels.tolist() == [2, 0]


def test_a_part_that_is_not_there(tmp_path):
    assert read_folder(tmp_path, "train", None) is None
    folders(tmp_path / "test")
    assert read_folder(tmp_path, "train", SPEC) is None
    with pytest.raises(InputError, match="no training part, which defines the classes"):
        read_folder(tmp_path, "test", None)
    source = FolderData(dir=str(tmp_path))
    assert (source.has("train"), source.has("test")) == (False, True)
    with pytest.raises(InputError) as error:
        source.load("train")
    for word in (
        f"data.dir: '{tmp_path}' has no train part",
        "train.npz with images and labels",
        "train/<class>/ with image files",
        "train.csv with the columns file and label",
        "(or <class>/ alone)",
    ):
        assert word in str(error.value)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="has no train part"):
        source.load("train")


def test_more_than_one_form_of_a_part_is_refused(tmp_path):
    folders(tmp_path / "train")
    listed(tmp_path)
    message = r"holds the train part as train\.csv and as train/<class>/; remove all but one"
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path, "train", None)
    archive(tmp_path, "test")
    listed(tmp_path, "test")
    with pytest.raises(InputError, match=r"holds the test part as test\.npz and as test\.csv"):
        read_folder(tmp_path, "test", SPEC)
    archive(folders(tmp_path / "both"))
    with pytest.raises(InputError, match=r"as train\.npz and as <class>/; remove all but one"):
        FolderData(dir=str(tmp_path / "both")).load("train")


def deep():
    """A colour PNG of 16 bits, which Pillow cannot write, and narrows without a word."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + bytes(30)) * 6))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


def png(mode, kind="PNG"):
    file = io.BytesIO()
    Image.new(mode, (5, 6)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", png("P"), "mode P; L "),
        ("a.png", png("RGBA"), "mode RGBA; L "),
        ("a.png", png("LA"), "mode LA; L "),
        ("a.png", png("1"), "mode 1; L "),
        ("a.png", png("I;16"), "mode I;16 of 16 bits; L "),
        (
            "a.png",
            deep(),
            r"mode RGB of 16 bits; L \(grey, 1 channel\) and RGB \(3 channels\), of 8",
        ),
        ("a.jpg", png("CMYK", "JPEG"), "mode CMYK; L "),
        ("a.png", png("RGB"), r"an image of 3x6x5 \(channels x height x width\), and"),
        ("a.png", png("L")[:-30], "not a readable image: "),
        ("a.png", png("L")[:20], "not a readable image: "),
        ("a.jpg", png("L", "JPEG")[:-20], "not a readable image: "),
        ("a.bmp", png("L", "BMP")[:-9], "not a readable image: "),
        ("a.tif", png("L", "TIFF")[:-3], "not a readable image: "),
        ("a.png", b"", "not a readable image: "),
        ("a.txt", b"", r"not an image; the folder of a class may hold image files \(\.png, \.jpg"),
    ],
)
def test_an_image_that_is_not_as_it_should_be_is_named(tmp_path, name, content, message):
    folders(tmp_path / "train")
    (tmp_path / "train" / "dog" / name).write_bytes(content)
    for spec in (None, SPEC):
        with pytest.raises(InputError, match=f"train/dog/{name}: {message}"):
            read_folder(tmp_path, "train", spec)


def test_images_of_another_size_or_without_a_class_are_refused(tmp_path):
    folders(tmp_path / "train")
    folders(tmp_path / "test", GREY[:1, :4], [0])
    with pytest.raises(InputError, match=r"000\.png: .*1x4x5 .*, and the training part has 1x6x5"):
        read_folder(tmp_path, "test", None)
    with pytest.raises(InputError, match=r"000\.png: .*1x4x5 .*, and the federation has 1x6x5"):
        read_folder(tmp_path, "test", SPEC)
    with pytest.raises(InputError, match=r"000\.png: .*1x6x5 .*, and the federation has 3x6x5"):
        FolderData(dir=str(tmp_path), image_shape="3x6x5").load("train")
    (tmp_path / "train" / "loose.png").write_bytes(png("L"))
    with pytest.raises(InputError, match=r"loose\.png: an image outside the folders of classes"):
        read_folder(tmp_path, "train", None)
    with pytest.raises(InputError, match="holds images or a table, and the federation has text"):
        read_folder(tmp_path, "train", Spec((80,), 81, (), ()))
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="empty/train: there are no images"):
        read_folder(tmp_path / "empty", "train", SPEC)


def test_a_class_that_the_federation_does_not_have_is_named_with_the_nearest(tmp_path):
    likely = r"the federation has no class '{}'; did you mean 'cat'\? \(cat, dog, fox\)"
    folders(tmp_path / "train")
    (tmp_path / "train" / "cats").mkdir()
    with pytest.raises(InputError, match=f"train/cats: {likely.format('cats')}"):
        read_folder(tmp_path, "train", SPEC)
    listed(tmp_path, "test", names=("cat", "Cat", "dog"))
    with pytest.raises(InputError, match=rf"test\.csv line 6: {likely.format('Cat')}"):
        read_folder(tmp_path, "test", SPEC)
    archive(tmp_path / "a", labels=np.array(["cat", "dog", "kat"] * 4))
    with pytest.raises(InputError, match=rf"train\.npz: labels: {likely.format('kat')}"):
        read_folder(tmp_path / "a", "train", SPEC)
    with pytest.raises(
        InputError, match=r"train/cat: the federation has no class 'cat' \(0, 1, 2\)"
    ):
        FolderData(dir=str(tmp_path), labels="3").load("train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": GREY / 255},
            r"images must be uint8 .*\(N, C, H, W\), or .* of a table, not float64 \(12, 6, 5\)",
        ),
        ({"images": GREY[0]}, "rows of 5 features, and the federation has images of 1x6x5"),
        ({"images": GREY[:0], "labels": LABELS[:0]}, "there are no examples"),
        ({"images": np.zeros((12, 6, 5, 2), np.uint8)}, "must have 1 or 3 channels"),
        ({"images": GREY[:, :5]}, "1x5x5 .*, and the federation has 1x6x5"),
        ({"images": COLOUR}, "3x6x5 .*, and the federation has 1x6x5"),
        ({"labels": LABELS + 0.5}, "labels must be whole numbers or strings"),
        ({"labels": LABELS > 1}, "labels must be whole numbers or strings"),
        ({"labels": np.stack([LABELS] * 2, 1)}, r"not int64 \(12, 2\)"),
        ({"labels": LABELS[:5]}, "12 examples and 5 labels"),
        ({"labels": LABELS - 1}, r"labels -1\.\.1, and the federation has 3 classes, 0\.\.2"),
        ({"labels": LABELS * 2}, r"labels 0\.\.4, and the federation has 3 classes, 0\.\.2"),
        ({"labels": np.array([{}] * 12)}, "not a readable .npz with labels"),
    ],
)
def test_an_archive_that_is_not_as_it_should_be_is_named(tmp_path, arrays, message):
    archive(tmp_path, **arrays)
    with pytest.raises(InputError, match=rf"train\.npz: .*{message}"):
        read_folder(tmp_path, "train", SPEC)


def test_an_archive_without_the_arrays_or_damaged_is_named(tmp_path):
    archive(tmp_path, keys=("pixels", "labels"))
    with pytest.raises(InputError, match=r"train\.npz: not a readable \.npz with images"):
        read_folder(tmp_path, "train", SPEC)
    (tmp_path / "train.npz").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(InputError, match=r"train\.npz: not a readable \.npz"):
        read_folder(tmp_path, "train", SPEC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,label\na.png,cat\n",
            "train.csv: rows of 1 features, and the fed",
        ),
        ("", "train.csv: its columns must be file and label, or .*, not none"),
        ("file,label\n", "train.csv: there are no images"),
        ("file,label\na.png\n", "train.csv line 2: must have a value for each of file, label"),
        ("file,label\na.png,cat\n,cat\n", "train.csv line 3: must have a value for each"),
        ("file,label\na.png,b.png,cat\n", "train.csv line 2: must have a value for each"),
        ("file,label\n../a.png,cat\n", r"line 2: file '\.\./a\.png' is not a path inside "),
        ("file,label\nb/../../a.png,cat\n", r"line 2: file 'b/\.\./\.\./a\.png' is not a path"),
        ("file,label\n/etc/passwd,cat\n", "line 2: file '/etc/passwd' is not a path inside "),
        ("file,label\nb.png,cat\n", "b.png: not a readable image: .*No such file"),
        ("file,label\na\0.png,cat\n", "null"),
        ("file,label\n.,cat\n", "not a readable image"),
        (b"file,label\n\xff.png,cat\n", "train.csv: not a readable CSV file in UTF-8"),
    ],
)
def test_a_list_that_is_not_as_it_should_be_is_named(tmp_path, text, message):
    (tmp_path / "in").mkdir()
    for place in (tmp_path, tmp_path / "in"):
        (place / "a.png").write_bytes(png("L"))
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "in" / "train.csv").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path / "in", "train", SPEC)


def test_one_class_is_too_few_to_learn_from(tmp_path):
    folders(tmp_path / "a", GREY, LABELS * 0)
    with pytest.raises(InputError, match="a: has one class, 'cat'; at least two"):
        read_folder(tmp_path / "a", "train", None)
    with pytest.raises(InputError, match="b: has one class, '0'; at least two"):
        read_folder(archive(tmp_path / "b", labels=LABELS * 0), "train", None)


def test_options_say_what_there_is_without_any_data(tmp_path):
    options = {"labels": "cat, dog,fox", "image_shape": "1x6x5"}
    assert FolderData(**options).spec() == Spec((1, 6, 5), 3, (0.5,), (0.5,), NAMES)
    assert FolderData(**options, mean="0.25", std="0.5").spec() == SPEC
    assert FolderData(labels="10", image_shape="3x2x2", mean="1 2 3").spec().mean == (1.0, 2.0, 3.0)
    assert FolderData(labels="cat dog fox", image_shape="1x6x5").spec().names == NAMES
    assert FolderData(labels="big cat,dog", image_shape="1x6x5").spec().names == ("big cat", "dog")
    assert not FolderData(**options).has("test")
    folders(tmp_path / "test")
    only = FolderData(**options, dir=str(tmp_path))
    assert only.load("test").labels.tolist() == LABELS.tolist()
    assert only.load("test").mean == (0.5,)


def test_options_and_training_part_complete_each_other(tmp_path):
    place = str(folders(tmp_path / "train").parent)
    other = FolderData(dir=place, labels="fox,dog,cat,ape", mean="0.5")
    assert other.spec().names == ("fox", "dog", "cat", "ape")
    assert (other.spec().mean, other.spec().shape) == ((0.5,), (1, 6, 5))
    assert other.spec().std == (round(float((GREY / 255).std()), 4),)
    assert other.load("train").labels.tolist() == (2 - LABELS).tolist()
    assert other.load("train") is other.load("train")
    some = FolderData(dir=place, max_examples=5)
    assert len(some.load("train")) == 5
    assert some.spec() == FolderData(dir=place).spec()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.labels and data.image_shape must be given: data.dir=None"),
        ({"image_shape": "1x6x5"}, "data.labels must be given: data.dir=None"),
        ({"labels": "3"}, "data.image_shape must be given: data.dir=None"),
        ({"labels": "1"}, "data.labels: '1' is not allowed: give two or more different names"),
        ({"labels": "cat,cat"}, "data.labels: 'cat,cat' is not allowed"),
        ({"labels": "cat,,dog"}, "data.labels: 'cat,,dog' is not allowed"),
        ({"labels": " "}, "data.labels: ' ' is not allowed"),
        (
            {"labels": "3", "image_shape": "1x6x5", "mean": "half"},
            "data.mean: 'half' is not allowed: give a n",
        ),
        (
            {"labels": "3", "image_shape": "3x6x5", "mean": "0.5"},
            r"data.mean: \(0.5,\) must be numbers, ",
        ),
        (
            {"labels": "3", "image_shape": "1x6x5", "std": "0"},
            r"data.std: \(0.0,\) must be above 0",
        ),
        ({"dir": "/nowhere"}, "data.dir: '/nowhere' is not a folder"),
    ],
)
def test_options_that_say_too_little_or_nonsense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FolderData(**options).spec()


def test_without_a_folder_there_is_nothing_to_load():
    with pytest.raises(
        InputError, match=r"data\.dir: must be given, the folder that holds the data"
    ):
        FolderData(labels="3", image_shape="1x6x5").load("train")
    with pytest.raises(InputError, match=r"data\.dir: must be given"):
        FolderData(labels="3", image_shape="1x6x5").load("test")


def test_options_are_checked_as_they_are_read():
    """A single number is one in YAML, and in Flower's run config."""
    tree = {"data": "folder", "data.labels": 10, "data.image_shape": "1x28x28", "data.mean": 0.5}
    assert read(None, tree).data.build().spec() == Spec((1, 28, 28), 10, (0.5,), (0.5,))
    with pytest.raises(
        InputError, match=r"data\.image_shape: '28x28' is not allowed: string should match"
    ):
        read(None, {"data": "folder", "data.image_shape": "28x28"})


def test_a_specification_travels_in_a_record_of_flowers():
    for spec in (
        SPEC,
        Spec((3, 8, 8), 100, (1 / 3, 0.1, 0.2), (0.3, 1e-9, 0.7)),
        Spec((80,), 81, (), ()),
    ):
        record = ConfigRecord(spec.to_config())
        assert Spec.from_config(config_record_from_proto(config_record_to_proto(record))) == spec
    assert SPEC.to_config() == {
        "data-shape": [1, 6, 5],
        "data-classes": 3,
        "data-mean": [0.25],
        "data-std": [0.5],
        "data-names": ["cat", "dog", "fox"],
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [6, 5]),
        ("shape", [0, 6, 5]),
        ("shape", 5),
        ("classes", 0),
        ("classes", "many"),
        ("mean", [0.1, 0.2]),
        ("mean", [float("nan")]),
        ("mean", ["a"]),
        ("std", [0.0]),
        ("std", []),
        ("names", ["cat", "dog"]),
        ("names", ["cat", "dog", "dog"]),
        ("names", [1, 2, 3]),
    ],
)
def test_a_specification_of_nonsense_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=f"^data-{key}: "):
        Spec.from_config(SPEC.to_config() | {f"data-{key}": value})
    without = {k: v for k, v in SPEC.to_config().items() if k != f"data-{key}"}
    if key != "names":
        with pytest.raises(ValueError, match=r"^data-"):
            Spec.from_config(without)


def test_a_federation_knows_its_network_without_examples_and_may_have_no_test_part(tmp_path):
    tree = {"data": "folder", "data.labels": "cat dog fox", "data.image_shape": "1x6x5"}
    assert Federation(read(None, tree)).network.layout.num_parameters > 0
    assert Federation(read(None, tree)).test is None
    archive(tmp_path)
    federation = Federation(read(None, {"data": "folder", "data.dir": str(tmp_path)}))
    assert federation.spec == federation.train.spec
    worker = adopt(read(None, tree).run_config(), federation.train.to_numpy())
    assert worker.spec == federation.spec
    assert Federation(read(None, {})).spec.shape == (1, 8, 8)
    assert len(Federation(read(None, {})).test) == 360


def test_a_run_on_ones_own_images_learns(run, tmp_path):
    labels = np.arange(120) % 3
    images = np.random.default_rng(0).integers(0, 120, (120, 6, 5), dtype=np.uint8)
    images[np.arange(120), labels] += 120
    folders(tmp_path / "own" / "train", images[:90], labels[:90])
    listed(tmp_path / "own", "test", images[90:], labels[90:])
    data = {"data__name": "folder", "data__dir": str(tmp_path / "own")}
    folder = run(**data, data__labels="cat,dog,fox", client__lr=0.5, rounds=6)
    assert pd.read_csv(folder / "metrics.csv")["test_accuracy"].iloc[-1] > 0.8
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["data"]["train_examples"], manifest["data"]["test_examples"]) == (90, 30)
    assert manifest["data"]["source"].startswith("own images, train part, from ")


def test_a_label_beyond_any_class_is_refused(tmp_path):
    archive(tmp_path, labels=np.array([0, 1, 50_000_000][: len(LABELS)] + [0] * (len(LABELS) - 3)))
    with pytest.raises(InputError, match="labels holds 50000000, and a label is at most 65535"):
        FolderData(str(tmp_path)).load("train")
    with pytest.raises(InputError, match=r"data.labels: '50000000' .* from 2 to 65536"):
        FolderData(labels="50000000", image_shape="1x2x2").spec()


def test_a_pipe_in_a_list_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("file,label\na.png,0\na.png,1\n")
    with pytest.raises(InputError, match=r"a.png: not a readable image: not a file"):
        FolderData(str(tmp_path)).load("train")
