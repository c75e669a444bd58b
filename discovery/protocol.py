"""The part of etcd's v2 keys API that ``etcd --discovery`` speaks, over a :class:`~discovery.registry.Registry`.

Wire reference: docs/discovery.md. What differs from the public service of old, and why: an answer is 201 only after the registration
is on disk, since etcd never repeats it; a PUT always means "create", since a second event for one member would be counted as one more
member; nothing is ever deleted under a token, for the same reason.
"""

from __future__ import annotations

import ipaddress
import json
import math
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from discovery.client import hidden
from discovery.registry import AlreadyRegistered, Full, Invalid, Registration, UnknownToken
from terminal import Failure

if TYPE_CHECKING:
    from discovery.server import DiscoveryServer

SIZE_DEFAULT = 3
_CONNECTIONS_MAX = 512
_CLIENT_CONNECTIONS_MAX = 64
"""Of one address, loopback excepted: behind it may be the forwards of a whole cluster."""
_CLIENT_TOKENS_MAX = 50
"""How many tokens one address may make in :data:`_TOKENS_PERIOD_S`; loopback is one."""
_TOKENS_PERIOD_S = 3600.0
_BODY_BYTES_MAX = 4096
_REQUEST_TIMEOUT_S = 30.0  # for a request to come and its answer to go; a watch waits longer, but in between
_WELCOME = "An etcd discovery service. A token for three members: GET /new?size=3\n"


class _Code(Enum):
    """Error codes of etcd's v2 API, as far as they are used here."""

    KEY_NOT_FOUND = (100, "Key not found")
    COMPARE_FAILED = (101, "Compare failed")
    NODE_EXISTS = (105, "Key already exists")
    INDEX_NOT_A_NUMBER = (203, "The given index in POST form is not a number")
    INVALID_FIELD = (209, "Invalid field")
    RAFT_INTERNAL = (300, "Raft Internal Error")


class HttpServer(ThreadingHTTPServer):
    """Listens for ``service``, one thread a connection; knows its connections, so that it can drop them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], service: DiscoveryServer) -> None:
        self.service = service
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._lock = threading.Lock()
        self._deadlines: dict[Any, float] = {}  # of connections, by the monotonic clock
        self._clients: dict[Any, str] = {}  # who has each of them
        self._made: dict[str, deque[float]] = {}  # when each client made its tokens
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the name lookup of the base class, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection, refuse one too many."""
        with self._lock:
            client = client_of(client_address[0])
            theirs = sum(each == client for each in self._clients.values()) if client else 0
            refused = len(self._deadlines) >= _CONNECTIONS_MAX or theirs >= _CLIENT_CONNECTIONS_MAX
            if not refused:
                self._clients[request] = client
                self._deadlines[request] = math.inf
        if refused:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._deadlines.pop(request, None)
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def count_token(self, address: str, now: float) -> None:
        """``address`` is about to make a token. Raises Full if it has made too many of late."""
        client = client_of(address) or "loopback"
        with self._lock:
            for one, times in list(self._made.items()):
                while times and times[0] <= now - _TOKENS_PERIOD_S:
                    times.popleft()
                if not times:
                    del self._made[one]
            made = self._made.setdefault(client, deque())
            if len(made) >= _CLIENT_TOKENS_MAX:
                raise Full(f"{_CLIENT_TOKENS_MAX} tokens an hour are the most for one machine")
            made.append(now)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away in the middle is no news; anything else is a bug, and its traceback is printed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def expect(self, connection: Any, seconds: float) -> None:
        """The connection is dropped after ``seconds``, however busily a byte now and then keeps it alive."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Part of every turn of the loop that accepts connections."""
        self.drop_connections(time.monotonic())

    def drop_connections(self, now: float = math.inf, how: int = socket.SHUT_RDWR) -> None:
        """Wake the threads that read or write and are late (or all); each closes its own."""
        with self._lock:
            connections = [one for one, deadline in self._deadlines.items() if deadline <= now]
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(how)

    def finish(self, seconds: float) -> None:
        """Read no more requests, let the answers that are on their way go out, for ``seconds`` at most, and drop what is left."""
        self.drop_connections(how=socket.SHUT_RD)
        end = time.monotonic() + seconds
        while self._deadlines and time.monotonic() < end:
            time.sleep(0.01)
        self.drop_connections()


class _Handler(BaseHTTPRequestHandler):
    """One connection. Paths: ``/new``, ``/health``, ``/TOKEN[/]``, ``/TOKEN/_config/size``, ``/TOKEN/ID``."""

    protocol_version = "HTTP/1.1"
    server_version = "flotilla-discovery"
    sys_version = ""
    timeout = _REQUEST_TIMEOUT_S
    server: HttpServer

    def handle_one_request(self) -> None:
        """With a limit for the whole of a request; that of the socket is one for each piece of it."""
        self.server.expect(self.connection, _REQUEST_TIMEOUT_S)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815 - names of the base class

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is given
        """The request line goes to the service's log, with the token cut short: who knows it may join."""
        line = (format % args).translate(dict.fromkeys(range(32), "?"))
        self.server.service.log(f"{self.client_address[0]} {hidden(line)}")

    def _handle(self) -> None:
        body = self._body()
        self.server.expect(self.connection, math.inf)
        if body is None:
            return
        try:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query, max_num_fields=32).items()}
            form = {name: values[-1] for name, values in parse_qs(body, max_num_fields=32).items()}
        except ValueError:
            self._text(400, "cannot understand the request\n", close=True)
            return
        path = url.path
        try:
            methods, answer = self._route(path, query, form)
            if self.command in methods.split():
                answer()
            else:
                self._reply(405, b"Method Not Allowed\n", "text/plain; charset=utf-8", allow=methods.replace(" ", ", "))
        except UnknownToken:
            self._refuse(404, _Code.KEY_NOT_FOUND, path)
        except AlreadyRegistered as refused:
            code = _Code.NODE_EXISTS if refused.same_id else _Code.COMPARE_FAILED
            self._refuse(412, code, path if refused.same_id else str(refused))
        except Invalid as refused:
            self._refuse(400, _Code.INVALID_FIELD, str(refused))
        except Full as refused:
            self._refuse(403, _Code.INVALID_FIELD, str(refused))
        except Failure as failure:
            self.server.service.log(str(failure))
            self._refuse(500, _Code.RAFT_INTERNAL, failure.message)

    def _route(self, path: str, query: dict[str, str], form: dict[str, str]) -> tuple[str, Callable[[], None]]:
        """The methods that a path allows, and what to do."""
        match path.strip("/").split("/"):
            case [""]:
                return "GET HEAD", lambda: self._text(200, _WELCOME)
            case ["health"]:
                return "GET HEAD", lambda: self._text(200, "OK\n")
            case ["robots.txt"]:
                return "GET HEAD", lambda: self._text(200, "User-agent: *\nDisallow: /\n")
            case ["new"]:
                return "GET PUT POST", lambda: self._new(query | form)
            case [token]:
                return "GET HEAD", lambda: self._list(path, token, query)
            case [token, "_config", "size"]:
                return "GET HEAD", lambda: self._size(path, token)
            case [token, member_id]:
                return "GET HEAD PUT", lambda: self._member(path, token, member_id, query, form)
            case _:
                raise UnknownToken(path)

    def _new(self, form: dict[str, str]) -> None:
        size = form.get("size", str(SIZE_DEFAULT))
        if not (size.isascii() and size.isdigit() and len(size) <= 4):
            raise Invalid("the size of a cluster is a number")
        service = self.server.service
        self.server.count_token(self.client_address[0], time.monotonic())
        token = secrets.token_hex(16)
        service.change(lambda registry, now_s: registry.new(token, int(size), now_s))
        self._text(200, service.url(token))

    def _size(self, path: str, token: str) -> None:
        found = self.server.service.registry.token(token)
        self._etcd(200, {"action": "get", "node": _node(path, str(found.size), found.index)})

    def _list(self, path: str, token: str, query: dict[str, str]) -> None:
        service = self.server.service
        if query.get("wait") == "true":
            self._watch(token, None, query)
            return
        registry = service.registry
        found = registry.token(token)
        nodes = [_node(f"/{token}/{member.id}", member.value, member.index) for member in found.members]
        directory = {
            "key": path.rstrip("/"),
            "dir": True,
            "nodes": nodes,
            "modifiedIndex": found.index,
            "createdIndex": found.index,
        }
        self._etcd(200, {"action": "get", "node": directory}, index=registry.index)

    def _member(self, path: str, token: str, member_id: str, query: dict[str, str], form: dict[str, str]) -> None:
        service = self.server.service
        if self.command == "PUT":
            if query.get("prevExist", "false") != "false":
                raise Invalid("a member is created, never changed: prevExist must be false")
            value = form.get("value", query.get("value", ""))
            after = service.change(lambda registry, now_s: registry.register(token, member_id, value, now_s))
            self._etcd(201, _created(token, after.token(token).members[-1]), index=after.index)
        elif query.get("wait") == "true":
            self._watch(token, member_id, query)
        else:
            member = service.registry.token(token).member(member_id)
            if member is None:
                raise UnknownToken(path)
            self._etcd(200, {"action": "get", "node": _node(path, member.value, member.index)})

    def _watch(self, token: str, member_id: str | None, query: dict[str, str]) -> None:
        service = self.server.service
        index = service.registry.index
        given = query.get("waitIndex", "")
        if given and not (given.isascii() and given.isdigit() and len(given) < 20):
            self._refuse(400, _Code.INDEX_NOT_A_NUMBER, given[:20])
            return
        member = service.wait(token, int(given or 0) or index + 1, member_id)
        if member is None:
            self._reply(200, b"", "application/json", index=index, close=service.stopping)
        else:
            self._etcd(200, _created(token, member), index=index)

    def _body(self) -> str | None:
        """The body, None if it was refused: then the connection ends, since what follows cannot be told from it."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self._text(411, "Length Required\n", close=True)
            return None
        if len(length) > 9 or int(length) > _BODY_BYTES_MAX:
            self._text(413, "Content Too Large\n", close=True)
            return None
        body = self.rfile.read(int(length)) if int(length) else b""
        return body.decode("utf-8", "replace")

    def _etcd(self, status: int, answer: dict[str, Any], *, index: int | None = None) -> None:
        at = self.server.service.registry.index if index is None else index
        self._reply(status, json.dumps(answer).encode() + b"\n", "application/json", index=at)

    def _refuse(self, status: int, code: _Code, cause: str) -> None:
        index = self.server.service.registry.index
        number, message = code.value
        self._etcd(status, {"errorCode": number, "message": message, "cause": cause, "index": index}, index=index)

    def _text(self, status: int, text: str, *, close: bool = False) -> None:
        self._reply(status, text.encode(), "text/plain; charset=utf-8", close=close)

    def _reply(
        self,
        status: int,
        body: bytes,
        content_type: str,
        *,
        index: int | None = None,
        allow: str | None = None,
        close: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if index is not None:
            self.send_header("X-Etcd-Index", str(index))
        if allow is not None:
            self.send_header("Allow", allow)
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def client_of(address: str) -> str:
    """Whom an address stands for: itself, for IPv6 its /64, whose owner has all of it; "" for this machine, behind which may be many."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return client_of(str(found.ipv4_mapped))
        return "" if found.is_loopback else str(ipaddress.ip_network((int(found), 64), strict=False))
    return "" if found.is_loopback else str(found)


def _node(key: str, value: str, index: int) -> dict[str, Any]:
    return {"key": key, "value": value, "modifiedIndex": index, "createdIndex": index}


def _created(token: str, member: Registration) -> dict[str, Any]:
    return {"action": "create", "node": _node(f"/{token}/{member.id}", member.value, member.index)}
