import gzip
import io
import tracemalloc
import zipfile

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


def _zipped(path, compressed=True, **members):
    """Write an archive with these bytes under these names."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _npy(array, claimed=None):
    """The bytes of a NumPy file, whose header may claim another shape."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header | ({"shape": claimed} if claimed else {}))
    return file.getvalue() + array.tobytes()


LIES = {
    "no array": (b"hello", "magic string"),
    "empty": (b"", "magic string"),
    "more than it holds": (_npy(np.zeros(3, np.uint8), (1 << 40,)), "is not the 1099511627776 by"),
    "less than it holds": (_npy(np.zeros(3, np.uint8), (2,)), "is not the 2 bytes of uint8"),
    "negative": (_npy(np.zeros(3, np.uint8), (-3,)), "images"),
    "objects": (_npy(np.zeros(1)).replace(b"'<f8'", b"'|O' "), "is not the 8 bytes of object"),
    "bomb": (_npy(np.zeros(80 << 20, np.uint8)), "it unpacks to more than 64 MiB, 100 times its"),
}


@pytest.mark.parametrize("kind", LIES)
def test_an_archive_that_lies_is_refused(kind, tmp_path):
    content, said = LIES[kind]
    path = _zipped(tmp_path / "train.npz", images=content, labels=_npy(np.arange(3)))
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"train.npz: not a readable .npz with images: .*{said}"):
        read_arrays(path, ["images"])
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["labels", "y"])
def test_an_array_of_numpys_is_no_archive(name, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"a.npz: not a readable .npz"):
        read_arrays(tmp_path / "a.npz", [name])


def test_a_gzip_file_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), 1))
    with pytest.raises(InputError, match=r"a.gz: not a readable idx .*more than 64 MiB, 100 times"):
        read_idx(path)
