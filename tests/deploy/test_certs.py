import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.deploy.certs import certify, make_key
from fedalign.errors import InputError


def read(file):
    return x509.load_pem_x509_certificate(file.read_bytes())


def verify(folder, authority, host, when=None):
    store = Store([read(authority / "ca.crt")])
    policy = PolicyBuilder().store(store).time(when or datetime.now(UTC))
    return policy.build_server_verifier(x509.DNSName(host)).verify(read(folder / "server.crt"), [])


def test_a_server_certificate_is_good_for_its_hosts_and_no_others(tmp_path):
    files = certify(tmp_path, ["superlink", "10.0.0.7"], days=30)
    assert [file.name for file in files] == ["ca.crt", "ca.key", "server.crt", "server.key"]
    verify(tmp_path, tmp_path, "superlink")
    verify(tmp_path, tmp_path, "localhost")
    with pytest.raises(VerificationError):
        verify(tmp_path, tmp_path, "elsewhere")
    with pytest.raises(VerificationError):
        verify(tmp_path, tmp_path, "superlink", datetime.now(UTC) + timedelta(days=31))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")  # they fit


def test_another_authority_vouches_for_nothing(tmp_path):
    certify(tmp_path / "a", [])
    certify(tmp_path / "b", [])
    with pytest.raises(VerificationError):
        verify(tmp_path / "a", tmp_path / "b", "localhost")


def test_a_renewed_certificate_keeps_authority_and_hosts(tmp_path):
    certify(tmp_path, ["one"], days=1)
    authority, before = (tmp_path / "ca.crt").read_bytes(), read(tmp_path / "server.crt")
    certify(tmp_path, ["two"], days=90)
    after = read(tmp_path / "server.crt")
    assert (tmp_path / "ca.crt").read_bytes() == authority
    assert after.not_valid_after_utc - before.not_valid_after_utc > timedelta(days=88)
    for host in ("one", "two"):
        verify(tmp_path, tmp_path, host, datetime.now(UTC) + timedelta(hours=2))


def test_half_an_authority_is_refused(tmp_path):
    certify(tmp_path, [])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.crt exists without ca\.key"):
        certify(tmp_path, [])


def test_what_cannot_be_done_is_said_in_one_line(tmp_path):
    file, known = tmp_path / "file", tmp_path / "known"
    file.write_text("no certificate")
    certify(known, [])
    (known / "ca.key").write_text("no key")
    for command, said in {
        ("certificates", file): f"error: {file}: cannot be written: File exists\n",
        ("key", file / "key"): f"error: {file}: cannot be written: File exists\n",
        ("certificates", known): f"error: {known}/ca.key is not a key that fedalign has made\n",
        ("certificates", tmp_path / "c", "--host", "a b"): "error: --host: 'a b' is not the name "
        "or address of a host\n",
    }.items():
        done = CliRunner().invoke(app, ["deploy", *map(str, command)])
        assert done.stderr == said
    assert not (tmp_path / "c").exists()


def test_nobody_else_may_read_keys(tmp_path):
    certify(tmp_path, [])
    make_key(tmp_path / "node")
    for name in ("ca.key", "server.key", "node"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_key_of_a_node_is_p384_in_openssh_and_never_overwritten(tmp_path):
    public = make_key(tmp_path / "keys" / "clinic")
    key = load_ssh_private_key((tmp_path / "keys" / "clinic").read_bytes(), None)
    assert key.curve.name == "secp384r1"
    assert key.public_key() == load_ssh_public_key(public.read_bytes())
    assert public.read_text().endswith(" clinic\n")
    with pytest.raises(InputError, match="exists already"):
        make_key(tmp_path / "keys" / "clinic")


def test_commands(tmp_path):
    folder, run = tmp_path / "certs", CliRunner()
    done = run.invoke(app, ["deploy", "certificates", str(folder), "--host", "superlink"])
    assert done.exit_code == 0
    assert done.output.split() == [str(file) for file in sorted(folder.iterdir())]
    assert run.invoke(app, ["deploy", "key", str(folder / "a"), str(folder / "b")]).exit_code == 0
    again = run.invoke(app, ["deploy", "key", str(folder / "a")])
    assert again.exit_code == 2
    assert "exists already" in again.output
