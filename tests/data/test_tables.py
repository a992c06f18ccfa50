"""Users' own tables, as archives and CSV files; from a file to a trained model."""

import numpy as np
import pandas as pd
import pytest
import torch

from fedalign.data.folder import FolderData, read_folder
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.network.inputs import Inputs
from fedalign.settings.config import read

STREAM = np.random.default_rng(0)
LABELS = np.arange(60) % 3
SCALES = np.array([1, 1e4, 1e-3, 1])
ROWS = (STREAM.normal(size=(3, 4))[LABELS] * 3 + STREAM.normal(size=(60, 4))) * SCALES
ROWS[:, 3] = 7  # says nothing
NAMES = ("low", "middle", "high")


def csv_file(place, part, rows=ROWS, labels=LABELS, order=(0, 1, 2, 3)):
    names = [f"x{i}" for i in order]
    lines = [",".join([*names, "label"])]
    for row, label in zip(rows, labels, strict=True):
        lines.append(",".join([*(repr(float(row[i])) for i in order), NAMES[label]]))
    (place / f"{part}.csv").write_text("\n".join(lines) + "\n", "utf-8-sig")


@pytest.fixture
def folder(tmp_path):
    csv_file(tmp_path, "train")
    csv_file(tmp_path, "test", ROWS[:9], LABELS[:9], order=(2, 0, 3, 1))
    return tmp_path


def test_an_archive_and_a_csv_file_hold_the_same_rows(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("archive")
    np.savez(other / "train.npz", x=ROWS, y=np.array(NAMES)[LABELS])
    one, two = (read_folder(place, "train", None) for place in (folder, other))
    assert one.images.dtype == torch.float32
    assert torch.equal(one.images, torch.from_numpy(ROWS.astype(np.float32)))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)
    assert one.class_names == two.class_names == ("high", "low", "middle")
    assert [NAMES.index(one.class_names[label]) for label in one.labels] == LABELS.tolist()
    assert one.spec == two.spec
    assert one.source.startswith("own table, train part, from ")


def test_each_feature_is_normalised_by_itself(folder):
    train = FolderData(dir=str(folder)).load("train")
    assert train.mean == pytest.approx(ROWS.mean(0), rel=1e-5)
    assert train.std[:3] == pytest.approx(ROWS.std(0)[:3], rel=1e-5)
    assert train.std[3] == 1
    seen = Inputs(train, torch.device("cpu"))(train.images)
    std, mean = torch.std_mean(seen, 0, correction=0)
    assert mean.abs().max() < 1e-4
    assert std[:3] == pytest.approx(1, abs=1e-4)
    assert train.images[0, 1] == np.float32(ROWS[0, 1])  # what is stored has not changed


def test_a_test_part_has_the_columns_of_the_training_part_in_its_order(folder):
    test = FolderData(dir=str(folder)).load("test")
    assert torch.equal(test.images, torch.from_numpy(ROWS[:9].astype(np.float32)))
    csv_file(folder, "test", np.zeros((1, 5)), LABELS[:1], order=(0, 1, 2, 4))
    with pytest.raises(InputError, match=r"test.csv: its columns must be those of .*train.csv"):
        FolderData(dir=str(folder)).load("test")


def test_a_model_learns_from_it_and_its_neurons_are_matched(folder, run):
    told = run(
        data="folder", data__dir=str(folder), num_clients=3, partition="iid", rounds=3,
        client__epochs=3, client__batch_size=4, simulation__backend="inline",
        evaluation__match="weights", evaluation__client_fraction=1.0,
    )  # fmt: skip
    assert pd.read_csv(told / "metrics.csv")["test_accuracy"].iloc[-1] > 0.8
    paths = set(pd.read_csv(told / "barriers.csv")["path"])
    assert any(path.startswith("matched:") for path in paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,a\nx,1\ny,two\n", r"train.csv line 3: a is 'two', not a finite number"),
        ("label,a\nx,1\ny,\n", "train.csv line 3: a is nothing, not a finite number"),
        ("label,a\nx,1\ny,inf\n", "train.csv line 3: a is 'inf', not a finite number"),
        ("label,a\nx,1\ny,1e300\n", r"train.csv line 3: a is '1e300', not a finite number"),
        ("label,a\nx,1\n,2\n", "train.csv line 3: must have a label"),
        ("label,a\nx,1\nx,2\n", "has one class, 'x'; at least two are needed"),
        ("label,a\n", "train.csv: there are no examples"),
        ("label\nx\n", "columns must be file and label, or label and one for each feature"),
        ("target,a\nx,1\n", "columns must be file and label, or label and one for each feature"),
        ("label,a,a\nx,1,2\n", "its columns must be those of .*, each once"),
        ("label,a\nx,1,2,3\ny,1\n", "train.csv line 2: must have a value for each of label, a"),
    ],
)
def test_a_csv_file_that_is_no_table_is_refused(tmp_path, content, message):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path, "train", None)


def test_an_archive_that_is_no_table_is_refused(tmp_path):
    rows = ROWS.copy()
    rows[7, 2] = np.nan
    for wrong, message in [
        (rows, r"feature 2 of row 7 is nan, not a finite number of 32 bits"),
        (
            ROWS.astype(complex),
            r"must be uint8 .*, or the numbers \(N, F\) of a table, not complex",
        ),
        (ROWS[:5], "5 examples and 60 labels"),
    ]:
        np.savez(tmp_path / "train.npz", images=wrong, labels=LABELS)
        with pytest.raises(InputError, match=message):
            read_folder(tmp_path, "train", None)


def test_other_features_or_another_kind_of_model_are_refused(folder):
    settings = {"data": "folder", "data.dir": str(folder), "num_clients": 3}
    for more, message in [
        ({"data.image_shape": "5"}, "rows of 4 features, and the federation has 5"),
        ({"data.image_shape": "1x2x2"}, "rows of 4 features, and the federation has images of 1x2"),
        ({"model": "cnn"}, r"'cnn' takes images, and an example of this data has the shape \(4,\)"),
        ({"model": "char-lstm"}, "model: 'char-lstm' on rows of 4 features, which 'mlp' takes: "),
    ]:
        with pytest.raises(InputError, match=message):
            Federation(read(None, settings | more)).network  # noqa: B018


def test_nodes_may_have_no_table_at_all():
    spec = FolderData(labels="3", image_shape="13").spec()
    assert (spec.shape, spec.classes, spec.is_table) == ((13,), 3, True)
    assert (spec.mean, spec.std) == ((0.0,) * 13, (1.0,) * 13)
