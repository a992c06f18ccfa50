import random

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fedalign.errors import FedalignError, InputError
from fedalign.report.figures import over_rounds
from fedalign.report.labels import beside, common, label, varied
from fedalign.report.reading import Run, read_runs
from fedalign.report.style import save
from fedalign.report.tables import common_settings, groups

USUAL = {
    "strategy.name": "fedavg",
    "client.lr": 0.05,
    "client.batch_size": 16,
    "model.width": 64,
    "partition.alpha": 0.3,
    "max_update_norm": None,
}


def arms(*others):
    return varied([USUAL | other for other in ({}, *others)])


def names(*others):
    found = arms(*others)
    return [beside(arm, common(found)) for arm in found]


def test_few_settings_are_all_named():
    assert names({"client.lr": 0.1}) == ["lr 0.05", "lr 0.1"]
    several = names({"client.lr": 0.1}, {"strategy.name": "fedpfn"}, {"partition.alpha": 1})
    assert several[0] == "fedavg, lr 0.05, alpha 0.3"


def test_of_many_settings_only_what_differs_from_the_common_values_is_named():
    several = [{key: "x"} for key in USUAL]
    assert names(*several) == [
        *("common settings", "x", "lr x", "batch_size x", "width x", "alpha x"),
        "max_update_norm x",
    ]


def test_values_without_a_majority_are_always_named():
    both = [{"client.lr": 0.1, "model.width": 8, "client.batch_size": 4, "partition.alpha": 1}]
    assert names(*both) == [
        "batch_size 16, lr 0.05, width 64, alpha 0.3",
        "batch_size 4, lr 0.1, width 8, alpha 1",
    ]


def test_a_name_that_two_parts_share_is_given_once():
    assert label({"strategy.name": "scaffold", "client.name": "scaffold"}) == "scaffold"


def test_values_are_written_as_they_are_typed_and_cut():
    assert label({"max_update_norm": None, "repair": True}) == "max_update_norm null, repair true"
    assert len(label({"partition.indices": [list(range(1000))]})) < 60


@pytest.fixture
def folders(tmp_path):
    """Sixteen runs that differ in many settings, some of them long."""
    draw, found = random.Random(0), []
    for number in range(16):
        strategy = {"name": draw.choice(["fedavg", "fedpfn", "some_package.module:MyStrategy"])}
        client = {"name": "local", "lr": draw.choice([0.05, 0.1, 1 / 3]), "epochs": number}
        tree = {"name": "x", "seed": 0, "strategy": strategy, "client": client}
        tree |= {"data": {"name": "folder", "path": "/a/very/long/path/" * draw.choice([1, 9])}}
        tree |= {"model": {"name": "mlp", "width": draw.choice([8, 64])}, "wire": "float32"}
        path = tmp_path / f"x-{number}"
        path.mkdir()
        (path / "config.yaml").write_text(yaml.safe_dump(tree))
        rows = [f"{r},0.{number + 1},0.1" for r in (1, 2, 3)]
        metrics = ["round,test_accuracy,client_accuracy_barrier", *rows]
        (path / "metrics.csv").write_text("\n".join(metrics))
        points = [f"3,clients:0-1,{a},1.0,0.{number}" for a in (0, 0.5, 1)]
        (path / "landscape.csv").write_text("\n".join(["round,path,alpha,loss,accuracy", *points]))
        found.append(path)
    return found


@pytest.mark.parametrize("count", [2, 6, 16])
def test_the_legend_has_room_and_covers_no_panel(folders, count):
    rows = groups(read_runs(folders[:count]))
    figure = over_rounds(rows)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box, (width, height) = legend.get_window_extent(), figure.get_size_inches() * figure.dpi
    assert len(legend.get_texts()) == len(rows) == count
    assert box.x0 > max(panel.get_tightbbox().x1 for panel in figure.axes)
    assert box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    widths = [panel.get_window_extent().width / figure.dpi for panel in figure.axes]
    assert min(widths) > 2  # inches, however wide the legend is


def test_runs_that_would_have_one_name_stay_apart(folders):
    """The cut texts of two long values are equal, and the values are not."""
    for folder, value in zip(folders, "ab", strict=False):
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        tree["client"]["epochs"] = f"{'y' * 50}{value}{'z' * 50}"
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    rows = groups(read_runs(folders[:2]))
    assert len({row.arm for row in rows}) == 2


def test_what_names_leave_out_is_said(folders):
    for number, folder in enumerate(folders):  # four settings, of which none decides another
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        tree["client"] |= {"epochs": 2 if number == 0 else 1, "batch_size": 8 if number == 1 else 9}
        tree["client"] |= {"lr": 0.1 if number == 2 else 0.2, "momentum": number % 2 * 0.5}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    runs = read_runs(folders)
    (line,) = common_settings(runs)
    assert line.startswith("common settings, where a run names no others: ")
    assert common_settings(runs[:1]) == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x.xyz", r"x\.xyz.*must end in \.png, \.pdf, \.svg"),
        ("x", "must end in"),
        (".png", "must end in"),
        ("no/x.png", "no' is not a folder"),
    ],
)
def test_a_figure_that_cannot_be_named_so_is_refused(folders, tmp_path, name, problem):
    with pytest.raises(InputError, match=problem):
        save(over_rounds(groups(read_runs(folders[:1]))), tmp_path / name)


def test_a_figure_that_cannot_be_written_is_one_line(folders, tmp_path):
    (tmp_path / "x.png").mkdir()
    figure = over_rounds(groups(read_runs(folders[:1])))
    with pytest.raises(FedalignError, match=r"x\.png: cannot be written: Is a directory") as found:
        save(figure, tmp_path / "x.png")
    assert found.value.exit_code == 1


def test_runs_without_a_round_cannot_be_drawn(folders):
    (run,) = read_runs(folders[:1])
    nothing = Run(run.path, run.tree, run.metrics[:0], run.landscape[:0])
    with pytest.raises(InputError, match="nothing to draw"):
        over_rounds(groups([nothing]))
