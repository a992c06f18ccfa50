import gzip
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from fedalign.data import idx, places
from fedalign.data.formats import idx_bytes, idx_md5
from fedalign.data.idx import MNIST, FashionMNIST
from fedalign.errors import InputError

DEBIAN = Path("/usr/share/datasets")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def write_idx(folder, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 4), ("t10k", 2)):
        for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
            raw, name = idx_bytes(array[:count]), f"{prefix}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)
    return folder


def check(dataset, count):
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES[:count, None]))
    assert dataset.labels.tolist() == LABELS[:count].tolist()
    assert dataset.labels.dtype == torch.int64


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inside", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_idx_files_in_every_layout(tmp_path, packed, inside):
    write_idx(tmp_path / inside, packed)
    source = FashionMNIST(dir=str(tmp_path))
    check(source.load("train"), 4)
    check(source.load("test"), 2)


def test_a_numpy_archive(tmp_path):
    np.savez(
        tmp_path / "mnist.npz",
        x_train=IMAGES,
        y_train=LABELS,
        x_test=IMAGES[:2],
        y_test=LABELS[:2],
    )
    check(MNIST(dir=str(tmp_path)).load("train"), 6)
    check(MNIST(dir=str(tmp_path)).load("test"), 2)


def test_max_examples_limits_the_training_part_only(tmp_path):
    source = MNIST(dir=str(write_idx(tmp_path)), max_examples=1)
    assert (len(source.load("train")), len(source.load("test"))) == (1, 2)


def test_the_source_names_part_place_and_digests(tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist")
    monkeypatch.setenv("FEDALIGN_DATA", str(tmp_path))
    source = MNIST().load("test").source
    assert source.startswith("MNIST, test part, from ")
    assert f"{tmp_path}/mnist/t10k-images-idx3-ubyte.gz (FEDALIGN_DATA)" in source
    assert "unpacked MD5 unlike the official files'" in source
    assert idx_md5(IMAGES[:2]) in source


def test_dir_comes_before_environment_before_debian_before_cache(tmp_path, monkeypatch):
    write_idx(tmp_path / "home/.cache/fedalign/FashionMNIST/raw", packed=False)
    assert "(torchvision download)" in FashionMNIST().load("test").source
    write_idx(tmp_path / "debian/fashion-mnist")
    assert "(Debian package dataset-fashion-mnist)" in FashionMNIST().load("test").source
    monkeypatch.setenv("FEDALIGN_DATA", str(write_idx(tmp_path / "environment")))
    assert "(FEDALIGN_DATA)" in FashionMNIST().load("test").source
    folder = write_idx(tmp_path / "given")
    assert "(data.dir)" in FashionMNIST(dir=str(folder)).load("test").source


def test_an_empty_dir_is_an_error_although_another_place_has_the_data(tmp_path):
    write_idx(tmp_path / "debian/fashion-mnist")
    with pytest.raises(InputError) as error:
        FashionMNIST(dir=str(tmp_path / "empty")).load("train")
    for word in ("data.dir", f"{tmp_path}/empty", "train-images-idx3-ubyte", "fashion-mnist.npz"):
        assert word in str(error.value)


def test_without_download_the_error_lists_places_and_cures(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDALIGN_DATA", str(tmp_path / "nothing"))
    with pytest.raises(InputError) as error:
        FashionMNIST(download=False).load("train")
    for word in (
        "downloading is off",
        f"{tmp_path}/nothing (FEDALIGN_DATA)",
        f"{tmp_path}/debian/fashion-mnist",
        f"{tmp_path}/home/.cache/fedalign",
        "apt-get install dataset-fashion-mnist",
        "data.dir",
        "data.download: true",
    ):
        assert word in str(error.value)


def test_a_failed_download_is_one_error_without_another_packages_cure(monkeypatch):
    def offline(_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", offline)
    with pytest.raises(InputError, match=r"the download failed \(.*no network") as error:
        MNIST().load("train")
    assert "apt-get" not in str(error.value)


def test_a_download_is_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(
        datasets.MNIST, "download", lambda self: write_idx(Path(self.raw_folder), packed=False)
    )
    check(MNIST().load("train"), 4)
    assert (tmp_path / "home/.cache/fedalign/MNIST/raw/train-images-idx3-ubyte").exists()


def test_the_other_data_set_under_the_same_file_names_is_noticed(tmp_path, monkeypatch):
    digests = {"test": (idx_md5(IMAGES[:2]), idx_md5(LABELS[:2]))}
    monkeypatch.setitem(idx._FASHION.md5, "test", digests["test"])
    write_idx(tmp_path)
    assert "unpacked MD5 verified" in FashionMNIST(dir=str(tmp_path)).load("test").source
    with pytest.raises(InputError, match="holds Fashion-MNIST, not MNIST"):
        MNIST(dir=str(tmp_path)).load("test")


@pytest.mark.skipif(not (DEBIAN / "fashion-mnist").exists(), reason="dataset-fashion-mnist missing")
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.setattr(places, "DEBIAN", DEBIAN)
    train, test = (FashionMNIST(download=False).load(part) for part in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels.bincount().tolist() == [6_000] * 10
    assert test.labels.bincount().tolist() == [1_000] * 10
    assert "unpacked MD5 verified" in train.source
    assert "unpacked MD5 verified" in test.source
    pixels = train.images.float() / 255
    assert train.mean == (pytest.approx(pixels.mean().item(), abs=1e-4),)
    assert train.std == (pytest.approx(pixels.std().item(), abs=1e-4),)
