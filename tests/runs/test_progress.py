import io
import os
import re
import signal
import sys
import threading

import pytest
from rich.console import Console

from fedalign.runs.interrupts import NOTICE, Interrupts
from fedalign.runs.progress import Progress
from fedalign.server.round import Round, Sampled

CLIENTS = {client: Sampled(9, 0.5, "used") for client in range(4)}
PERSONAL = {"client_accuracy_mean": 0.5, "client_tuned_accuracy_mean": 0.75}


def outcome(number, **more):
    metrics = {"train_loss": 2.0 / number, "test_accuracy": 0.25 * number, "seconds": 1.0}
    metrics |= {"clients": 4, "dropped": 1} | more
    return Round(number, None, None, {}, metrics, CLIENTS)


def shown(console, rounds=3, **more):
    with Progress("fedpfn on digits", rounds, console, **more) as progress:
        for number in range(1, rounds + 1):
            progress.on_round(outcome(number, **PERSONAL))


def screen(**settings):
    """A terminal of 80 columns, and what was last drawn there, without and with its colours."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={}, **settings)

    def last(colours=False):
        drawn = console.file.getvalue().rpartition("fedpfn on digits")[2]
        return drawn if colours else re.sub(r"\x1b\[[\d;?]*\w", "", drawn)

    return console, last


@pytest.mark.parametrize("measured", [(), PERSONAL])
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_of_80_columns_gets_a_table_and_a_bar(measured, no_color):
    console, last = screen(no_color=no_color)
    shown(console, measured=measured)
    for told in ("0.7500", "0.6667", "3/4", "3/3 rounds", "barrier", "clients", "seconds"):
        assert told in last()
    assert "…" not in last()
    assert not measured or {"own", "tuned", "0.5000"} <= set(last().split())
    assert ("\x1b[32m" in last(colours=True)) != no_color


def test_only_the_latest_rounds_stay():
    console, last = screen()
    shown(console, rounds=40)
    assert "40/40" in last()
    assert len(last().splitlines()) < 20


def test_how_long_the_rest_takes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Progress("fedpfn on digits", 10, Console(file=io.StringIO()), done=4) as progress:
        assert progress.seconds_left() is None
        for number in (5, 6):
            now[0] += 60
            progress.on_round(outcome(number))
        now[0] += 5
        assert progress.seconds_left() == 4 * 60 - 5


def test_a_pipe_gets_a_line_a_round_as_it_happens(capsys):
    shown(Console(file=io.StringIO()))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fedpfn on digits"
    headings = "round train loss test loss accuracy barrier clients seconds left"
    assert lines[1].split() == headings.split()
    assert lines[-1].split() == ["3", "0.6667", "-", "0.7500", "-", "3/4", "1.00", "0:00:00"]


def test_what_clients_measure_is_shown_where_they_do(capsys):
    shown(Console(file=io.StringIO()), measured=PERSONAL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-4:] == ["own", "data", "tuned", "left"]
    assert lines[-1].split()[-3:] == ["0.5000", "0.7500", "0:00:00"]
    assert max(map(len, lines)) <= 80


@pytest.fixture
def listening():
    """As in a shell: what is started in the background may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_the_first_ctrl_c_waits_for_the_round_and_the_second_does_not():
    told = []
    with Interrupts(told.append) as interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert told == [NOTICE]
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("listening")
def test_ctrl_c_is_as_usual_where_nothing_is_kept_and_elsewhere_than_in_the_main_thread():
    with Interrupts(print, wanted=False), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    made = []
    thread = threading.Thread(target=lambda: made.append(Interrupts(print)))
    thread.start()
    thread.join()
    with made[0], pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_notice_is_in_the_display():
    console, last = screen()
    with Progress("fedpfn on digits", 3, console) as progress:
        progress.on_round(outcome(1))
        progress.tell(NOTICE)
    assert last().rstrip().endswith(NOTICE)


def test_the_notice_is_a_line_elsewhere(capfd, monkeypatch):
    progress = Progress("fedpfn on digits", 3, Console(file=io.StringIO()))
    progress.tell(NOTICE)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    progress.tell(NOTICE)
    assert sys.stderr.getvalue() == capfd.readouterr().err == f"{NOTICE}\n"
