"""Why no TLS connection comes about, as a message with the next step for the side that can do something.

In TLS 1.3 a client that the server refuses learns so after its first request is on the way, and a request that meets a
closed connection hides the server's alert. So :func:`asked` connects once more, sends nothing, and reads.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final, NamedTuple

ASK_S: Final = 5.0
"""Seconds that a server has to turn us away: one that lets us in says nothing."""


class Trouble(NamedTuple):
    """What is wrong, and what to do."""

    message: str
    hint: str


_RENEW = "renew it (trust renew), and check the clocks of both machines"
_JOURNAL = "its journal says why ('rejected connection')"

# X509_V_ERR_* of openssl/x509_vfy.h: what we have against the server's certificate.
_OURS: Final = {
    9: Trouble("etcd's certificate is not valid yet", "check the clocks of both machines"),
    10: Trouble("etcd's certificate has expired", _RENEW),
    23: Trouble("etcd's certificate was revoked", "this may not be the machine that it was"),
    26: Trouble("etcd shows a certificate that is no server's", "give it etcd-server.crt (--cert-file)"),
    62: Trouble("etcd's certificate is for other names", "use an endpoint that is in it, or issue one with this name"),
    64: Trouble(
        "etcd's certificate is for other addresses", "use an endpoint that is in it, or issue one with this one"
    ),
}
_OTHER_AUTHORITY: Final = Trouble(
    "etcd's certificate is of an authority that we do not know",
    "name the one of this cluster's etcd clients: etcd-clients-ca.crt",
)
# Alerts of RFC 8446 6.2, as OpenSSL calls them: what the server has against us.
_THEIRS: Final = {
    "CERTIFICATE_REQUIRED": Trouble(
        "etcd asks for a certificate, and this client has none", "name certificate and key beside the authority"
    ),
    "UNKNOWN_CA": Trouble(
        "etcd does not know the authority of our certificate",
        "it takes those of its clients' authority only (etcd-client.crt): a peer's, and another cluster's, are refused",
    ),
    "CERTIFICATE_EXPIRED": Trouble("our certificate has expired for etcd, or is not valid yet", _RENEW),
    "CERTIFICATE_REVOKED": Trouble("our certificate was revoked", "issue a new one (trust issue)"),
    "PROTOCOL_VERSION": Trouble("etcd speaks no version of TLS that we do", "TLS 1.3 is needed on both sides"),
}
_REFUSED: Final = Trouble("etcd does not accept our certificate as a client's", f"use etcd-client.crt; {_JOURNAL}")
_DROPPED: Final = Trouble(
    "etcd ends the connection when it has seen our certificate",
    "either the certificate was revoked, or this port is for gRPC alone: then name the one of "
    f"--listen-client-http-urls, which has etcd's JSON; {_JOURNAL}",
)
_NO_TLS: Final = Trouble(
    "this port speaks no TLS", "we do not go on without: start etcd with https:// in --listen-client-urls"
)
_ONLY_TLS: Final = Trouble(
    "this port speaks TLS, and the endpoint says http://", "write https://, and name authority, certificate and key"
)


def explained(error: BaseException | None) -> Trouble | None:
    """What ``error``, of a TLS connection, says; None if it says nothing about TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OURS.get(error.verify_code, _OTHER_AUTHORITY)
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return _NO_TLS
    _, is_alert, alert = reason.partition("ALERT_")
    if not is_alert:
        return None
    return _THEIRS.get(alert, _REFUSED if "CERTIFICATE" in alert else None)


def asked(host: str, port: int, context: ssl.SSLContext | None, *, timeout: float) -> Trouble | None:
    """What a server says that closed a connection without an answer; ``context`` is None for one without TLS.

    None if it says nothing within ``timeout`` or :data:`ASK_S` seconds, or is gone. Raises nothing.
    """
    seconds = min(timeout, ASK_S)
    try:
        with socket.create_connection((host, port), seconds) as plain:
            if context is None:
                return _ONLY_TLS if _speaks_tls(plain) else None
            try:
                secure = context.wrap_socket(plain, server_hostname=host)
            except ssl.SSLError as error:
                # A server of plain HTTP takes the hello for a request, and answers or hangs up.
                return explained(error) or (_NO_TLS if isinstance(error, ssl.SSLEOFError) else None)
            with secure:
                return None if secure.recv(1) else _DROPPED
    except TimeoutError:
        return None
    except (ConnectionResetError, ssl.SSLEOFError):
        return _DROPPED if context is not None else None
    except (OSError, ValueError) as error:
        return explained(error)


def _speaks_tls(plain: socket.socket) -> bool:
    """Whether what answers there answers in TLS, in whatever way. Nothing is sent over it: it need not be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
