import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fedalign.data.cifar import _HUNDRED, CIFAR10, CIFAR100
from fedalign.errors import InputError

# Channel by channel, as the official rows of 3,072 bytes are.
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


def write_pickle(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


def write_batches(monkeypatch, loader, folder, train, labels):
    """Write each batch of one image in the official format, and make its MD5 the official one."""
    names = [*train, "test" if loader is datasets.CIFAR100 else "test_batch"]
    entries = [
        write_pickle(folder / name, {"data": PIXELS[i : i + 1].reshape(1, 3072), labels: [i]})
        for i, name in enumerate(names)
    ]
    meta = loader.meta["filename"], loader.meta["key"]
    _, md5 = write_pickle(folder / meta[0], {meta[1]: ["a name"]})
    monkeypatch.setattr(loader, "train_list", entries[:-1])
    monkeypatch.setattr(loader, "test_list", entries[-1:])
    monkeypatch.setitem(loader.meta, "md5", md5)


def test_the_official_batches_of_cifar10(tmp_path, monkeypatch):
    names = [f"data_batch_{number}" for number in range(1, 6)]
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(monkeypatch, datasets.CIFAR10, folder, names, "labels")
    train, test = (CIFAR10(dir=str(tmp_path)).load(part) for part in ("train", "test"))
    assert torch.equal(train.images, torch.from_numpy(PIXELS[:5]))
    assert torch.equal(test.images, torch.from_numpy(PIXELS[5:]))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3, 4], [5])
    assert "official files with verified MD5" in train.source
    assert hashlib.sha256(PIXELS[5:].tobytes()).hexdigest() in test.source


def test_the_official_batches_of_cifar100_with_fine_labels(tmp_path, monkeypatch):
    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.parent.mkdir()
    write_batches(monkeypatch, datasets.CIFAR100, folder, ["train"], "fine_labels")
    monkeypatch.setenv("FEDALIGN_DATA", str(tmp_path))
    test = CIFAR100(download=False).load("test")
    assert torch.equal(test.images, torch.from_numpy(PIXELS[1:2]))
    assert test.labels.tolist() == [1]
    assert test.classes == 100
    assert test.groups.tolist() == [1]  # aquarium fish are fish


def test_the_superclasses_of_cifar100_have_five_classes_each():
    groups = np.array(_HUNDRED.superclasses.split(), np.int64)
    assert np.bincount(groups).tolist() == [5] * 20
    # In the official order: aquatic mammals, fish, ..., people, ..., vehicles 2.
    assert np.flatnonzero(groups == 0).tolist() == [4, 30, 55, 72, 95]  # beaver ... whale
    assert np.flatnonzero(groups == 14).tolist() == [2, 11, 35, 46, 98]  # baby, boy ... woman


def test_batches_that_are_not_the_official_ones_are_never_opened(tmp_path):
    write_pickle(tmp_path / "cifar-10-batches-py" / "data_batch_1", {})
    with pytest.raises(InputError, match="cifar-10-batches-py: damaged, or not the official files"):
        CIFAR10(dir=str(tmp_path)).load("train")


def test_a_numpy_archive_with_channels_last_and_labels_in_a_column(tmp_path):
    last = PIXELS.transpose(0, 2, 3, 1)
    labels = np.arange(6)[:, None]
    np.savez(
        tmp_path / "cifar10.npz",
        x_train=last,
        y_train=labels,
        x_test=last[:2],
        y_test=labels[:2],
    )
    source = CIFAR10(dir=str(tmp_path), max_examples=5)
    assert len(source.load("train")) == 5
    test = source.load("test")
    assert torch.equal(test.images, torch.from_numpy(PIXELS[:2]))
    assert test.labels.tolist() == [0, 1]


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=75)
    return np.frombuffer(file.getvalue(), np.uint8)


def test_the_jpeg_archive_says_so(tmp_path):
    # Flat colours survive JPEG, so images can be identified by their brightness.
    files = [jpeg(np.full((32, 32, 3), 40 * i, np.uint8)) for i in range(6)]
    np.savez(
        tmp_path / "cifar10_jpeg75.npz",
        jpeg=np.concatenate(files),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.arange(6, dtype=np.uint8),
        train=np.array([True, False, True, True, False, True]),
        classes=np.array(["airplane"]),
    )
    train, test = (CIFAR10(dir=str(tmp_path)).load(part) for part in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2, 3, 5], [1, 4])
    assert test.images.shape == (2, 3, 32, 32)
    assert (test.images[1].int() - 160).abs().max() <= 2
    assert "CIFAR-10, JPEG quality 75, test part" in test.source


def test_nothing_found_names_the_wanted_files():
    with pytest.raises(InputError, match=r"cifar-100-python or cifar100\.npz") as error:
        CIFAR100(download=False).load("train")
    assert "apt-get" not in str(error.value)
