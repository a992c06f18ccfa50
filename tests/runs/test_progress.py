import io

from rich.console import Console

from fedalign.runs.progress import Progress
from fedalign.server.round import Round


def shown(console, rounds=3, **more):
    with Progress("fedpfn on digits", rounds, console, **more) as progress:
        for number in range(1, rounds + 1):
            metrics = {"train_loss": 2.0 / number, "test_accuracy": 0.25 * number, "seconds": 1.0}
            progress.on_round(Round(number, None, None, {}, metrics))


def test_a_terminal_gets_a_table_and_a_bar():
    screen = io.StringIO()
    shown(Console(file=screen, force_terminal=True, width=100))
    last = screen.getvalue().rpartition("fedpfn on digits")[2]
    for told in ("0.7500", "0.6667", "3/3", "barrier"):
        assert told in last


def test_only_the_latest_rounds_stay():
    screen = io.StringIO()
    shown(Console(file=screen, force_terminal=True, width=100), rounds=40)
    last = screen.getvalue().rpartition("fedpfn on digits")[2]
    assert "40/40" in last
    assert len(last.splitlines()) < 20


def test_a_pipe_gets_a_line_a_round_as_it_happens(capsys):
    shown(Console(file=io.StringIO()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fedpfn on digits"
    assert lines[1].split() == [
        "round",
        "train",
        "loss",
        "test",
        "loss",
        "accuracy",
        "barrier",
        "seconds",
    ]
    assert lines[-1].split() == ["3", "0.6667", "-", "0.7500", "-", "1.00"]


def test_what_clients_measure_is_shown_where_they_do(capsys):
    shown(Console(file=io.StringIO()), measured=["client_accuracy_mean"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-2:] == ["own", "data"]
    assert lines[-1].split()[-1] == "-"  # not in this round
