import pytest
import yaml

from fedalign.errors import InputError
from fedalign.report.figures import draw
from fedalign.report.tables import groups, read_runs, table


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
    assert list(groups(runs)) == ["fedavg", "fedpfn"]
    rows = table(runs).splitlines()
    # the last five of seven rounds; the sample deviation of 0.5 and 0.7 is 0.1414
    assert rows[2].startswith("| fedavg | 2 | 0.6000 ± 0.1414 | 0.1000 ± 0.0000 |")
    assert rows[3].startswith("| fedpfn | 1 | 0.9000 |")


def test_what_differs_is_the_label(folder):
    runs = read_runs([folder(str(a), 0.5, seed=0, partition={"alpha": a}) for a in (0.1, 0.5)])
    assert list(groups(runs)) == ["alpha 0.1", "alpha 0.5"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is no run folder: it has no config\.yaml"):
        read_runs([tmp_path])


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_the_figure_is_drawn(folder, tmp_path, kind):
    draw(read_runs([folder("a", 0.5, seed=0)]), tmp_path / f"x.{kind}")
    assert (tmp_path / f"x.{kind}").stat().st_size > 5_000
