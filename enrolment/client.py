"""A node's connection to its issuer, pinned to the authority whose fingerprint user-data names.

The first request, over TLS that checks nothing, brings the authority's certificate, and nothing is sent but that it is
asked for: its SHA-256 must be the fingerprint. From then on that authority is the only one that counts, and what it has
signed must be an issuer's certificate for the host in the URL.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from enrolment import protocol
from enrolment.target import Target
from terminal import Failure

_TIMEOUT_S: Final = 20.0
_AUTHORITY_BYTES_MAX: Final = 16 << 10
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which Python has no name."""


class Unreachable(Failure):
    """The issuer does not answer, or not now: it is worth to try again soon."""


class Refused(Failure):
    """The issuer answered, and it is no."""


class Issuer:
    """An issuer. With ``any_time`` no certificate is too early or too late, for a node whose clock is certainly wrong.

    Each method raises Unreachable, Refused, and Failure for what is no issuer, or another one.
    """

    def __init__(self, target: Target, *, any_time: bool = False, timeout_s: float = _TIMEOUT_S) -> None:
        self._target = target
        self._any_time = any_time
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None
        self.own_address = ""
        """That of this machine on the last connection."""

    def nonce(self) -> str:
        """The word that the next request has in it."""
        return self._ask("GET", protocol.NONCE)[1].decode("ascii", "replace")

    def post(self, path: str, body: bytes, signature: bytes) -> protocol.Answer:
        """Enrol or renew."""
        headers = {protocol.SIGNATURE: base64.b64encode(signature).decode(), "Content-Type": "application/json"}
        return protocol.answer(self._ask("POST", path, body, headers)[1])

    def lists(self, known: str) -> tuple[str, protocol.Lists | None]:
        """The lists of revoked certificates, None if they are those that had the tag ``known``; and their tag."""
        response, body = self._ask("GET", protocol.LISTS_PATH, headers={"If-None-Match": known} if known else {})
        if response.status == http.HTTPStatus.NOT_MODIFIED:
            return known, None
        return response.headers.get("ETag", ""), protocol.lists(body)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        if self._context is None:
            self._context = self._pinned()
        response, data = self._request(self._context, method, path, body, headers or {})
        if response.status < 400:
            return response, data
        message, hint = protocol.reason(data)
        if response.status >= 500 or response.status == http.HTTPStatus.TOO_MANY_REQUESTS or not message:
            raise Unreachable(
                message or f"the issuer answers with HTTP status {response.status}",
                where=self._target.url,
                hint=hint or None,
            )
        raise Refused(message, where=self._target.url, hint=hint or None)

    def _pinned(self) -> ssl.SSLContext:
        """The context that trusts the authority of that fingerprint alone."""
        anyone = _context()
        anyone.check_hostname = False
        anyone.verify_mode = ssl.CERT_NONE
        response, data = self._request(anyone, "GET", protocol.AUTHORITY, None, {})
        try:
            authority = ssl.PEM_cert_to_DER_cert(data[:_AUTHORITY_BYTES_MAX].decode("ascii").strip())
        except ValueError as error:
            what = f"HTTP status {response.status}"
            raise Failure(
                f"what answers is no issuer ({what})",
                where=self._target.url,
                hint="give the URL that 'trust serve' prints",
            ) from error
        found = hashlib.sha256(authority).hexdigest()
        if found != self._target.fingerprint:
            raise Failure(
                f"this is another issuer than the one that is expected: its authority's fingerprint is {found}",
                where=self._target.url,
                hint=f"expected is {self._target.fingerprint}; 'trust serve' prints the right one. "
                "If the issuer was not changed, something on the way poses as it",
            )
        context = _context()
        # Those very octets, not the text that they were read from.
        context.load_verify_locations(cadata=authority)
        if self._any_time:
            context.verify_flags |= _NO_CHECK_TIME
        return context

    def _request(
        self, context: ssl.SSLContext, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        parts = urlsplit(self._target.url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=self._timeout_s, context=context
        )
        try:
            connection.connect()
            self._check_peer(connection.sock)
            self.own_address = str(connection.sock.getsockname()[0])
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response, response.read(protocol.ANSWER_BYTES_MAX)
        except ssl.SSLCertVerificationError as error:
            raise _not_verified(self._target.url, error) from error
        except ssl.SSLError as error:
            raise Unreachable(
                "no TLS connection to the issuer",
                where=self._target.url,
                hint="is it 'trust serve' that listens there?",
            ) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Unreachable(
                "the issuer does not answer",
                where=self._target.url,
                hint="see that 'trust serve' runs, and that this machine reaches it",
            ) from error
        finally:
            connection.close()

    def _check_peer(self, connection: socket.socket) -> None:
        """A node has certificates of the same authority, and is no issuer."""
        assert isinstance(connection, ssl.SSLSocket)
        if connection.context.verify_mode == ssl.CERT_NONE:
            return
        subject: Any = (connection.getpeercert() or {}).get("subject", ())
        if dict(pair for name in subject for pair in name).get("organizationName") != protocol.ORGANIZATION:
            raise Failure(
                "what answers has a certificate of this authority, and is no issuer",
                where=self._target.url,
                hint="something poses as the issuer: look whose certificate it is, and revoke it",
            )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _not_verified(url: str, error: ssl.SSLCertVerificationError) -> Failure:
    found = f"the issuer's certificate is not accepted: {error.verify_message or error}"
    return Failure(
        found, where=url, hint="the host in the URL must be one that 'trust serve' was given; check both clocks"
    )
