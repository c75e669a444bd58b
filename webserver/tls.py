"""A server's side of mutual TLS: the context that its certificates make, and why a handshake failed.

The files are looked at with each connection: a renewed certificate, another authority and a new list of revoked ones
count from the next connection on, without a restart and without a timer.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from terminal import Failure
from webserver.message import Certificate, Response

_PLAIN_HTTP: Final = "HTTP_REQUEST"
"""OpenSSL's reason for a request without TLS."""
_USE_TLS: Final = "this port speaks TLS: write https://, and name authority, certificate and key"
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: with forward secrecy and authenticated encryption; TLS 1.3 has no others."""
_AGAIN_S = 60.0
_NOTED_MAX = 256
_LOG = logging.getLogger(__name__)

# X509_V_ERR_* of openssl/x509_vfy.h: what we have against the client's certificate.
_OURS: Final = {
    3: "there is no list of what its authority has revoked",
    9: "its certificate is not valid yet; check the clocks of both machines",
    10: "its certificate has expired",
    12: "the list of revoked certificates has expired",
    18: "its certificate is of an authority that this API does not know",
    19: "its certificate is of an authority that this API does not know",
    20: "its certificate is of an authority that this API does not know",
    23: "its certificate was revoked",
    26: "its certificate is not one of a client",
}
# Alerts of RFC 8446 6.2, as OpenSSL calls them: what the client has against ours.
_THEIRS: Final = {
    "UNKNOWN_CA": "it does not know the authority of our certificate",
    "BAD_CERTIFICATE": "it does not accept our certificate, which may be for other addresses",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate, which may be for other addresses",
    "CERTIFICATE_EXPIRED": "our certificate has expired for it; check the clocks of both machines",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
}


class Files(NamedTuple):
    """Paths of PEM files: whom to believe, whom no longer, and what the server shows."""

    authority: str
    revoked: str
    certificate: str
    key: str


class Tls:
    """The context of ``files``: clients need a certificate of the authority, for clients, that is not revoked.

    Thread-safe. ``minimum`` is the lowest version of TLS."""

    def __init__(self, files: Files, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.files = files
        self._minimum = minimum
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._loaded: object = None
        self._complaint = ""

    def __call__(self) -> ssl.SSLContext:
        """The context of the files as they are now: the same object as long as they are.

        Files that do not belong together, or are not there, leave the last one in use: they may be half replaced.
        Raises :class:`Failure` if there was none yet."""
        with self._lock:
            try:
                seen = [_identity(path) for path in self.files]
                if self._context is None or seen != self._loaded:
                    self._context, self._loaded = self._made(), seen
                self._complaint = ""
                return self._context
            except (OSError, ValueError) as error:  # ssl's are OSErrors
                failure = Failure(
                    f"these certificates cannot be used: {_shown(error)}",
                    where=os.path.dirname(self.files.certificate),  # noqa: PTH120 - a text goes in and out
                    hint="put certificate, key, authority and list there; they are read at the next connection",
                )
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    _LOG.error("%s", failure.on_one_line)
                if self._context is None:
                    raise failure from error
                return self._context

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.set_ciphers(_CIPHERS)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF | ssl.VerifyFlags.VERIFY_X509_STRICT
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0  # a session that is taken up again is not checked again
        context.load_cert_chain(self.files.certificate, self.files.key)
        context.load_verify_locations(self.files.authority)
        context.load_verify_locations(self.files.revoked)
        return context


def present(files: Files) -> bool:
    """Whether there is any of ``files``: then plain text is none of the choices."""
    return any(map(os.path.exists, files))


class Handshakes:
    """Those of one server. What it has against a client is in its log once a minute for each client and reason."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._noted: dict[tuple[str, str], float] = {}  # and when that was

    def agree(self, connection: ssl.SSLSocket) -> Certificate | None:
        """The client's certificate, if it was asked for one. Raises OSError."""
        connection.do_handshake()
        return _certificate_of(connection)

    def failed(self, client: str, error: BaseException) -> bool:
        """After this error of a handshake; False if the client just went away."""
        reason = explained(error)
        if not reason:
            return False
        now = time.monotonic()
        if now - self._noted.get((client, reason), -_AGAIN_S) >= _AGAIN_S:
            if len(self._noted) >= _NOTED_MAX:
                self._noted.clear()
            self._noted[client, reason] = now
            _LOG.warning("%s refuses %s: %s", self._server, client, reason)
        return True

    @staticmethod
    def answer(error: BaseException, refuse: Callable[[int, str], Response | None]) -> bytes:
        """What a client that speaks plain HTTP can read, in the shape of :attr:`webserver.server.Site.refuse`.

        Nothing for others: they have TLS's alert."""
        if not isinstance(error, ssl.SSLError) or error.reason != _PLAIN_HTTP:
            return b""
        response = refuse(400, _USE_TLS) or Response(400, f"{_USE_TLS}\n".encode())
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {response.content_type}\r\nConnection: close\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(response.body), response.body)


def explained(error: BaseException) -> str:
    """Why a handshake failed, from this side; empty if the client just went away."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OURS.get(error.verify_code, f"its certificate does not pass: {error.verify_message}")
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return ""
    reason = error.reason or ""
    if reason == _PLAIN_HTTP:
        return "it speaks plain HTTP, and this port TLS"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate"
    if reason in ("UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "NO_PROTOCOLS_AVAILABLE"):
        return "it speaks no version of TLS, or no cipher, that this port takes"
    _, is_alert, alert = reason.partition("ALERT_")
    if is_alert:
        return _THEIRS.get(alert, f"it ends the handshake: {alert.lower().replace('_', ' ')}")
    return "it speaks no TLS"


def _identity(path: str) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116 - with each connection
    return found.st_ino, found.st_mtime_ns, found.st_size


def _shown(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate in PEM").lower().replace("_", " ")
    if isinstance(error, OSError) and error.filename:
        return f"{os.path.basename(error.filename)}: {error.strerror}"  # noqa: PTH119
    return str(error)


def _certificate_of(connection: ssl.SSLSocket) -> Certificate | None:
    """What the client showed and the handshake has checked."""
    found = connection.getpeercert()
    if not found:
        return None
    subject: dict[str, list[str]] = {}
    for part in cast("tuple[tuple[tuple[str, str], ...], ...]", found.get("subject", ())):
        for key, value in part:
            subject.setdefault(key, []).append(value)
    # Several names are none, and so are several roles.
    names = {key: values[0] for key, values in subject.items() if len(values) == 1}
    return Certificate(
        name=names.get("commonName", ""),
        role=names.get("organizationName", ""),
        serial=f"{int(str(found['serialNumber']), 16):x}",
        ends=float(ssl.cert_time_to_seconds(str(found["notAfter"]))),
    )
