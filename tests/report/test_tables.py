import json

import pytest
import yaml

from fedalign.errors import InputError
from fedalign.report.differences import beside_baseline
from fedalign.report.figures import over_rounds
from fedalign.report.lines import along_the_line
from fedalign.report.reading import distinct, read_runs
from fedalign.report.style import save
from fedalign.report.sweeps import sweep
from fedalign.report.tables import Row, differences, groups, remarks, table


def cells(markdown):
    """The cells of each line of a Markdown table, without the line under the headings."""
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in markdown.splitlines()]
    return [lines[0], *lines[2:]]


@pytest.fixture
def folder(tmp_path):
    def folder(name, accuracy, **settings):
        path = tmp_path / name
        path.mkdir()
        (path / "config.yaml").write_text(yaml.safe_dump({"name": "x", **settings}))
        head = "round,test_accuracy,client_accuracy_barrier,client_loss_barrier,global_loss_barrier"
        rows = [f"{r},{accuracy if r > 2 else 0},0.1,0.2,0.3" for r in range(1, 8)]
        (path / "metrics.csv").write_text("\n".join([head, *rows]))
        points = [f"7,{p},{a},1.0,0.5" for p in ("global", "clients:0-1") for a in (0, 0.5, 1)]
        (path / "landscape.csv").write_text("\n".join(["round,path,alpha,loss,accuracy", *points]))
        return path

    return folder


def test_seeds_are_taken_together_by_hand(folder):
    runs = read_runs(
        [
            folder("a", 0.5, seed=0, strategy={"name": "fedavg"}),
            folder("b", 0.7, seed=1, strategy={"name": "fedavg"}),
            folder("c", 0.9, seed=0, strategy={"name": "fedpfn", "fixed_ratio": 0.4}),
        ]
    )
    assert [row.arm for row in groups(runs)] == ["fedavg", "fedpfn"]
    _, fedavg, fedpfn = cells(table(groups(runs)))
    # the last five of seven rounds; the sample deviation of 0.5 and 0.7 is 0.1414
    assert fedavg[:4] == ["fedavg", "2", "0.6000 ± 0.1414", "0.1000 ± 0.0000"]
    assert fedpfn[:3] == ["fedpfn", "1", "0.9000"]


def test_what_differs_is_the_label(folder):
    runs = read_runs([folder(str(a), 0.5, seed=0, partition={"alpha": a}) for a in (0.1, 0.5)])
    assert [row.arm for row in groups(runs)] == ["alpha 0.1", "alpha 0.5"]


def test_a_seed_counts_once_and_copies_are_named(folder):
    one, copy = folder("a", 0.5, seed=0), folder("copy", 0.5, seed=0, simulation={"stack": 4})
    other, two = folder("other", 0.6, seed=0, out="x"), folder("b", 0.7, seed=1)
    folders, repeated = distinct([one, copy, one.parent / "a" / "..", other, two, one, one][:2])
    assert repeated == []
    folders, repeated = distinct([one, copy, one, other, one.parent / "." / "a", two])
    assert folders == [one, copy, other, two]
    assert repeated == [f"{one}: given more than once, counts once"]
    runs = read_runs(folders)
    rows = groups(runs)
    assert cells(table(rows))[1][1:3] == ["2", "0.6000 ± 0.1414"]
    assert remarks(runs, rows) == [
        f"{copy}: a copy of {one}, whose seed counts once; left out",
        f"{other}: another run of {one}, whose seed counts once; left out",
    ]


def test_runs_are_grouped_by_what_the_hash_counts(folder):
    """A batch size of 200 is what `null` means, and where a run went does not matter."""
    more = [
        {"evaluation": {"batch_size": 200, "threads": 1}, "out": "a", "timeout": 3600.0},
        {"evaluation": {"batch_size": None}, "out": "b", "timeout": 60, "tf32": True},
        {"checkpoint_every": 10, "min_replies": 3, "simulation": {"cohort": 2}},
    ]
    runs = [folder(str(seed), 0.5, seed=seed, **own) for seed, own in enumerate(more)]
    (row,) = groups(read_runs(runs))
    assert [run.settings["seed"] for run in row.runs] == [0, 1, 2]
    runs.append(folder("small", 0.5, seed=3, evaluation={"batch_size": 100}))
    assert [row.arm for row in groups(read_runs(runs))] == ["batch_size 100", "batch_size 200"]


@pytest.mark.parametrize("status", ["running", "stopped", "failed: round 6: nobody: came"])
def test_a_run_that_has_not_finished_is_marked_and_read_as_far_as_it_is(folder, status):
    done, half = folder("a", 0.5, seed=0, rounds=9), folder("b", 0.7, seed=1, rounds=9)
    (half / "manifest.json").write_text(json.dumps({"status": status}))
    with (half / "landscape.csv").open("a") as file:
        file.write("\n8,global,0.0,1.0,0.9\n8,glo")  # rows of a round that is being written
    lines = (half / "metrics.csv").read_text()
    (half / "metrics.csv").write_text(lines.replace("6,0.7", "6,0.9") + "\n8,0.")
    runs = read_runs([done, half])
    whole, other = groups(runs)
    word = status.partition(":")[0]
    assert (whole.arm, other.arm) == ("x", f"x ({word}, round 7 of 9)")
    assert other.by_seed("accuracy")[1] == pytest.approx((0.9 + 4 * 0.7) / 5)
    assert runs[1].landscape["round"].max() == 7
    assert remarks(runs, [whole, other]) == [f"{half}: not finished, {word}, round 7 of 9"]


def test_what_a_run_said_about_its_clients_is_repeated(folder):
    path = folder("a", 0.5, seed=0)
    told = {"status": "finished", "warning": "3 of 30 clients took part; failures: 54 times X"}
    (path / "manifest.json").write_text(json.dumps(told))
    runs = read_runs([path])
    assert remarks(runs, groups(runs)) == [f"{path}: {told['warning']}"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.yaml", "a: [", "cannot be read as a run folder: line 1: "),
        ("config.yaml", "", "is not the configuration of a run"),
        ("metrics.csv", "", "cannot be read as a run folder: No columns"),
        ("landscape.csv", 'a\n"', "cannot be read as a run folder: "),
        ("config.yaml", "seed: [1]\nname: x", "is not the configuration of a run"),
        ("config.yaml", "seed: 0", "is not the configuration of a run"),
        ("metrics.csv", "a,b\n1,2", r"metrics\.csv has no column 'round'"),
        ("metrics.csv", "round,test_accuracy\n1,x", "'test_accuracy' does not hold numbers"),
        ("landscape.csv", "round\n1", r"landscape\.csv has no column 'path'"),
    ],
)
def test_a_broken_file_is_one_line(folder, name, content, told):
    path = folder("a", 0.5, seed=0)
    (path / name).write_text(content)
    with pytest.raises(InputError, match=told):
        read_runs([path])


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is not a run folder: it has no config\.yaml"):
        read_runs([tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read as a run folder: Not a directory"):
        read_runs([tmp_path / "file"])


@pytest.fixture
def rows(folder):
    """Two arms under two alphas; seeds 0 to 2 pair up, but one of fedpfn's is missing at 0.5."""
    accuracies = {
        ("fedavg", 0.1): [0.70, 0.72, 0.74],
        ("fedpfn", 0.1): [0.73, 0.74, 0.75],
        ("fedavg", 0.5): [0.80, 0.81, 0.82],
        ("fedpfn", 0.5): [0.90],
    }
    return [
        Row(
            arm,
            read_runs([folder(f"{arm}-{alpha}-{s}", v, seed=s) for s, v in enumerate(values)]),
            {"partition.alpha": alpha},
        )
        for (arm, alpha), values in accuracies.items()
    ]


def test_differences_are_paired_by_seed_and_combination_by_hand(rows):
    # 0.03, 0.02, 0.01: mean 0.02, deviation 0.01; 4.3027 * 0.01 / sqrt(3) = 0.02484
    one, three = differences(rows, "fedavg")["accuracy"][1::2]
    assert (one.mean, one.half_width, one.pairs) == pytest.approx((0.02, 0.02484, 3), abs=1e-5)
    assert str(three) == "+0.1000 ± –"  # noqa: RUF001
    assert differences(rows, "fedavg")["accuracy"][::2] == [None, None]


def test_the_table_of_a_study(rows):
    assert cells(table(rows, ["accuracy"], "fedavg")) == [
        ["alpha", "run", "seeds", "test accuracy, last 5 rounds", "minus fedavg's"],
        ["0.1", "fedavg", "3", "0.7200 ± 0.0200", "–"],  # noqa: RUF001
        ["0.1", "fedpfn", "3", "0.7400 ± 0.0100", "+0.0200 ± 0.0248 (n.s.)"],
        ["0.5", "fedavg", "3", "0.8100 ± 0.0100", "–"],  # noqa: RUF001
        ["0.5", "fedpfn", "1", "0.9000", "+0.1000 ± –"],  # noqa: RUF001
    ]


def test_rounds_that_were_not_measured_do_not_count(folder):
    path = folder("a", 0.5, seed=0)
    lines = ["round,test_accuracy,client_loss_barrier,fusion_gap,bytes_up", "1,0.5,,,1500000"]
    (path / "metrics.csv").write_text("\n".join([*lines, "2,0.5,0.2,,1500000", "3,0.5,0.4,,0"]))
    head, row = cells(table(groups(read_runs([path]))))
    numbers = dict(zip(head, row, strict=True))
    assert numbers["client loss barrier, all rounds"] == "0.3000"
    assert numbers["MB up"] == "3.0"
    assert not any("fusion" in heading for heading in head)  # it was not measured


def heights(axes):
    return [[round(float(y), 3) for y in line.get_ydata()] for line in axes.lines]


def test_over_rounds_the_mean_of_each_arm_is_drawn(rows):
    low, high = over_rounds(rows, "fedavg").axes[::3]  # a row of three panels for each alpha
    assert heights(low) == [[0, 0, *[0.72] * 5], [0, 0, *[0.74] * 5]]
    assert heights(high) == [[0, 0, *[0.81] * 5], [0, 0, *[0.9] * 5]]


def test_a_sweep_has_means_and_deviations(rows):
    """The last five rounds; the sample deviation of 0.70, 0.72, 0.74 is 0.02."""
    fedavg, low, high, fedpfn = heights(sweep(rows, "partition.alpha", "fedavg").axes[0])[:4]
    assert (fedavg, low, high) == ([0.72, 0.81], [0.7, 0.8], [0.74, 0.82])
    assert fedpfn == [0.74, 0.9]


def test_a_difference_has_its_interval(rows):
    axes = beside_baseline(rows, "fedavg").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fedavg", "fedpfn"]
    interval, mean = axes.lines[-2:]
    assert list(interval.get_xdata()) == pytest.approx([0.02 - 0.02484, 0.02 + 0.02484], abs=1e-5)
    assert list(mean.get_xdata()) == pytest.approx([0.02])


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_figures_are_saved(rows, tmp_path, kind, begins):
    save(over_rounds(rows, "fedavg"), tmp_path / f"x.{kind}")
    assert (tmp_path / f"x.{kind}").read_bytes().startswith(begins)


def test_a_figure_of_runs_without_paths(folder):
    path = folder("a", 0.5, seed=0)
    (path / "metrics.csv").write_text("round,test_accuracy,client_accuracy_barrier\n1,0.5,")
    (path / "landscape.csv").write_text("round,path,alpha,loss,accuracy\n")
    figure = over_rounds(groups(read_runs([path])))
    assert [axes.get_title() for axes in figure.axes] == ["Global model"]


@pytest.fixture
def level(rows):
    """An arm that is the same run, with three seeds, for both alphas."""
    return [Row("level", rows[0].runs, {"partition.alpha": alpha}) for alpha in (0.1, 0.5)]


def test_only_arms_that_vary_have_panels_of_lines(rows, level):
    figure = along_the_line([*rows, *level], "partition.alpha")
    assert [panel.get_title() for panel in figure.axes] == ["fedavg", "fedpfn"]
    assert along_the_line(level, "partition.alpha") is None


def test_a_reference_is_one_level_line_in_a_sweep(rows, level):
    figure = sweep([*rows, *level], "partition.alpha", "fedavg")
    heights = [line.get_ydata() for line in figure.axes[0].lines]
    assert [h for h in heights if len(h) == 2 and h[0] == h[1] == pytest.approx(0.72)]
