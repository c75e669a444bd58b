"""Where an API listens, how to connect to it, and why no connection comes about.

Over TCP both sides show certificates, or it is plain HTTP because the address says so: there is no way from one to the
other.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from terminal import Failure, UsageFailure
from webserver.unix import UnixConnection

_HINT: Final = "use unix:///run/fleet.sock, https://HOST:2378 or http://HOST:PORT"


class Credentials(NamedTuple):
    """Paths of PEM files: whom to believe, and what to show. All three, or none: then they are empty."""

    authority: str = ""
    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with them, read once. Raises :class:`Failure`."""
        return _context(self)


NO_CREDENTIALS: Final = Credentials()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API listens: ``path`` of a unix socket, or ``host`` and ``port``, over TLS if it is ``secure``."""

    host: str
    port: int = 80
    path: str = ""
    secure: bool = False

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``unix:///path`` or ``http[s]://host[:port]``; raises :class:`UsageFailure` for anything else."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageFailure(f"not an endpoint: {error}", where=text, hint=_HINT) from None
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.startswith("/"):
                raise UsageFailure("a unix endpoint takes an absolute path after unix://", where=text, hint=_HINT)
            return cls("localhost", path=parts.path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageFailure("not an endpoint", where=text, hint=_HINT)
        if parts.path not in ("", "/") or parts.query or parts.username:
            raise UsageFailure(f"an {parts.scheme} endpoint is a host and a port, nothing more", where=text, hint=_HINT)
        is_secure = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_secure else 80), secure=is_secure)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix://{self.path}" if self.path else f"http{'s' * self.secure}://{host}:{self.port}"

    def connection(self, timeout_s: float, credentials: Credentials = NO_CREDENTIALS) -> http.client.HTTPConnection:
        """A connection that is opened by the caller. Raises :class:`Failure`: the files are no certificates."""
        if self.path:
            return UnixConnection(self.path, timeout_s=timeout_s)
        if self.secure:
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=credentials.context())
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)


def parse_endpoints(text: str, credentials: Credentials) -> tuple[Endpoint, ...]:
    """Read a comma-separated list, of several nodes of one cluster. Raises :class:`UsageFailure`."""
    found = tuple(Endpoint.parse(each.strip()) for each in text.split(",") if each.strip())
    if not found:
        raise UsageFailure("no endpoint", where=repr(text), hint=_HINT)
    _check(found, credentials)
    return found


def _check(endpoints: Sequence[Endpoint], credentials: Credentials) -> None:
    given = any(credentials)
    for endpoint in endpoints:
        if endpoint.secure and not all(credentials):
            raise UsageFailure(
                "the API shows a certificate and asks for one",
                where=str(endpoint),
                hint="give all three of --ca-file, --cert-file and --key-file, which are in the folder of 'trust issue "
                "--user': fleet-ca.crt, fleet-client.crt, fleet-client.key; or choose a --context",
            )
        if given and not endpoint.secure and not endpoint.path:
            raise UsageFailure(
                "there are certificates, and the endpoint is plain HTTP", where=str(endpoint), hint="write https://"
            )


@lru_cache(maxsize=8)
def _context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    for load, paths, what in (
        (context.load_verify_locations, (credentials.authority,), "authority (--ca-file)"),
        (context.load_cert_chain, credentials[1:], "certificate and key (--cert-file, --key-file)"),
    ):
        try:
            load(*paths)
        except OSError as error:  # ssl's are some
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            raise Failure(
                f"the {what} cannot be used: {(reason or 'not PEM').lower().replace('_', ' ')}",
                where=" ".join(paths),
                hint="'trust issue --user' and 'trust renew --user' make these files",
            ) from error
    return context


class Trouble(NamedTuple):
    """What is wrong, and what to do."""

    message: str
    hint: str


_CLOCKS: Final = "check the clocks of both machines"
# X509_V_ERR_* of openssl/x509_vfy.h: what we have against the server's certificate.
_OURS: Final = {
    9: Trouble("the API's certificate is not valid yet", _CLOCKS),
    10: Trouble("the API's certificate has expired", f"renew it (trust renew --node), and {_CLOCKS}"),
    23: Trouble("the API's certificate was revoked", "this may not be the machine that it was"),
    26: Trouble("the API shows a certificate that is no server's", "give the node its fleet-server.crt"),
    62: Trouble("the API's certificate is for other names", "use an address that is in it, or issue one with this"),
    64: Trouble("the API's certificate is for other addresses", "use one that is in it, or issue one with this"),
}
_OTHER_AUTHORITY: Final = Trouble(
    "the API's certificate is of an authority that we do not know",
    "--ca-file is fleet-ca.crt of this cluster; is it this cluster's address?",
)
# Alerts of RFC 8446 6.2, as OpenSSL calls them: what the server has against us.
_THEIRS: Final = {
    "CERTIFICATE_REQUIRED": Trouble("the API asks for a certificate", "give --cert-file and --key-file"),
    "UNKNOWN_CA": Trouble(
        "the API does not know the authority of our certificate",
        "it takes fleet-client.crt of this cluster only: those of etcd, and of other clusters, are refused",
    ),
    "CERTIFICATE_EXPIRED": Trouble("our certificate has expired", f"renew it (trust renew --user), and {_CLOCKS}"),
    "BAD_CERTIFICATE": Trouble("our certificate is not valid yet for the API", _CLOCKS),
    "CERTIFICATE_REVOKED": Trouble("our certificate was revoked", "ask for a new one (trust issue --user)"),
    "UNSUPPORTED_CERTIFICATE": Trouble("our certificate is not a user's", "use fleet-client.crt"),
    "PROTOCOL_VERSION": Trouble("the API speaks no TLS 1.3", "is this fleetd's port? it is 2378"),
}
_REFUSED: Final = Trouble(
    "the API does not accept our certificate", "the journal of fleet.service on that node says why ('refuses')"
)
_NO_TLS: Final = Trouble("this port speaks no TLS", "is this fleetd's port? it is 2378; we do not go on without TLS")


def explained(error: BaseException) -> Trouble | None:
    """What ``error``, of a TLS connection, says; None if it says nothing about TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OURS.get(error.verify_code, _OTHER_AUTHORITY)
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return _NO_TLS
    _, is_alert, alert = reason.partition("ALERT_")
    if not is_alert:
        return None
    return _THEIRS.get(alert, _REFUSED if "CERTIFICATE" in alert else None)
