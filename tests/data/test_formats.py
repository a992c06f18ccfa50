import gzip

import numpy as np
import pytest

from fedalign.data.formats import idx_bytes, read_arrays, read_idx
from fedalign.errors import InputError

# Two bytes of zero, type 8, two dimensions; 2 and 3; the six bytes.
IDX = bytes.fromhex("00000802 00000002 00000003 010203040506")


def test_idx_by_hand(tmp_path):
    (tmp_path / "plain").write_bytes(IDX)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(IDX))
    for name in ("plain", "packed.gz"):
        assert read_idx(tmp_path / name).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert idx_bytes(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)) == IDX


@pytest.mark.parametrize("content", [b"", b"\0\0", IDX[:-1], IDX + b"7", b"\0\0\x0d\1" + IDX[4:]])
def test_a_damaged_idx_file_is_named(tmp_path, content):
    for name, stored in (("bad", content), ("bad.gz", gzip.compress(content)), ("x.gz", content)):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(InputError, match=f"{name}: not a readable idx file"):
            read_idx(tmp_path / name)


def test_a_damaged_or_pickled_archive_is_named(tmp_path):
    np.savez(tmp_path / "lacking.npz", x=np.zeros(2))
    np.savez(tmp_path / "pickled.npz", y=np.array([{}], dtype=object))
    np.save(tmp_path / "single.npy", np.zeros(2))
    (tmp_path / "garbage.npz").write_bytes(b"PK\3\4 and then nothing")
    for file in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{file.name}: not a readable .npz with y"):
            read_arrays(file, ["y"])
