"""The part of etcd's v2 keys API that ``etcd --discovery`` speaks, over a :class:`~discovery.registry.Registry`.

Wire reference: docs/discovery.md. Differences from the former public service, with their reasons: an answer is 201 only
after the registration is on disk, since etcd never repeats it; a PUT always means "create", since a second event for
one member would be counted as one more member; nothing is ever deleted under a token, for the same reason.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
import typing
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from discovery.client import hidden
from discovery.registry import AlreadyRegistered, Full, Invalid, Registration, Registry, UnknownToken
from terminal import Failure
from webserver.message import Request, Response, client_of
from webserver.server import BAD_LENGTH, NO_CHUNKS, Site

SIZE_DEFAULT = 3
_CONNECTIONS_MAX = 512
_CLIENT_CONNECTIONS_MAX = 64
"""Of one address, loopback excepted: behind it may be the forwards of a whole cluster."""
_CLIENT_TOKENS_MAX = 50
"""How many tokens one address may make in :data:`_TOKENS_PERIOD_S`; loopback is one."""
_TOKENS_PERIOD_S = 3600.0
_BODY_BYTES_MAX = 4096
_REQUEST_TIMEOUT_S = 30.0  # for a request to come; a watch waits longer, but in between
_TEXT = "text/plain; charset=utf-8"
_WELCOME = "An etcd discovery service. A token for three members: GET /new?size=3\n"


class _Code(Enum):
    """Error codes of etcd's v2 API, as far as they are used here."""

    KEY_NOT_FOUND = (100, "Key not found")
    COMPARE_FAILED = (101, "Compare failed")
    NODE_EXISTS = (105, "Key already exists")
    INDEX_NOT_A_NUMBER = (203, "The given index in POST form is not a number")
    INVALID_FIELD = (209, "Invalid field")
    RAFT_INTERNAL = (300, "Raft Internal Error")


class Service(typing.Protocol):
    """What requests are about: a :class:`discovery.server.DiscoveryServer`."""

    log: Callable[[str], None]
    stopping: bool
    """Whether it is about to end: so does the connection of a watch, with its answer."""

    @property
    def registry(self) -> Registry:
        """What is registered now."""
        ...

    def change(self, step: Callable[[Registry, float], Registry]) -> Registry:
        """Do ``step(registry, now)``, on disk before anyone sees it. Raises what ``step`` does, and Failure."""
        ...

    def wait(self, token: str, index: int, member_id: str | None) -> Registration | None:
        """The first registration at ``index`` or later; None when the keep-alive is due. Raises UnknownToken."""
        ...


class Protocol:
    """Answers requests for ``service``.

    Paths: ``/new``, ``/health``, ``/TOKEN[/]``, ``/TOKEN/_config/size``, ``/TOKEN/ID``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._made: dict[str, deque[float]] = {}  # when each client made its tokens

    def site(self, url: Callable[[str], str]) -> Site:
        """What the web server serves at a door; there ``url`` is the discovery URL of a token."""
        return Site(
            handle=partial(self.handle, url),
            refuse=_refuse_http,
            log=self._log,
            name="flotilla-discovery",
            body_bytes=_BODY_BYTES_MAX,
            request_s=_REQUEST_TIMEOUT_S,
            connections=_CONNECTIONS_MAX,
            connections_client=_CLIENT_CONNECTIONS_MAX,
        )

    def handle(self, url: Callable[[str], str], request: Request) -> Response:
        """Answer ``request``; a watch waits for what it watches."""
        try:
            target = urlsplit(request.target)
            query = _fields(target.query)
            form = _fields(request.body.decode("utf-8", "replace"))
        except ValueError:
            return _text(400, "cannot understand the request\n", close=True)
        path = target.path
        try:
            methods, answer = self._route(url, request, path, query, form)
            if request.method in methods.split():
                return answer()
            return _text(405, "Method Not Allowed\n", headers={"Allow": methods.replace(" ", ", ")})
        except UnknownToken:
            return self._refuse(404, _Code.KEY_NOT_FOUND, path)
        except AlreadyRegistered as refused:
            code = _Code.NODE_EXISTS if refused.same_id else _Code.COMPARE_FAILED
            return self._refuse(412, code, path if refused.same_id else str(refused))
        except Invalid as refused:
            return self._refuse(400, _Code.INVALID_FIELD, str(refused))
        except Full as refused:
            return self._refuse(403, _Code.INVALID_FIELD, str(refused))
        except Failure as failure:
            self._service.log(failure.on_one_line)
            return self._refuse(500, _Code.RAFT_INTERNAL, failure.message)

    def _route(
        self, url: Callable[[str], str], request: Request, path: str, query: dict[str, str], form: dict[str, str]
    ) -> tuple[str, Callable[[], Response]]:
        """The methods that a path allows, and what to do."""
        match path.strip("/").split("/"):
            case [""]:
                return "GET HEAD", lambda: _text(200, _WELCOME)
            case ["health"]:
                return "GET HEAD", lambda: _text(200, "OK\n")
            case ["robots.txt"]:
                return "GET HEAD", lambda: _text(200, "User-agent: *\nDisallow: /\n")
            case ["new"]:
                return "GET PUT POST", lambda: self._new(url, request.peer, query | form)
            case [token]:
                return "GET HEAD", lambda: self._list(path, token, query)
            case [token, "_config", "size"]:
                return "GET HEAD", lambda: self._size(path, token)
            case [token, member_id] if request.method == "PUT":
                return "GET HEAD PUT", lambda: self._register(token, member_id, query, form)
            case [token, member_id]:
                return "GET HEAD PUT", lambda: self._member(path, token, member_id, query)
            case _:
                raise UnknownToken(path)

    def _new(self, url: Callable[[str], str], peer: str, form: dict[str, str]) -> Response:
        size = form.get("size", str(SIZE_DEFAULT))
        if not (size.isascii() and size.isdigit() and len(size) <= 4):
            raise Invalid("the size of a cluster is a number")
        self._count_token(peer, time.monotonic())
        token = secrets.token_hex(16)
        self._service.change(lambda registry, now_s: registry.new(token, int(size), now_s))
        return _text(200, url(token))

    def _count_token(self, address: str, now: float) -> None:
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

    def _size(self, path: str, token: str) -> Response:
        found = self._service.registry.token(token)
        return self._etcd(200, {"action": "get", "node": _node(path, str(found.size), found.index)})

    def _list(self, path: str, token: str, query: dict[str, str]) -> Response:
        if query.get("wait") == "true":
            return self._watch(token, None, query)
        registry = self._service.registry
        found = registry.token(token)
        nodes = [_node(f"/{token}/{member.id}", member.value, member.index) for member in found.members]
        directory = {
            "key": path.rstrip("/"),
            "dir": True,
            "nodes": nodes,
            "modifiedIndex": found.index,
            "createdIndex": found.index,
        }
        return self._etcd(200, {"action": "get", "node": directory}, index=registry.index)

    def _register(self, token: str, member_id: str, query: dict[str, str], form: dict[str, str]) -> Response:
        if query.get("prevExist", "false") != "false":
            raise Invalid("a member is created, never changed: prevExist must be false")
        value = form.get("value", query.get("value", ""))
        after = self._service.change(lambda registry, now_s: registry.register(token, member_id, value, now_s))
        return self._etcd(201, _created(token, after.token(token).members[-1]), index=after.index)

    def _member(self, path: str, token: str, member_id: str, query: dict[str, str]) -> Response:
        if query.get("wait") == "true":
            return self._watch(token, member_id, query)
        member = self._service.registry.token(token).member(member_id)
        if member is None:
            raise UnknownToken(path)
        return self._etcd(200, {"action": "get", "node": _node(path, member.value, member.index)})

    def _watch(self, token: str, member_id: str | None, query: dict[str, str]) -> Response:
        index = self._service.registry.index
        given = query.get("waitIndex", "")
        if given and not (given.isascii() and given.isdigit() and len(given) < 20):
            return self._refuse(400, _Code.INDEX_NOT_A_NUMBER, given[:20])
        member = self._service.wait(token, int(given or 0) or index + 1, member_id)
        if member is None:
            return _with_index(200, b"", index, close=self._service.stopping)
        return self._etcd(200, _created(token, member), index=index)

    def _etcd(self, status: int, answer: dict[str, Any], *, index: int | None = None) -> Response:
        at = self._service.registry.index if index is None else index
        return _with_index(status, json.dumps(answer).encode() + b"\n", at)

    def _refuse(self, status: int, code: _Code, cause: str) -> Response:
        index = self._service.registry.index
        number, message = code.value
        return self._etcd(
            status, {"errorCode": number, "message": message, "cause": cause, "index": index}, index=index
        )

    def _log(self, peer: str, line: str) -> None:
        """The request line goes to the service's log, with the token cut short, since it is enough to join the
        cluster."""
        self._service.log(f"{peer} {hidden(line)}")


def _refuse_http(status: int, message: str) -> Response | None:
    if status == 413:
        return _text(413, "Content Too Large\n")
    return _text(411, "Length Required\n") if message in (NO_CHUNKS, BAD_LENGTH) else None


def _fields(text: str) -> dict[str, str]:
    """Of a query or a form; raises ValueError."""
    return {name: values[-1] for name, values in parse_qs(text, max_num_fields=32).items()}


def _text(status: int, text: str, *, headers: Mapping[str, str] | None = None, close: bool = False) -> Response:
    return Response(status, text.encode(), _TEXT, headers or {}, close)


def _with_index(status: int, body: bytes, index: int, *, close: bool = False) -> Response:
    return Response(status, body, "application/json", {"X-Etcd-Index": str(index)}, close)


def _node(key: str, value: str, index: int) -> dict[str, Any]:
    return {"key": key, "value": value, "modifiedIndex": index, "createdIndex": index}


def _created(token: str, member: Registration) -> dict[str, Any]:
    return {"action": "create", "node": _node(f"/{token}/{member.id}", member.value, member.index)}
