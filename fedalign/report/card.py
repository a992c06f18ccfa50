"""A run as a notebook shows it: a small table."""

from __future__ import annotations

from html import escape

import pandas as pd

from fedalign.report.reading import Run
from fedalign.settings.per_client import told

PARTS = ("strategy", "data", "partition", "model", "client")


def card(run: Run) -> str:
    """Return a table in HTML: what the run is, and how far and how good it came."""
    rows = [_row(name, value) for name, value in (_settings(run) | _results(run)).items()]
    title = f"<caption><b>{escape(str(run.path))}</b>: {escape(run.unfinished or run.status)}"
    return f"<table>{title}</caption>{''.join(rows)}</table>"


def _settings(run: Run) -> dict[str, str]:
    settings = run.settings
    parts = {part: settings[f"{part}.name"] for part in PARTS if f"{part}.name" in settings}
    parts |= {"rounds, seed": f"{settings['rounds']}, {settings['seed']}"}
    parts |= {"clients": f"{_sampled(run)} of {settings['num_clients']} in each round"}
    own = run.client_settings.drop(columns="client")
    values = {str(key): list(own[key]) for key in own}
    return parts | ({"per client": told(values)} if values else {})


def _sampled(run: Run) -> int:
    return run.settings["clients_per_round"] or int(run.settings["num_clients"])


def _results(run: Run) -> dict[str, str]:
    metrics = run.metrics.set_index("round")
    accuracy, barrier = (
        _column(metrics, "test_accuracy"),
        _column(metrics, "client_accuracy_barrier"),
    )
    found = {}
    if len(accuracy):
        best = f"best {accuracy.max():.4f} in round {accuracy.idxmax()}"
        found["test accuracy"] = f"{accuracy.iloc[-1]:.4f} in round {accuracy.index[-1]}, {best}"
    if len(own := _column(metrics, "client_accuracy")):
        found["accuracy on own data"] = f"{own.iloc[-1]:.4f} in round {own.index[-1]}"
    if len(barrier):
        found["accuracy barrier"] = f"{barrier.iloc[-1]:.4f} between clients' models"
    if run.warning:
        found["warning"] = run.warning
    return found


def _column(metrics: pd.DataFrame, name: str) -> pd.Series[float]:
    found: pd.Series[float] = metrics[name].dropna() if name in metrics else pd.Series(dtype=float)
    return found


def _row(name: str, value: str) -> str:
    left = ' style="text-align:left"'
    return f"<tr><th{left}>{escape(name)}</th><td{left}>{escape(str(value))}</td></tr>"
