import json

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.testing import check_partitioner
from partitions.indices import FixedIndices


def test_a_file_of_indices(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"0": [4, 0], "1": [1, 3, 2]}))
    partitioner = FixedIndices(file=str(file))
    check_partitioner(partitioner, labels=np.zeros(5, np.int64), num_clients=2)
    assert [s.tolist() for s in partitioner.split(np.zeros(5), 2, None)] == [[0, 4], [1, 2, 3]]
    archive = tmp_path / "mine.npz"
    np.savez(archive, **{str(k): np.array([11 - k]) for k in range(12)})
    shares = FixedIndices(file=str(archive)).split(np.zeros(12), 12, None)
    assert [share.tolist() for share in shares] == [[11 - k] for k in range(12)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([[0, 1], [2, 3, 9]], {}, r"index 9 is outside 0\.\.4"),
        ([[0, 1], [2, 3, -1]], {}, r"index -1 is outside 0\.\.4"),
        ([[0, 1], [1, 2, 3, 4]], {}, "index 1 belongs to 2 clients.*partition.overlap=true"),
        ([[0, 1], [2, 4]], {}, "1 of 5 examples, such as 3, have no owner.*partial=true"),
        ([[0, 1, 2, 3, 4]], {}, "has 1 clients, not num_clients=2"),
        ([[0, 1, 1], [2, 3, 4]], {"overlap": True}, "client 0 has an index twice"),
        ([[0, 1, 2, 3, 4], []], {}, "client 1 needs a flat, non-empty list of whole numbers"),
        ([[0, 1, 2], ["a"]], {}, "client 1 needs a flat, non-empty list"),
        ({"0": [0, 1], "2": [2, 3, 4]}, {}, "needs lists of indices by client 0, 1.*'1'"),
        (7, {}, "needs lists of indices by client 0"),
    ],
)
def test_a_file_that_is_no_partition_is_refused(tmp_path, content, options, message):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"mine.json: .*{message}"):
        FixedIndices(file=str(file), **options).split(np.zeros(5), 2, None)


def test_a_file_may_overlap_and_leave_out_if_it_says_so(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text("[[0, 1], [1]]")
    partitioner = FixedIndices(file=str(file), overlap=True, partial=True)
    labels = np.zeros(3, np.int64)
    check_partitioner(partitioner, labels=labels, num_clients=2, overlap=True, partial=True)


@pytest.mark.parametrize("content", ["", "[[0, 1", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=r"mine\.json: (needs lists|No such file)"):
        FixedIndices(file=str(file)).split(np.zeros(5), 2, None)
    with pytest.raises(InputError, match=r"partition\.file: must be given"):
        FixedIndices().split(np.zeros(5), 2, None)
