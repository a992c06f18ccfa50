"""Where an app is found, where it is not, and what may be said to it."""

from __future__ import annotations

import sys

import pytest

from fedalign.errors import InputError
from fedalign.simulation import find_app, load_component, parse_run_config


@pytest.fixture
def path(monkeypatch):
    """Return ``sys.path``, put back after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return sys.path


def test_directory_with_a_manifest(write_app, tmp_path):
    app = find_app(str(write_app(tmp_path / "checkout", "dirapp")))
    assert app.root == tmp_path / "checkout"
    assert (app.server, app.client) == ("dirapp.server_app:app", "dirapp.client_app:app")
    assert app.defaults == {"num-server-rounds": 3, "out": "final.npz", "client.step": 0.5}


def test_package_directory_beside_its_manifest(write_app, tmp_path, monkeypatch):
    write_app(tmp_path / "checkout", "besideapp")
    monkeypatch.chdir(tmp_path / "checkout")
    assert find_app("besideapp").root == tmp_path / "checkout"


def test_checkout_of_the_same_name_as_its_package(write_app, tmp_path, monkeypatch):
    write_app(tmp_path / "sameapp", "sameapp")
    monkeypatch.chdir(tmp_path)
    assert find_app("sameapp").root == tmp_path / "sameapp"


def test_current_directory_by_its_name(write_app, tmp_path, monkeypatch):
    monkeypatch.chdir(write_app(tmp_path / "checkout", "dotapp"))
    assert find_app(".").root == tmp_path / "checkout"


def test_installed_from_a_wheel(write_app, tmp_path, path):
    site = write_app(tmp_path / "site", "wheelapp")
    (site / "pyproject.toml").rename(site / "wheelapp" / "pyproject.toml")
    path.insert(0, str(site))
    assert find_app("wheelapp").root == site
    assert find_app(str(site / "wheelapp")).root == site


def test_editable_install(write_app, tmp_path, path, monkeypatch):
    path.insert(0, str(write_app(tmp_path / "checkout", "editapp")))
    (tmp_path / "elsewhere" / "editapp").mkdir(parents=True)  # no app: must not hide the real one
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_app("editapp").root == tmp_path / "checkout"


@pytest.mark.parametrize("name", ["", " ", "nosuchapp", "../nosuchapp", "no.such", "tests", "json"])
def test_wrong_name_never_means_the_current_directory(name, write_app, tmp_path, monkeypatch):
    monkeypatch.chdir(write_app(tmp_path / "checkout", "hereapp"))
    (tmp_path / "checkout" / "tests").mkdir()
    with pytest.raises(InputError) as caught:
        find_app(name)
    assert repr(name) in str(caught.value)
    assert "[tool.flwr.app]" in str(caught.value)
    assert "package folder" in str(caught.value)
    assert "installed" in str(caught.value)


def test_manifest_of_another_package_does_not_count(write_app, tmp_path, path):
    site = write_app(tmp_path / "site", "stranger")  # a manifest loose among installed packages
    (site / "neighbour").mkdir()
    (site / "neighbour" / "__init__.py").touch()
    path.insert(0, str(site))
    with pytest.raises(InputError, match="'neighbour' is not a Flower app"):
        find_app("neighbour")


COMPONENTS = "[tool.flwr.app.components]\nserverapp = 'a:b'\nclientapp = 'a:c'\n"


@pytest.mark.parametrize(
    ("federations", "count", "engine"),
    [
        ("", None, {}),
        ("default = 'a'", None, {}),
        ("a.options.num-supernodes = 5", 5, {}),
        ("default = 'b'\na.options.num-supernodes = 5\nb.address = 'x'", None, {}),
        ("default = 'b'\na.address = 'x'\nb.options.num-supernodes = 7", 7, {}),
        ("a.options.backend.client-resources.num-cpus = 2", None, {"num-cpus": 2}),
    ],
)
def test_the_default_federation(federations, count, engine, tmp_path):
    text = f"{COMPONENTS}[tool.flwr.federations]\n{federations}\n"
    (tmp_path / "pyproject.toml").write_text(text)
    app = find_app(str(tmp_path))
    assert app.num_supernodes == count
    assert app.engine.get("client-resources", {}) == engine


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (f"{COMPONENTS}[tool.flwr.federations.a]\noptions.num-supernodes = '5'", "'5' is not a"),
        ("[tool.flwr.app", "pyproject.toml: "),
        ("[tool.flwr.app]", "needs serverapp and clientapp"),
        ("[tool.flwr.app.components]\nserverapp = 'a:b'", "needs serverapp and clientapp"),
        (
            "[tool.flwr.app]\ncomponents = {serverapp = 'a:b', clientapp = 'a:c'}\n"
            "config = {layers = [1, 2]}",
            "key layers",
        ),
    ],
)
def test_unusable_manifest_is_named(manifest, words, tmp_path):
    (tmp_path / "pyproject.toml").write_text(manifest)
    with pytest.raises(InputError) as caught:
        find_app(str(tmp_path))
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("args", "settings"),
    [
        ([], {}),
        (["  "], {}),
        (['k=1 k2="v 2" a.b=3'], {"k": 1, "k2": "v 2", "a.b": 3}),
        (["a=true b=-1e-3 c='x=y z'"], {"a": True, "b": -1e-3, "c": "x=y z"}),
        ([r'a="say \"no\""'], {"a": 'say "no"'}),
        (["k=1 k=2", "k=3"], {"k": 3}),
        (['path="configs/run.toml"'], {"path": "configs/run.toml"}),
        (["a.b=1", "a.c=2"], {"a.b": 1, "a.c": 2}),
    ],
)
def test_run_config(args, settings):
    assert parse_run_config(args) == settings


def test_run_config_file_and_words_in_order(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("rounds = 5\n[client]\nstep = 0.1\nname = 'x'\n")
    settings = parse_run_config(["rounds=1 client.step=9", str(file), "client.name='y'"])
    assert settings == {"rounds": 5, "client.step": 0.1, "client.name": "y"}


@pytest.mark.parametrize(
    ("arg", "word"),
    [
        ("a=1 size b=2", "'size'"),
        ("a = 1", "'a'"),
        ("a=", "'a='"),
        ("=1", "'=1'"),
        ("a=1,b=2", "'a=1,b=2'"),
        ("config=quick.yaml", "'config=quick.yaml'"),
        ('a="open', """'a="open'"""),
        ("a=1#b", "'a=1#b'"),
        ("a='1'b=2", """"a='1'b=2\""""),
        ("a=[1,2]", "'a=[1,2]'"),
        ("a=1979-05-27", "'a=1979-05-27'"),
        ("a..b=1", "'a..b=1'"),
        ("missing.toml", "missing.toml"),
    ],
)
def test_run_config_names_the_wrong_word(arg, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        parse_run_config(["k=1", arg])
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["layers = [1, 2]", "day = 1979-05-27", "a = b"])
def test_run_config_file_with_wrong_values(text, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"run\.toml"):
        parse_run_config([str(file)])


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("json", "'json' is not of the form"),
        ("nosuchpackage.server:app", "there is no module 'nosuchpackage'"),
        ("json.nosuch:app", "there is no module 'json.nosuch'"),
        ("json:nosuch", "module 'json' has no 'nosuch'"),
    ],
)
def test_load_component_names_what_is_missing(ref, words):
    with pytest.raises(InputError, match=words):
        load_component(ref)


def test_load_component_lets_an_apps_own_import_error_through(tmp_path, path):
    (tmp_path / "needy.py").write_text("import nosuchdependency")
    path.insert(0, str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="nosuchdependency"):
        load_component("needy:app")


def test_another_copy_of_the_app_is_not_taken_for_it(write_app, tmp_path, path):
    first, second = (find_app(str(write_app(tmp_path / copy, "twinapp"))) for copy in "ab")
    first.load()
    first.load()
    with pytest.raises(InputError, match="hides the app"):
        second.load()
    assert path[0] == str(second.root)
