"""The tutorial runs, and holds what it shows."""

import pytest

from tests.docs.blocks import HOME

nbformat = pytest.importorskip("nbformat")
TUTORIAL = nbformat.read(HOME / "docs" / "tutorial.ipynb", 4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook):
    """Return the kinds of output of each cell."""
    outputs = [[out.get("data", ()) for out in cell.outputs] for cell in code(notebook)]
    return [{kind for data in several for kind in data} for several in outputs]


def test_it_was_stored_after_a_whole_run():
    counts = [cell.execution_count for cell in code(TUTORIAL)]
    assert counts == list(range(1, len(counts) + 1))
    assert sum("image/png" in kinds for kinds in shown(TUTORIAL)) == 4
    assert not [o for cell in code(TUTORIAL) for o in cell.outputs if o.output_type == "error"]


@pytest.mark.slow
def test_it_runs_and_shows_what_it_did(tmp_path, monkeypatch):
    nbclient, _ = pytest.importorskip("nbclient"), pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notebook, folder = nbformat.from_dict(TUTORIAL), {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=folder).execute()
    assert shown(notebook) == shown(TUTORIAL)
