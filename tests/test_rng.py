import numpy as np
import pytest

from fedalign.rng import rng, rngs


def test_a_stream_is_its_words():
    assert rng(1, "mask", 3, "fc.weight").random() == rng(1, "mask", 3, "fc.weight").random()


def test_other_words_are_another_stream():
    draws = {
        rng(*words).random()
        for words in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, 1, "a")]
    }
    assert len(draws) == 6


def test_numbers_do_not_change_between_versions():
    """A mask must be the same on every machine: these are the numbers, for ever."""
    np.testing.assert_allclose(rng(0, "mask", 0, "fc.weight").random(2), GOLDEN, rtol=0, atol=0)


GOLDEN = [0.7409197617369297, 0.7098002607414654]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**70])
@pytest.mark.parametrize("stream", [(), ("batches",), ("batches", 3), ("a", 1, "b", 2, 5)])
@pytest.mark.parametrize("last", [[], [0], [5, 0, 2**32 - 1, 1, 5], [3, 2**40]])
def test_many_streams_are_those_one_by_one(seed, stream, last):
    together = rngs(seed, *stream, last=last)
    alone = [rng(seed, *stream, number) for number in last]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.bit_generator.state == theirs.bit_generator.state
        assert np.array_equal(ours.permutation(9), theirs.permutation(9))
