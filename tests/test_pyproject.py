import io
import tomllib
import zipfile

import pytest
from flwr.cli.build import build_fab_from_files

import fedalign
from fedalign.settings.config import LISTED
from fedalign.settings.registry import HOME

MANIFEST = tomllib.loads((HOME / "pyproject.toml").read_text())


def test_the_version_is_said_twice_and_alike():
    assert MANIFEST["project"]["version"] == fedalign.__version__


def test_flwr_run_accepts_what_people_type():
    """Flower refuses a run config key that the manifest does not list."""
    listed = MANIFEST["tool"]["flwr"]["app"]["config"]
    assert set(listed) == LISTED
    assert {key for key, value in listed.items() if value != ""} == {"config"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
@pytest.mark.parametrize("name", ["digits", "excerpt"])
def test_flowers_bundle_and_the_wheel_carry_the_data(name):
    """Flower's bundle keeps a few kinds of files only; hatchling's wheel takes whole packages."""
    data = f"fedalign/data/{name}.json"
    folders = ("fedalign", "strategies", "clients", "partitions", "configs")
    paths = [path for folder in folders for path in (HOME / folder).rglob("*") if path.is_file()]
    paths += [HOME / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    files = {path.relative_to(HOME).as_posix(): path for path in paths}
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_files(files)[0]))
    assert bundle.read(data) == (HOME / data).read_bytes()
    assert "fedalign" in MANIFEST["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
