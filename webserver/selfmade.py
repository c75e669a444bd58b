"""A server's own certificate, made by ``openssl(1)``, which nodes have, too; clients know it by its fingerprint.

It says nothing about who the server is, and there is no authority: see :mod:`webserver.pinned`.
"""

from __future__ import annotations

import datetime
import glob
import hashlib
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from terminal import Failure, durable

BEGIN: Final = "20200101000000Z"
"""Long before the build of any image: a node whose clock is years behind must find its cluster."""
DAYS: Final = 3650
_NAME = re.compile(r"[A-Za-z0-9.:_-]{1,253}")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_SETTINGS: Final = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = server
[any]
commonName = supplied
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = {alternatives}
"""


def make(path: Path, names: Sequence[str], *, end: datetime.datetime | None = None) -> None:
    """Write a new key (ECDSA, P-256) and its certificate to the PEM file ``path``, for its owner alone.

    ``names`` are the host names and IP addresses that it is for; it is valid from :data:`BEGIN` for ten years from now,
    or until ``end``. The file is there whole or not at all. Raises Failure.
    """
    if not names or not all(map(_NAME.fullmatch, names)):
        raise Failure("not names of a server", where=", ".join(names))
    until = end or datetime.datetime.now(datetime.UTC) + datetime.timedelta(DAYS)
    settings = _SETTINGS.format(name="flotilla", alternatives=", ".join(map(_alternative, names)))
    parent, prefix = path.absolute().parent, f".{path.name}."
    for left in parent.glob(f"{glob.escape(prefix)}????????"):  # by one that was killed; there is a key in it
        shutil.rmtree(left, ignore_errors=True)
    try:
        # Beside the target, so that the file can be renamed to it; private (0700) as long as it lasts.
        with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name:
            folder = Path(name)
            (folder / "settings").write_text(settings)
            (folder / "index").touch()
            request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            _openssl(folder, [*request, "-keyout", "key", "-out", "request", "-config", "settings"])
            sign = ["ca", "-batch", "-selfsign", "-notext", "-config", "settings", "-keyfile", "key", "-in", "request"]
            dates = ["-startdate", BEGIN, "-enddate", f"{until:%Y%m%d%H%M%SZ}"]
            _openssl(folder, [*sign, "-out", "certificate", *dates])
            made = folder / "made"
            durable.create(made, (folder / "key").read_text() + (folder / "certificate").read_text(), mode=0o600)
            made.rename(path)
    except OSError as error:
        raise Failure(f"no certificate can be made: {error.strerror}", where=str(path)) from error


def fingerprint(pem: str) -> str:
    """SHA-256, hexadecimal, of the first certificate (its DER) in PEM text. Raises Failure."""
    try:
        found = _PEM.search(pem)
        if found is not None:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()
    except ValueError as error:
        raise Failure("this certificate is broken") from error
    raise Failure("there is no certificate in it", hint="PEM: -----BEGIN CERTIFICATE-----")


def read_fingerprint(path: Path) -> str:
    """The same of a file. Raises Failure."""
    try:
        return fingerprint(path.read_text())
    except (OSError, ValueError) as error:
        raise Failure("the certificate cannot be read", where=str(path)) from error
    except Failure as failure:
        failure.where = str(path)
        raise


def context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """To serve with them, in TLS 1.3; ``key`` is None if it is in the same file. Raises Failure."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        # An encrypted key would be asked for on the terminal.
        found.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Failure(
            "this certificate cannot be served with",
            where=f"{certificate}, {key}" if key else str(certificate),
            hint="certificate and its key, both PEM, the key without a passphrase",
        ) from error
    return found


def _alternative(name: str) -> str:
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(folder: Path, arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failure(
            "a certificate is made by openssl, which is not here", hint="install the package openssl"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Failure(f"openssl cannot make a certificate: {said[-1] if said else done.returncode}")
