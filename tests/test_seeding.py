"""Global generators: seeded from named streams for a user's own code, and restored afterwards."""

import random
import threading

import numpy as np
import pytest
import torch

from fedalign.rng import rng
from fedalign.seeding import preserved, seeded, watched

SOURCES = {
    "PyTorch": lambda: torch.rand(1).item(),
    "NumPy": np.random.random,
    "Python": random.random,
}


def draw():
    return [float(source()) for source in SOURCES.values()]


def test_the_same_stream_gives_the_same_numbers_and_another_one_others():
    found = []
    for stream in (1, 1, 2):
        draw()  # whoever draws in between
        with seeded(0, "client", stream):
            found.append(draw())
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_numbers_are_those_that_runs_have_always_had():
    with seeded(7, "flower", 3):
        noise = np.random.normal()
    expected = np.random.RandomState(rng(7, "flower", 3).integers(1 << 32)).normal()
    assert noise == expected
    with seeded(7, "init"):
        weight = torch.rand(2)
    own = torch.Generator().manual_seed(int(rng(7, "init").integers(2**31)))
    assert torch.equal(weight, torch.rand(2, generator=own))


@pytest.mark.parametrize("fails", [False, True])
def test_generators_go_on_as_if_nothing_had_been_drawn(fails):
    with seeded(1, "outer"):
        expected = draw()
    with seeded(1, "outer"):
        try:
            with seeded(2, "inner"):
                draw()
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert draw() == expected


def states():
    numpys = np.random.get_state()
    return random.getstate(), numpys[1].tolist(), numpys[2:], torch.get_rng_state().tolist()


def test_a_long_body_is_preserved_once():
    before = states()
    with preserved():
        for stream in (1, 2):
            with seeded(0, "client", stream):
                first = draw()
                with seeded(0, "evaluation"):
                    draw()
                rest = draw()
            assert states() != before
            with seeded(0, "client", stream):
                assert draw() + draw() == first + rest
    assert states() == before


@pytest.mark.parametrize("name", SOURCES)
def test_who_draws_from_what_is_known(name):
    with watched(0, "x") as drawn:
        SOURCES[name]()
    with watched(0, "x") as nothing, seeded(0, "y"):
        draw()
    assert drawn.names == (name,)
    assert nothing.names == ()


def test_threads_take_turns():
    found = {}

    def work(number):
        for _ in range(50):
            with seeded(0, "thread", number):
                found.setdefault(number, set()).add(tuple(draw() + draw()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(numbers) for numbers in found.values()] == [1, 1, 1]
