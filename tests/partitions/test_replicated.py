import numpy as np

from partitions.replicated import Replicated


def test_everybody_owns_everything():
    parts = Replicated().split(np.zeros(5, np.int64), 3, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4]] * 3
