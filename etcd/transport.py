"""One JSON request to one of several endpoints: pooling, failover, and the classification of errors.

The rule of failover: a request that only reads, or may safely happen twice, goes to the next endpoint after any error.
A write does so only if the connection was never made; once sent it may have been applied, and the caller has to check
(:attr:`~etcd.errors.Unavailable.maybe_applied`).
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from etcd import handshake
from etcd.connection import BrokenError, NotConnectedError, Pool
from etcd.errors import EtcdError, Unavailable, Untrusted
from etcd.refusals import refusal
from etcd.wire import Json
from terminal import record

# A peer that vanished (power, cable) is noticed after 10 + 3 * 5 seconds, on connections where we only listen, too.
KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]

_CONNECTIONS_MAX = 8  # kept per endpoint; more are opened when needed, and dropped afterwards


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS: the trusted CA, and our certificate and key.

    PEM files; the key is read once, when the client is made."""

    cafile: str
    certfile: str = ""
    keyfile: str = ""

    def context(self) -> ssl.SSLContext:
        """The context for connections. Raises EtcdError that names the file at fault."""
        try:
            context = _context(self.cafile)
        except (OSError, ssl.SSLError) as error:
            raise EtcdError(
                "cannot load the certificate authority", where=self.cafile, hint="check the path and that it is PEM"
            ) from error
        if self.certfile:
            try:
                context.load_cert_chain(self.certfile, self.keyfile or None)
            except (OSError, ssl.SSLError) as error:
                raise EtcdError(
                    "cannot load the client certificate or its key",
                    where=f"{self.certfile}, {self.keyfile}",
                    hint="check that both files exist, can be read by this user, and belong together",
                ) from error
        return context


def _context(cafile: str | None = None) -> ssl.SSLContext:
    """Without a file the system's authorities are trusted."""
    context = ssl.create_default_context(cafile=cafile)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one member (or a proxy of the cluster) listens for clients."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """``http://host:port`` or ``https://host:port``; EtcdError otherwise."""
        wrong = EtcdError("not an etcd endpoint", where=url, hint="write http://HOST:PORT or https://HOST:PORT")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
            (parts.hostname or "").encode("idna")  # as every connection does, where a name that cannot be is a surprise
        except ValueError as error:
            raise wrong from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise wrong
        return cls(parts.scheme, parts.hostname, port or 2379)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Transport:
    """Sends requests; thread-safe. Remembers the endpoint that answered last, and begins there."""

    def __init__(self, endpoints: Sequence[str], *, timeout: float, tls: Tls | None) -> None:
        if not endpoints:
            raise EtcdError("no etcd endpoint given", hint="name at least one, such as http://127.0.0.1:2379")
        self.endpoints = tuple(Endpoint.parse(endpoint) for endpoint in endpoints)
        self.timeout = timeout
        self.context = tls.context() if tls is not None else None
        self._current = 0
        self._pools: dict[Endpoint, Pool] = {}

    def order(self) -> list[tuple[int, Endpoint]]:
        """All endpoints with their index, the one that answered last first."""
        indexed = list(enumerate(self.endpoints))
        return indexed[self._current :] + indexed[: self._current]

    def prefer(self, index: int) -> None:
        """Begin with this endpoint from now on."""
        self._current = index

    def call(self, path: str, request: Json, *, resend: bool) -> Json:
        """POST ``request``, return the answer. ``resend``: it may reach etcd twice without harm."""
        trouble: Unavailable | None = None
        reached = False
        for index, endpoint in self.order():
            try:
                answer = self.call_at(endpoint, path, request)
            except Unavailable as error:
                if error.maybe_applied and not resend:
                    raise
                trouble = error
                reached = reached or error.reached
                continue
            self._current = index
            return answer
        assert trouble is not None
        if isinstance(trouble, Untrusted):
            raise trouble
        if len(self.endpoints) == 1:
            raise Unavailable(
                trouble.message, where=trouble.where, hint=trouble.hint, code=trouble.code, reached=reached
            ) from trouble.__cause__
        raise Unavailable(
            "no endpoint of etcd answered", where=", ".join(map(str, self.endpoints)), reached=reached
        ) from trouble

    def call_at(self, endpoint: Endpoint, path: str, request: Json) -> Json:
        """POST ``request`` to this endpoint only.

        Raises Unavailable (``maybe_applied`` unless it cannot be), EtcdError."""
        where = str(endpoint)
        try:
            status, body = self._pool(endpoint).request("POST", path, json.dumps(request).encode())
        except NotConnectedError as error:
            raise self.trouble(endpoint, "cannot connect to etcd", error.__cause__) from error
        except BrokenError as error:
            cause, message = error.__cause__, "etcd did not answer"
            raise self.trouble(endpoint, message, cause, unanswered=error.unanswered, maybe_applied=True) from error
        return understand(where, status, body, request)

    def trouble(
        self,
        endpoint: Endpoint,
        message: str,
        error: BaseException | None,
        *,
        unanswered: bool = False,
        maybe_applied: bool = False,
    ) -> Unavailable:
        """The failure for ``error`` of a connection: ``message``, or what is wrong with TLS, which etcd is asked for if
        it ended the connection ``unanswered``."""
        where, context = str(endpoint), self.context_of(endpoint)
        found = handshake.explained(error)
        if found is not None:
            return Untrusted(found.message, where=where, hint=found.hint)  # no request of a refused client is read
        if unanswered or (isinstance(error, ssl.SSLEOFError) and not maybe_applied):
            found = handshake.asked(endpoint.host, endpoint.port, context, timeout=self.timeout)
        if found is not None:
            return Untrusted(found.message, where=where, hint=found.hint, maybe_applied=maybe_applied)
        return Unavailable(message, where=where, maybe_applied=maybe_applied)

    def context_of(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        """What connections to ``endpoint`` are made with; None for one without TLS."""
        if endpoint.scheme != "https":
            return None
        if self.context is None:
            self.context = _context()
        return self.context

    def healthy_at(self, endpoint: Endpoint) -> bool:
        """Whether the member behind ``endpoint`` has a leader and can read through it."""
        try:
            status, body = self._pool(endpoint).request("GET", "/health")
            return status == 200 and record.parse(body).get("health") == "true"
        except (OSError, ValueError, AttributeError):
            return False

    def close(self) -> None:
        """Close the idle connections."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, endpoint: Endpoint) -> Pool:
        pool = self._pools.get(endpoint)
        if pool is None:
            made = Pool(
                *(endpoint.host, endpoint.port),
                timeout=self.timeout,
                kept_max=_CONNECTIONS_MAX,
                options=KEEPALIVE,
                context=self.context_of(endpoint),
            )
            pool = self._pools.setdefault(endpoint, made)
        return pool


def understand(where: str, status: int, body: bytes, request: Json) -> Json:
    """The answer in ``body``; raises the error in it. The gateway wraps what it streams in ``result``."""
    try:
        answer = record.parse(body)
    except ValueError as error:
        if status >= 500:
            raise Unavailable(f"etcd answered with HTTP status {status}", where=where, maybe_applied=True) from error
        raise EtcdError(
            f"the answer (HTTP status {status}) is not JSON", where=where, hint="is this the client port of an etcd?"
        ) from error
    if not isinstance(answer, dict):
        raise EtcdError("the answer is not a JSON object", where=where, hint="is this the client port of an etcd?")
    if "error" in answer or status != 200:
        raise error_in(where, answer, request)
    result = answer.get("result", answer)
    if not isinstance(result, dict):
        raise EtcdError("the result in the answer is not a JSON object", where=where)
    return result


def error_in(where: str, answer: Json, request: Json) -> EtcdError:
    """The error in an answer of the gateway: flat, or nested when it was streamed."""
    nested = answer.get("error")
    fields = nested if isinstance(nested, dict) else answer
    code = fields.get("code", fields.get("grpc_code", 0))
    message = str(fields.get("message") or fields.get("error") or "no reason given")
    lease = int(request.get("lease") or request.get("ID") or 0)
    return refusal(message, where=where, code=code if isinstance(code, int) else 0, lease=lease)
