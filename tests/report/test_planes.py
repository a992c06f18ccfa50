import pandas as pd
from typer.testing import CliRunner

from fedalign.cli import app


def test_a_run_measures_planes_and_repaired_paths_and_a_report_draws_them(run, tmp_path):
    folder = run(
        evaluation__plane=4, evaluation__repair=True, evaluation__match="weights", rounds=2
    )
    planes = pd.read_csv(folder / "planes.csv", keep_default_na=False)
    assert list(planes.groupby("round").size()) == [2 * (3 + 16)] * 2
    assert set(planes["corner"]) >= {"", "before"}
    curves = pd.read_csv(folder / "landscape.csv")
    kinds = {path.partition(":")[0] for path in curves["path"]}
    assert kinds == {"global", "clients", "matched", "repaired", "matched_repaired"}
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["matched_repaired_loss_barrier"].notna().all()

    picture = tmp_path / "planes.png"
    result = CliRunner().invoke(app, ["report", "--no-page", str(folder), "--plane", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 10_000


def test_a_report_names_a_run_without_planes(run, tmp_path):
    folder = run(rounds=1)
    picture = tmp_path / "planes.png"
    result = CliRunner().invoke(app, ["report", "--no-page", str(folder), "--plane", str(picture)])
    assert result.exit_code == 2
    assert f"error: {folder} has no planes.csv" in result.output
    assert not picture.exists()
