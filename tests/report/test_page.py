import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import InputError
from fedalign.report.page.claim import claims, compared
from fedalign.report.page.numbers import Budget, rounded, spread
from fedalign.report.page.page import render
from fedalign.report.reading import read_runs

POINTS = Budget(1).points
EVIL = "</script><img src=x onerror=alert(1)>"


def written(path, accuracies, status="finished", **settings):
    """Write a run folder with these accuracies, a round each; returns it."""
    path.mkdir(parents=True)
    tree = {"name": "x", "seed": 0, "rounds": len(accuracies)} | settings
    (path / "config.yaml").write_text(yaml.safe_dump(tree))
    (path / "manifest.json").write_text(json.dumps({"status": status, "command": ["/a/b", "run"]}))
    rounds = np.arange(1, len(accuracies) + 1)
    columns = {"round": rounds, "test_accuracy": accuracies, "bytes_up": 10**6, "seconds": 0.5}
    pd.DataFrame(columns).to_csv(path / "metrics.csv", index=False)
    head = "round,path,alpha,loss,accuracy"
    points = [f"1,clients:{pair},{a},1.0,{0.1 * k}" for k, pair in enumerate("ab") for a in (0, 1)]
    (path / "landscape.csv").write_text("\n".join([head, *points]) + "\n")
    return path


def page_of(*folders):
    return render(read_runs(folders))


def data_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


def without_data(page):
    return re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)


def test_the_numbers_of_a_page_are_those_of_the_tables(tmp_path):
    values = np.random.default_rng(0).random(20)
    folder = written(tmp_path / "a", values)
    (run,) = data_of(page_of(folder))["runs"]
    table = pd.read_csv(folder / "metrics.csv")
    assert run["rounds"] == list(table["round"])
    assert run["metrics"]["test_accuracy"] == pytest.approx(list(values), rel=1e-5)
    assert run["metrics"]["bytes_up"] == [10**6] * 20
    assert run["x"] == {"megabytes": list(range(1, 21)), "seconds": list(table["seconds"].cumsum())}
    # the mean line over the pairs a, of accuracy 0, and b, of 0.1
    assert run["lines"]["clients"]["alphas"] == [0, 1]
    assert run["lines"]["clients"]["accuracy"] == [[0.05, 0.05]]


def test_a_page_needs_nothing_else(tmp_path):
    page = page_of(written(tmp_path / "a", [0.5, 0.6]))
    assert re.findall(r"""\b(?:src|href)\s*=\s*["']?(?!#|data:)[^"'\s>]+""", page) == []
    assert not re.search(r"@import|\burl\(|\bfetch\(|XMLHttpRequest|\bimport\(", page)
    assert "default-src 'none'" in page
    links = re.findall(r"https?://[\w./-]+", page)
    assert links == ["https://github.com/leeoniya/uPlot"]  # in the licence of its figures


def test_texts_of_runs_are_no_html(tmp_path):
    folder = written(tmp_path / "a", [0.5], name=EVIL, lr=1)
    shutil.copytree(folder, other := tmp_path / "x<script>")
    (other / "config.yaml").write_text(yaml.safe_dump({"name": EVIL, "seed": 1, "lr": EVIL}))
    page = page_of(folder, other)
    assert page.count("<script") == page.count("</script>") == 2  # data and code
    assert "<img" not in page.replace("`<svg", "")
    assert f"lr {EVIL}" in data_of(page)["arms"]


def test_damaged_unfinished_and_empty_runs_make_a_page(tmp_path):
    whole = written(tmp_path / "whole", [np.nan, np.inf, 0.5])
    stopped = written(tmp_path / "stopped", [0.25], status="stopped", seed=1, rounds=9)
    empty = written(tmp_path / "empty", [], status="running", seed=2)
    (whole / "clients.csv").write_text("round,nonsense\n1,2\n")
    (whole / "partition.png").write_bytes(b"no picture")
    (stopped / "manifest.json").write_text("{")
    page = page_of(whole, stopped, empty)
    runs = {run["name"]: run for run in data_of(page)["runs"]}
    assert runs["whole"]["metrics"]["test_accuracy"] == [None, None, 0.5]
    assert [runs[name]["rounds"] for name in ("stopped", "empty")] == [[1], []]
    text = without_data(page)
    assert "clients.csv cannot be read: clients.csv has no column &#39;partition&#39;" in text
    assert "partition.png cannot be read" in text
    assert "not finished, manifest damaged, round 1 of 9" in text


def test_clients_are_a_map_of_rounds(tmp_path):
    folder = written(tmp_path / "a", [0.5, 0.6])
    table = "round,partition,examples,loss,accuracy,tuned_loss,tuned_accuracy\n"
    (folder / "clients.csv").write_text(table + "1,3,9,1,0.25,,\n2,3,9,1,0.5,,\n2,7,9,1,0.75,,\n")
    table = "round,client,examples,train_loss,outcome\n"
    (folder / "sampled.csv").write_text(table + "1,3,9,1.5,used\n2,3,9,,no reply\n")
    (folder / "classes.csv").write_text("client,0,1\n3,5,0\n7,1,2\n")
    (run,) = data_of(page_of(folder))["runs"]
    clients = run["clients"]
    assert (clients["ids"], clients["rounds"]) == ([3, 7], [1, 2])
    assert clients["maps"]["accuracy on own data"] == [[0.25, 0.5], [None, 0.75]]
    assert clients["maps"]["training loss"] == [[1.5, None], [None, None]]
    assert "accuracy after fine-tuning" not in clients["maps"]
    assert [clients["outcomes"][i] for i in clients["outcome"][0]] == ["used", "no reply"]
    counts = {"ids": [3, 7], "of": 2, "classes": ["0", "1"], "counts": [[5, 0], [1, 2]]}
    assert run["partition"] == counts


def test_the_claim_by_hand(tmp_path):
    folders = [
        written(tmp_path / f"{name}{seed}", [accuracy], seed=seed, strategy={"name": name})
        for name, accuracies in {"fedavg": (0.5, 0.6, 0.7), "fedpfn": (0.6, 0.8, 1.0)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (claim,) = claims(compared(read_runs(folders)))
    assert (claim.best, claim.value, claim.seeds) == ("fedpfn", "0.800 ± 0.200", 3)
    # 0.1, 0.2 and 0.3 more: mean 0.2, and t(2) is 4.303 times the standard error of 0.1 / sqrt(3)
    minus = "\N{MINUS SIGN}"
    assert claim.comparison == f", 0.200 more than fedavg (95 % interval {minus}0.048 to 0.448)"
    assert claim.verdict == "Not significant: p = 0.074."
    # 0.10 and 0.11 more: t(1) is 12.706 times the standard error of 0.005
    other = written(tmp_path / "y", [0.71], seed=1, strategy={"name": "fedpfn"})
    (claim,) = claims(compared(read_runs([*folders[:2], folders[3], other])))
    assert claim.comparison == ", 0.105 more than fedavg (95 % interval 0.041 to 0.169)"
    assert claim.verdict == "Significant: p = 0.03."  # 1 - 2 atan(21) / pi
    (claim,) = claims(compared(read_runs([folders[0], folders[3]])))
    assert claim.comparison == ", 0.100 more than fedavg"
    assert claim.verdict.startswith("They share one seed")
    (claim,) = claims(compared(read_runs([folders[0], folders[4]])))
    assert "cannot be paired" in claim.comparison


def test_another_metric_and_baseline(made):
    """Of a loss the smallest is the best; both words reach sentence, table and curves."""
    runs = [
        made(f"{name}{seed}", {"test_loss": [loss]}, seed=seed, strategy={"name": name})
        for name, losses in {"fedavg": (3.0, 4.0), "fedpfn": (1.0, 2.0), "fednova": (2, 2)}.items()
        for seed, loss in enumerate(losses)
    ]
    found = compared(runs, "test_loss", "fednova")
    (claim,) = claims(found)
    assert (claim.best, claim.value) == ("fedpfn", "1.500 ± 0.707")
    assert claim.comparison.startswith(", 0.500 less than fednova (95 %")
    page = render(runs, comparison=found)
    assert 'reaches a test loss of <strong class="whole">1.500' in page
    assert "loss minus fednova&#39;s" in page
    assert data_of(page)["shown"] == "test_loss"
    for metric, baseline in (("test_los", None), ("test_loss", "fedavq"), (None, "fedavq")):
        with pytest.raises(InputError, match=r"test_los'|fedavq|test_accuracy"):
            compared(runs, metric, baseline)
    assert compared(runs) is None


def test_arms_are_compared_under_the_same_data(tmp_path):
    folders = [
        written(tmp_path / f"{name}{alpha}", [accuracy], strategy={"name": name}, alpha=alpha)
        for alpha, accuracies in {0.1: (0.4, 0.3), 1.0: (0.7, 0.8)}.items()
        for name, accuracy in zip(("fedavg", "fedpfn"), accuracies, strict=True)
    ]
    found = [(claim.where, claim.best) for claim in claims(compared(read_runs(folders)))]
    assert found == [("alpha 0.1", "fedavg"), ("alpha 1.0", "fedpfn")]


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    folder = written(tmp_path / "a", np.linspace(0, 1, 5 * POINTS))
    table = pd.read_csv(folder / "metrics.csv")
    table["rare"] = np.where(table["round"] % 50 == 0, 1.0, np.nan)
    table.to_csv(folder / "metrics.csv", index=False)
    (run,) = data_of(page_of(folder))["runs"]
    assert POINTS <= len(run["rounds"]) <= POINTS + 30
    assert (run["rounds"][0], run["rounds"][-1]) == (1, 5 * POINTS)
    assert sum(value is not None for value in run["metrics"]["rare"]) == 5 * POINTS / 50
    assert spread(range(10), 3) == [0, 4, 9]
    assert rounded([1e7, 1 / 3, np.nan, -np.inf], 3) == [10**7, 0.333, None, None]


def test_where_the_page_goes(tmp_path, monkeypatch):
    def report(*words):
        return CliRunner().invoke(app, ["report", str(folder), *words])

    folder = written(tmp_path / "a", [0.5])
    monkeypatch.chdir(tmp_path)
    assert report("--no-page").exit_code == 0
    assert not (tmp_path / "report.html").exists()
    assert "page in report.html" in report().output
    assert report().exit_code == 0  # it may replace its own page
    (tmp_path / "report.html").write_text("mine")
    refused = report()
    assert refused.exit_code == 2
    assert "is no page of fedalign; give --page FILE or --no-page" in refused.output
    assert (tmp_path / "report.html").read_text() == "mine"
    for words in (("--page", "x.pdf"), ("--page", "no/x.html"), ("--page", "a.html", "--no-page")):
        assert report(*words).exit_code == 2
    assert not (tmp_path / "a.html").exists()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
USED = """<script>
const press = (key) => $("curves-chart").dispatchEvent(new KeyboardEvent("keydown", { key }));
const all = (selector) => [...document.querySelectorAll(selector)];
const seen = {};
all("#curves-legend button")[0].click();
seen.pressed = all("#lines-legend button").map((button) => button.ariaPressed);
press("Home");
seen.read = all("#curves-chart .read")[0].innerText;
press("+");
setTimeout(() => {
  seen.zoomed = !$("curves-reset").hidden;
  $("curves-reset").click();
  all("#table-runs thead button")[2].click();
  seen.order = all("#table-runs tbody tr").map((line) => line.cells[2].innerText);
  $("curves-numbers").closest("details").open = true;
  $("line-round").value = "0";
  $("line-round").oninput();
  seen.round = $("line-round-value").innerText;
  $("client-measure").value = "loss on own data";
  $("client-measure").onchange();
  seen.note = $("client-note").innerText;
  dispatchEvent(new Event("beforeprint"));
  dispatchEvent(new Event("afterprint"));
  setTimeout(() => (document.body.dataset.seen = JSON.stringify(seen)), 50);
}, 50);
</script>"""


def browse(page, folder):
    """Open a page in Chromium; returns the DOM, after asserting that nothing was complained of."""
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'u'}")
    told = ("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri())
    done = subprocess.run([CHROMIUM, *flags, *told], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_and_obeys(tmp_path, run):
    settings = {"evaluation.plane": 3, "evaluation.client_fraction": 1, "evaluation.holdout": 0.3}
    arms = [(name, seed) for name in ("fedavg", "fedpfn") for seed in (1, 0)]
    page = tmp_path / "page.html"
    html = page_of(*[run(strategy=name, seed=seed, **settings) for name, seed in arms])
    page.write_text(html.replace("</body>", USED + "</body>"))
    shown = browse(page, tmp_path)
    assert int(re.search(r'data-ready="(\d+)"', shown)[1]) < 10_000
    for place in ("curves-chart", "lines-chart", "plane-map", "client-map"):
        assert re.search(rf'id="{place}"[^>]*>(?:<div>)?<(?:div class="uplot|canvas)', shown)
    seen = json.loads(unescape(re.search(r'data-seen="([^"]*)"', shown)[1]))
    assert seen["pressed"] == ["false", "true"]  # the legend of the other chart follows
    assert re.fullmatch(r"round 1: fedpfn.* 0\.\d+", seen["read"])
    assert seen["zoomed"]
    assert seen["order"] == ["0", "0", "1", "1"]
    assert seen["round"] == "1"
    assert re.match(r"Round 3, loss on own data: lowest \d", seen["note"])
    assert re.search(r'id="curves-numbers"[^>]*><table><caption>test accuracy', shown)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_bears_runs_without_anything(tmp_path):
    empty = written(tmp_path / "empty", [], status="running")
    one = written(tmp_path / "one", [0.5, np.nan], seed=1)
    (one / "landscape.csv").write_text("round,path,alpha,loss,accuracy\n")
    for name, folders in {"empty": [empty], "both": [empty, one]}.items():
        page = tmp_path / f"{name}.html"
        page.write_text(page_of(*folders))
        assert "data-ready" in browse(page, tmp_path)
