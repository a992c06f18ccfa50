import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import InputError
from fedalign.report import style
from fedalign.report.drawing import KINDS, draw

ACCURACIES = {"fedavg": [(0.2, 0.4), (0.4, 0.8)], "fedpfn": [(0.5, 0.7), (0.5, 0.9)]}


@pytest.fixture
def runs(made):
    """Two arms of two seeds and two rounds, with lines, planes and clients."""
    found = []
    for name, seeds in ACCURACIES.items():
        for seed, accuracies in enumerate(seeds):
            columns = {"test_accuracy": accuracies, "client_accuracy_barrier": [0.1, 0.2]}
            columns |= {"seconds": [1, 1], "bytes_down": [1e6, 2e6], "bytes_up": [1e6, 0]}
            points = [
                (r, path, a, 1.0, value + seed / 10)
                for r, value in enumerate(accuracies, 1)
                for path in ("clients:0-1", "clients:1-2", "global")
                for a in (0, 0.5, 1)
            ]
            own = {"strategy": {"name": name}, "partition": {"name": "iid"}}
            run = made(f"{name}-{seed}", columns, landscape=points, seed=seed, **own)
            clients = [(r, k, 10, 1.0, 0.1 * k * r, "", "") for r in (1, 2) for k in range(3)]
            head = ["round", "partition", "examples", "loss", "accuracy"]
            clients_csv = pd.DataFrame(clients, columns=[*head, "tuned_loss", "tuned_accuracy"])
            clients_csv.to_csv(run.path / "clients.csv", index=False)
            plane = [(2, "plane:0-1", c, x, y, 1.0, 0.5) for c, x, y in CORNERS]
            head = ["round", "plane", "corner", "x", "y", "loss", "accuracy"]
            pd.DataFrame(plane, columns=head).to_csv(run.path / "planes.csv", index=False)
            found.append(run)
    return found


CORNERS = [("0", 0, 0), ("1", 1, 0), ("before", 0.5, 1)]
CORNERS += [("", x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)]


def test_curves_are_means_with_a_band_of_one_deviation(runs):
    figure, found = draw("curves", runs)
    (ax,) = figure.axes
    assert [list(line.get_ydata()) for line in ax.lines] == pytest.approx(
        [pytest.approx([0.3, 0.6]), pytest.approx([0.5, 0.8])]
    )
    low = ax.collections[0].get_datalim(ax.transData).y0
    assert low == pytest.approx(0.3 - 0.1414, abs=1e-4)  # of 0.2 and 0.4
    assert [arm.label for arm in found.arms] == ["fedavg", "fedpfn"]
    assert ax.lines[0].get_color() == style.BLACK
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2


def test_bytes_are_summed_over_rounds(runs):
    (ax,) = draw("bytes", runs)[0].axes
    assert list(ax.lines[0].get_xdata()) == [2, 4]  # MB, down and up


def test_each_baseline_has_a_panel_and_an_arm_one_look(made):
    runs = [
        made(f"{name}{a}", {"test_accuracy": [a]}, strategy={"name": name}, partition={"alpha": a})
        for name in ("fedavg", "fedpfn")
        for a in (0.1, 0.9)
    ]
    first, second = draw("curves", runs)[0].axes
    assert (first.get_title(), second.get_title()) == ("alpha 0.1", "alpha 0.9")
    assert [line.get_color() for line in first.lines] == [line.get_color() for line in second.lines]
    assert [line.get_ydata()[0] for line in second.lines] == [0.9, 0.9]


def test_lines_are_means_over_pairs_and_seeds_by_round(runs):
    fedavg, fedpfn = draw("lines", runs)[0].axes[:2]
    cells = [np.asarray(ax.collections[0].get_array()) for ax in (fedavg, fedpfn)]
    assert cells[0] == pytest.approx(np.repeat([[0.35], [0.65]], 3, 1))
    assert cells[1] == pytest.approx(np.repeat([[0.55], [0.85]], 3, 1))


def test_clients_are_those_of_the_last_round_of_all_seeds(runs):
    (ax,) = draw("clients", runs)[0].axes
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert [sorted(line.get_xdata()) for line in points] == pytest.approx(
        [pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])] * 2
    )


def test_a_difference_is_drawn_with_its_interval(runs):
    (ax,) = draw("differences", runs, at="final")[0].axes
    interval, mean = ax.lines[-2:]  # 0.3, 0.1: mean 0.2, deviation 0.1414; 12.706 * 0.1
    assert list(interval.get_xdata()) == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706], abs=1e-4)
    assert (list(mean.get_xdata()), mean.get_markerfacecolor()) == ([pytest.approx(0.2)], "white")


def test_planes_are_those_of_the_first_seed(runs):
    titles = [ax.get_title() for ax in draw("planes", runs)[0].axes[:2]]
    assert titles == ["fedavg, seed 0: plane:0-1", "fedpfn, seed 0: plane:0-1"]


def test_a_partition_is_that_of_one_run(runs):
    with pytest.raises(InputError, match="these runs have 2 different ones; give one run"):
        draw("partition", runs)


def test_every_kind_is_explained_and_others_are_refused(runs):
    text = CliRunner().invoke(app, ["figure", "--help"]).output
    assert all(f"{kind}:" in text or f"{kind}," in text for kind in KINDS)
    with pytest.raises(InputError, match="'curve' is not a figure; did you mean 'curves'"):
        draw("curve", runs)


@pytest.mark.parametrize("kind", ["lines", "planes", "clients"])
def test_what_was_not_measured_is_told(made, kind):
    run = made("a", {"test_accuracy": [0.5], "seconds": [1]})
    with pytest.raises(InputError, match=r"has no planes.csv|no run has (measured|clients.csv)"):
        draw(kind, [run])


def test_a_figure_is_a_column_wide_and_its_fonts_are_embedded(runs, tmp_path):
    file = tmp_path / "x.pdf"
    words = ["figure", "curves", str(runs[0].path.parent), "--out", str(file)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"figure in {file}" in result.output
    content = file.read_bytes()
    assert b"/FontFile2" in content  # TrueType, as fonttype 42 is
    assert b"/Type3" not in content
    assert draw("curves", runs)[0].get_size_inches()[0] == style.COLUMN
    refused = CliRunner().invoke(app, [*words[:-1], "x.gif"])
    assert (refused.exit_code, "must end in .png, .pdf, .svg" in refused.output) == (2, True)


def test_without_our_style_the_users_own_applies(runs, monkeypatch):
    from matplotlib import rcParams

    monkeypatch.setitem(rcParams, "font.size", 17)
    assert draw("curves", runs)[0].axes[0].yaxis.get_ticklabels()[0].get_fontsize() == 7.5
    with style.plain():
        figure = draw("curves", runs)[0]
    assert figure.axes[0].yaxis.get_ticklabels()[0].get_fontsize() == 17
    assert figure.axes[0].lines[1].get_color() == rcParams["axes.prop_cycle"].by_key()["color"][0]
