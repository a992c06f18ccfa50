import pytest

from fedalign.data import places


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """No data set anywhere: not in the environment, not in Debian's folder, not in the home."""
    monkeypatch.delenv("FEDALIGN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(places, "DEBIAN", tmp_path / "debian")
