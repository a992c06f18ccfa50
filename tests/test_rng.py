import numpy as np

from fedalign.rng import rng


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
