import numpy as np
import pytest
from my_partitioner import ByParity

from fedalign.testing import check_partitioner


@pytest.mark.parametrize("mixed", [0.0, 0.3, 1.0])
def test_it_is_a_partitioner(mixed):
    check_partitioner(ByParity(mixed=mixed))


def test_clients_see_classes_of_one_parity():
    labels = np.arange(1000) % 10
    shares = ByParity().split(labels, 4, np.random.default_rng(0))
    for client, share in enumerate(shares):
        assert set(labels[share] % 2) == {client % 2}
