"""Make certificates and keys: an authority, the SuperLink's certificate, a key for each SuperNode.

Flower requires TLS certificates in PEM format, and SuperNode keys on the curve NIST P-384 in
OpenSSH format.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedalign.errors import InputError
from fedalign.files import reporting

HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
SECRET, PUBLIC = 0o600, 0o666  # permissions of files
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CA, _SERVER = "fedalign authority", "fedalign SuperLink"


def certify(folder: Path, hosts: Sequence[str], days: int = 365) -> list[Path]:
    """Return the files of an authority and of a new server certificate that it has signed.

    `ca.crt` goes to every node and to whoever submits runs, `server.crt` and `server.key` to the
    SuperLink; `ca.key` stays in `folder`. An existing authority is reused, so the server
    certificate can be renewed without changing anything on the nodes.

    Args:
        folder: where the files are written.
        hosts: names and addresses by which the SuperLink is reached; loopback, and the hosts of a
            previous server certificate, are always included.
        days: how long new certificates are valid.

    Raises:
        InputError: only one of the authority's certificate and key exists, they cannot be read, or
            a host is none.
        FedalignError: a file cannot be written.
    """
    known = _hosts(folder / "server.crt")
    names = [_name(host) for host in dict.fromkeys([*LOOPBACK, *known, *hosts])]
    _make_folder(folder)
    ca, ca_key = _authority(folder, days)
    key = ec.generate_private_key(ec.SECP384R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = (
        _builder(_SERVER, key.public_key(), ca.subject, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage, critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    _write(folder / "server.key", _pem(key))
    _write(folder / "server.crt", made.public_bytes(Encoding.PEM), PUBLIC)
    return [folder / name for name in ("ca.crt", "ca.key", "server.crt", "server.key")]


def make_key(path: Path) -> Path:
    """Make a key for a SuperNode; return the file of the public half, `<path>.pub`.

    Args:
        path: the file of the private half.

    Raises:
        InputError: one of the two files exists.
        FedalignError: a file cannot be written.
    """
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise InputError(f"{file} exists already, and a key in use must not be overwritten")
    _make_folder(path.parent)
    key = ec.generate_private_key(ec.SECP384R1())
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write(public, line + f" {path.name}\n".encode(), PUBLIC)
    return public


def _authority(folder: Path, days: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    file, key_file = folder / "ca.crt", folder / "ca.key"
    if file.exists() != key_file.exists():
        present, missing = (file, key_file) if file.exists() else (key_file, file)
        raise InputError(f"{present} exists without {missing.name}: restore it, or remove both")
    if file.exists():
        try:
            known = load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(known, ec.EllipticCurvePrivateKey)
            return _certificate(file), known
        except (OSError, ValueError, TypeError, AssertionError):
            raise InputError(f"{key_file} is not a key that fedalign has made") from None
    key = ec.generate_private_key(ec.SECP384R1())
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    made = (
        _builder(_CA, key.public_key(), None, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(key_file, _pem(key))
    _write(file, made.public_bytes(Encoding.PEM), PUBLIC)
    return made, key


def _builder(
    name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name | None, days: int
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # for clocks that are slow
        .not_valid_after(now + timedelta(days=days))
    )


def _hosts(file: Path) -> list[str]:
    """Return the hosts that a certificate names; none if the file does not exist."""
    if not file.exists():
        return []
    extensions = _certificate(file).extensions
    named = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in named]


def _certificate(file: Path) -> x509.Certificate:
    """Return the certificate in a file; `InputError` if there is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{file} is not a certificate") from None


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not HOST.fullmatch(host):
            raise InputError(f"--host: {host!r} is not the name or address of a host") from None
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_folder(folder: Path) -> None:
    with reporting(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _write(file: Path, content: bytes, mode: int = SECRET) -> None:
    """Write a file that has these permissions from its creation on."""
    with reporting(file):
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.write(content)
