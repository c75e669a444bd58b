"""``trust serve``: the issuer, at which nodes enrol and renew, and read what was revoked. HTTPS by the bounded server.

It keeps nothing but the trust folder, so a kill costs nothing, and other commands may use the folder meanwhile. What it
speaks: enrolment/protocol.py.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from enrolment import protocol
from terminal import Failure
from trust import certificate, enrolling, folder, profile
from trust.names import Address
from trust.nonces import Nonces
from webserver.message import Request, Response
from webserver.server import Server, Site, listen

_JSON: Final = "application/json"
_POSTS: Final = {protocol.ENROL: enrolling.enrol, protocol.RENEW: enrolling.renew}
_GETS: Final = (protocol.AUTHORITY, protocol.NONCE, protocol.LISTS_PATH, protocol.HEALTH)


class Issuer:
    """An issuer in threads of this process, for the trust folder ``path``.

    It listens at ``address`` and ``port`` (0: any free one); ``names`` are names and addresses of this machine at which
    nodes reach it. ``say`` gets a line for each request that issues, or is refused. ``now`` is the clock.
    """

    def __init__(
        self,
        path: Path,
        address: str,
        port: int,
        names: tuple[Address | str, ...],
        *,
        say: Callable[[str], None] = lambda _: None,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self._path = path
        self._listen = address, port
        self._names = names
        self._say = say
        self._now = now
        self._nonces = Nonces()
        self._server: Server | None = None
        self._authority = ""

    def start(self) -> None:
        """Make the issuer's certificate if need be, listen and serve. Raises Failure."""
        own = enrolling.of_issuer(self._path, self._names, now=self._now())
        with folder.opened(self._path, to_write=False) as store:
            self._authority = store.certificate(profile.FLEET)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(own)
        where = f"{self._listen[0]}:{self._listen[1]}"
        try:
            listening = listen(self._listen)
        except socket.gaierror as error:
            raise Failure("not an address of this machine", where=where, hint="such as 127.0.0.1, or ::") from error
        except OSError as error:
            hint = f"choose another port, or see who has it: ss -ltnp 'sport = :{self._listen[1]}'"
            raise Failure("cannot listen for nodes", where=where, hint=hint) from error
        except OverflowError as error:
            raise Failure("not a port", where=where, hint="ports are 1 to 65535") from error
        self._listen = self._listen[0], int(listening.getsockname()[1])
        site = Site(
            handle=self._handle,
            name="trust",
            log=lambda _peer, _line: None,  # what is worth a line is said where it is known
            refuse=lambda status, message: _refusal(status, message or HTTPStatus(status).phrase, None),
            methods=("GET", "POST"),
            body_bytes=protocol.REQUEST_BYTES_MAX,
            connections=256,
            connections_client=32,
            queue_s=2.0,
        )
        self._server = Server(listening, site, tls=context)
        self._server.start()

    def stop(self) -> None:
        """Stop listening, drop all connections. The state is on the disk already."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listen[1]

    @property
    def fingerprint(self) -> str:
        """What nodes pin their connection to: SHA-256 of the authority's DER."""
        return certificate.facts(self._authority).fingerprint

    def _handle(self, request: Request) -> Response:
        path = request.target
        if request.method == "POST" and path in _POSTS:
            return self._post(request, path)
        if request.method != "GET" or path not in _GETS:
            return _refusal(HTTPStatus.NOT_FOUND, "there is nothing of this name", None)
        if path == protocol.AUTHORITY:
            return Response(200, self._authority.encode(), "application/x-pem-file")
        if path == protocol.NONCE:
            return Response(200, self._nonces.new().encode())
        try:
            with folder.opened(self._path, to_write=False) as store:
                if path == protocol.HEALTH:
                    for each in profile.AUTHORITIES:
                        store.authority(each)
                    return Response(200, b'{"v": 1, "ok": true}\n', _JSON)
                lists = {profile.crl_file(each): store.published(each) for each in profile.AUTHORITIES}
        except Failure as failure:
            return self._trouble(failure)
        body = protocol.Lists(protocol.VERSION, lists).dump()
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
        return Response(200, body, _JSON, {"ETag": tag})

    def _post(self, request: Request, path: str) -> Response:
        peer = _address(request.peer)
        try:
            signature = base64.b64decode(request.headers.get(protocol.SIGNATURE.lower(), ""), validate=True)
            asked = protocol.request(request.body)
        except (ValueError, Failure):
            return _refusal(HTTPStatus.BAD_REQUEST, "not the request of a node, or not signed", None)
        name = asked.name if asked.name.isprintable() else "?"
        what = f"{path.rpartition('/')[2]} of {name[:64]} from {peer}"
        if not self._nonces.take(asked.nonce):
            self._say(f"{what}: refused: it was made too long ago, or before")
            hint = "a request is for once: ask for another nonce, and sign again"
            return _refusal(HTTPStatus.CONFLICT, "this request was made too long ago, or before", hint)
        try:
            given = _POSTS[path](self._path, request.body, signature, peer, now=self._now())
        except enrolling.Refused as refused:
            self._say(f"{what}: refused: {refused.on_one_line}")
            return _refusal(refused.status, str(refused), refused.hint)
        except Failure as failure:
            self._say(f"{what}: failed")
            return self._trouble(failure)
        self._say(f"{what}: certificates until {given.not_after}")
        return Response(200, given.dump(), _JSON)

    def _trouble(self, failure: Failure) -> Response:
        """What is wrong here is for our log; the node tries again."""
        self._say(failure.on_one_line)
        return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the issuer has trouble with its trust folder", "see its log")


def _refusal(status: int, message: str, hint: str | None) -> Response:
    return Response(status, protocol.refusal(message, hint), _JSON)


def _address(text: str) -> str:
    """The address that a connection comes from, without zone, and IPv4 as such."""
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
