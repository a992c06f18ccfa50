import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.deploy.certs import certify
from fedalign.deploy.health import is_up
from fedalign.deploy.processes import free_port
from fedalign.errors import FedalignError


def test_who_answers_is_up_with_tls_and_without(serve, tmp_path):
    certify(tmp_path, [])
    assert is_up(serve(), None)
    assert is_up(serve(tmp_path), tmp_path / "ca.crt")
    assert not is_up(f"localhost:{free_port()}", None)


def test_another_authority_is_told_apart_from_silence(serve, tmp_path):
    certify(tmp_path / "ours", [])
    certify(tmp_path / "theirs", [])
    address = serve(tmp_path / "theirs")
    with pytest.raises(FedalignError, match="is not the SuperLink of"):
        is_up(address, tmp_path / "ours" / "ca.crt")


def test_the_command_says_it_by_its_exit_code(serve):
    assert CliRunner().invoke(app, ["deploy", "health", serve()]).exit_code == 0
    silent = f"localhost:{free_port()}"
    done = CliRunner().invoke(app, ["deploy", "health", silent])
    assert (done.exit_code, done.stderr) == (1, f"error: nothing answers at {silent}\n")
