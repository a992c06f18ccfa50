"""The live table of a sweep: arms and seeds where they fit, else the runs that go on."""

import re
from io import StringIO

import pytest
from rich.console import Console

from fedalign.studies.live import Board

ARMS = ("fedavg", "fedpnu")


@pytest.fixture
def draw(tmp_path):
    """A function that returns the lines of the table in a terminal of this size."""
    folders = {(arm, seed): tmp_path / f"{arm}-{seed}" for arm in ARMS for seed in range(3)}
    names = {folder: f"{arm}, alpha 0.1, seed {seed}" for (arm, seed), folder in folders.items()}
    for of, row in ((("fedavg", 0), "10,0.91"), (("fedavg", 1), "7,0.813")):
        folders[of].mkdir()
        (folders[of] / "metrics.csv").write_text(f"round,test_accuracy\n{row}\n")

    def drawn(width, height=24):
        file = StringIO()
        console = Console(file=file, width=width, height=height, force_terminal=True)
        rounds, finished = dict.fromkeys(names, 10), {folders["fedavg", 0]}
        board = Board(names, rounds, finished, console)
        with board.shown():
            board.watch([folders["fedavg", 1]])
            board.end(folders["fedpnu", 2], "failed: no reason", failed=True)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
        assert "[2/6] fedpnu, alpha 0.1, seed 2: failed: no reason" in text
        lines = [line.split() for line in text.split("\n")]
        (foot,) = [line for line in lines if "runs," in line][-1:]
        assert foot[1:5] == ["2", "of", "6", "runs,"]
        return lines

    return drawn


def test_arms_and_seeds(draw):
    lines = draw(80)
    assert [line for line in lines if line[:2] == ["fedavg,", "alpha"]][-1] == (
        ["fedavg,", "alpha", "0.1", "0.9100", "7/10", "0.813", "-:--", "·"]
    )
    assert [line for line in lines if line[:1] == ["fedpnu,"]][-1][3:] == ["·", "·", "failed"]


def test_without_the_time_left_where_it_is_narrow(draw):
    assert ["fedavg,", "alpha", "0.1", "0.9100", "7/10", "0.813", "·"] in draw(68)


@pytest.mark.parametrize("size", [(62, 24), (80, 7)])
def test_runs_that_go_on_where_it_is_small(draw, size):
    assert ["7/10", "0.8130", "-:--"] in [line[-3:] for line in draw(*size)]
