"""Keys and requests for certificates by ``openssl``: a node has no library for that.

A private key comes out of a pipe and goes into a file of ours; it is in no argument and no environment.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from terminal import Failure

OPENSSL: Final = "/usr/bin/openssl"
_CURVE: Final = ("-pkeyopt", "ec_paramgen_curve:P-256")
_STDOUT: Final = "/proc/self/fd/1"
_TIMEOUT_S: Final = 120.0
"""An emulated processor that is starved takes seconds."""
_END: Final = "-----END PRIVATE KEY-----\n"


def new() -> str:
    """A new private key in PEM, ECDSA over P-256. Raises Failure."""
    return _openssl("genpkey", "-algorithm", "EC", *_CURVE).decode()


def new_with_request(name: str) -> tuple[str, str]:
    """A new private key, and a request for a certificate of ``name``, a host name, with it; both in PEM.

    Raises Failure."""
    # The two in one stream, the key first: half of the processes.
    made = _openssl(
        *("req", "-new", "-newkey", "ec", *_CURVE, "-nodes", "-keyout", _STDOUT, "-out", _STDOUT),
        *("-subj", f"/CN={name}", "-config", "/dev/null"),
    ).decode()
    key, end, request = made.partition(_END)
    if not end or not request.startswith("-----BEGIN CERTIFICATE REQUEST-----"):
        raise Failure("openssl did not make a key and a request", where=OPENSSL)
    return key + end, request


def public(key: Path) -> str:
    """The public half of the private key in a file, in PEM. Raises Failure."""
    return _openssl("pkey", "-in", str(key), "-pubout").decode()


def sign(key: Path, data: bytes) -> bytes:
    """An ECDSA signature over ``data`` (SHA-256, DER), by the private key in a file. Raises Failure."""
    return _openssl("dgst", "-sha256", "-sign", str(key), given=data)


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            (OPENSSL, *arguments),
            input=given,
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_S,
            env={"OPENSSL_CONF": "/dev/null", "LC_ALL": "C.UTF-8"},
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        raise Failure(f"openssl {arguments[0]} failed: {lines[-1]}", where=OPENSSL) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"openssl {arguments[0]} cannot be run", where=OPENSSL) from error
    return done.stdout
