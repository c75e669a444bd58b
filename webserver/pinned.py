"""TLS 1.3 to a server that is known by the SHA-256 of its certificate (DER), and by nothing else.

Authorities and names do not count then: whoever has the key of that one certificate is the server. It must be valid.
For nodes: standard library only.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from http.client import HTTPSConnection
from typing import Final

from terminal import Failure

_HINT: Final = "whoever runs the service says which is right; nothing is sent to this one"
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_* of openssl/x509_vfy.h


def context(fingerprint: str, connection: Callable[[ssl.SSLContext], HTTPSConnection]) -> ssl.SSLContext:
    """What trusts the certificate with this ``fingerprint`` (hexadecimal), and no other.

    A first ``connection`` is made, over which nothing is sent, to get the certificate. Raises Failure if there is
    another one, and OSError; :func:`refusal` knows what one of a later connection means.
    """
    look = _context()
    look.verify_mode = ssl.CERT_NONE
    first = connection(look)
    try:
        first.connect()
        assert isinstance(first.sock, ssl.SSLSocket)
        shown = first.sock.getpeercert(binary_form=True) or b""
    finally:
        first.close()
    if hashlib.sha256(shown).hexdigest() != fingerprint.lower():
        raise _other()
    found = _context()
    found.load_verify_locations(cadata=shown)
    found.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is trusted itself, whoever has signed it
    return found


def refusal(error: BaseException, *, is_pinned: bool = True) -> Failure | None:
    """What ``error``, of such a connection, means for people; None if it is no matter of TLS.

    ``is_pinned``: else it was one to a server that an authority of this machine is to vouch for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return Failure(
                "the certificate of the service has expired",
                hint="give it a new one, and its clients the new fingerprint; or is the clock of this machine wrong?",
            )
        if error.verify_code == _NOT_YET:
            return Failure("the certificate of the service is not valid yet", hint="check the clocks of both machines")
        if is_pinned:
            return _other()
        return Failure(
            "the certificate of the service is of no authority that this machine knows, or for another name",
            hint="pin it: its URL ends in #sha256= and the fingerprint",
        )
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in _NO_TLS:
        return Failure(
            "this port speaks no TLS, and nothing is sent without",
            hint="name the port on which the service speaks TLS, or have it speak TLS there",
        )
    if "PROTOCOL_VERSION" in reason:
        return Failure("the service does not speak TLS 1.3", hint="nothing is sent with less")
    return None


def _other() -> Failure:
    return Failure("the service shows another certificate than the one that is pinned", hint=_HINT)


def _context() -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.check_hostname = False
    return found
