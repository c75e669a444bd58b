"""Reads and makes tokens at a discovery service, ours or another with etcd's v2 keys API.

Runs on nodes, at boot, under emulation: standard library only, and little of it. A member that restarts does not need
the service, so the HTTP client, half of the time that all imports take, is loaded by the first request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from terminal import Failure, record

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection

_ANSWER_BYTES_MAX = 1 << 20
_REDIRECTS_MAX = 3
_TOKEN = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{26}\b")
_HINT_URL = "a discovery URL is http://HOST:PORT/TOKEN"


class Unreachable(Failure):
    """The service does not answer, or reports that it cannot now."""


class Registered(NamedTuple):
    """One machine under a token; ``urls`` are its peer URLs, ``order`` ranks it among the others."""

    id: str
    names: tuple[str, ...]
    urls: tuple[str, ...]
    value: str
    order: int


class Roster(NamedTuple):
    """A token: the cluster's size, and the registered machines in order. The first ``size`` are its members."""

    size: int
    registered: tuple[Registered, ...]

    @property
    def members(self) -> tuple[Registered, ...]:
        """The machines that have a slot."""
        return self.registered[: self.size]

    @property
    def complete(self) -> bool:
        """Whether every slot is taken."""
        return len(self.registered) >= self.size

    @property
    def state(self) -> str:
        """ "k of N: names", for people."""
        names = ", ".join(name for member in self.members for name in dict.fromkeys(member.names))
        return f"{len(self.members)} of {self.size}" + (f": {names}" if names else "")

    @property
    def peers(self) -> tuple[str, ...]:
        """The members' peer URLs."""
        return tuple(url for member in self.members for url in member.urls)

    @property
    def initial_cluster(self) -> str:
        """The value that etcd itself makes from a complete roster."""
        return ",".join(member.value for member in self.members)


def hidden(text: str) -> str:
    """``text`` as a log may have it: a token is cut short, since it is enough to join the cluster."""
    return _TOKEN.sub(r"\1...", text)


def checked(url: str) -> tuple[SplitResult, str, int | None]:
    """The pieces of an http or https URL, its host, its port. Raises Failure if it is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _not_http(url) from None
    # The parser is lenient: it drops line breaks, and accepts blanks and letters that no request line can contain.
    if (
        not host
        or parts.scheme not in ("http", "https")
        or not (url.isascii() and url.isprintable() and " " not in url)
    ):
        raise _not_http(url)
    return parts, host, port


def read(url: str, *, timeout: float = 5.0, proxy: str = "") -> Roster:
    """The state of the token behind the discovery ``url``, through an HTTP ``proxy`` if one is given.

    Raises Unreachable, and Failure if the token does not exist or the answer is not a token.
    """
    status, body = request("GET", _below(url, "_config/size"), timeout=timeout, proxy=proxy)
    if status == 404:
        raise Failure(
            "the discovery service does not know this token",
            where=hidden(url),
            hint="tokens end: make a new one with 'discovery new', and give it to every node",
        )
    config = _json(url, status, body)
    listing = _json(url, *request("GET", url, timeout=timeout, proxy=proxy))
    try:
        size = int(config["node"]["value"])
        nodes = [
            node for node in listing["node"].get("nodes", []) if not node["key"].rsplit("/", 1)[-1].startswith("_")
        ]
        registered = sorted((_registered(node) for node in nodes), key=lambda one: one.order)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _not_a_token(url) from error
    if size < 1:
        raise _not_a_token(url)
    return Roster(size, tuple(registered))


def new(base_url: str, size: int, *, timeout: float = 5.0) -> str:
    """Request a token for ``size`` members from the service; returns its discovery URL. Raises Unreachable, Failure."""
    status, body = request("PUT", _below(base_url, "new"), timeout=timeout, form={"size": str(size)})
    text = body.decode("utf-8", "replace").strip()
    if status != 200 or not text.startswith(("http://", "https://")):
        raise Failure(f"no token was given: {_cause(body) or f'HTTP status {status}'}", where=hidden(base_url))
    return text


def request(
    method: str,
    url: str,
    *,
    timeout: float,
    form: Mapping[str, str] | None = None,
    proxy: str = "",
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """One HTTP request, following redirects; the status below 500 and the body. Raises Unreachable, Failure.

    ``context`` is for https, in place of the one that trusts the system's authorities.
    """
    from http.client import HTTPException

    body = urlencode(form) if form is not None else None
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
    for _ in range(_REDIRECTS_MAX + 1):
        connection, target = _connection(url, timeout, proxy, context)
        try:
            connection.request(method, target, body=body, headers=headers)
            response = connection.getresponse()
            data = response.read(_ANSWER_BYTES_MAX)
        except UnicodeError as error:
            raise _not_http(url) from error  # a host name that DNS cannot have
        except (OSError, HTTPException) as error:
            raise Unreachable(
                "cannot reach the discovery service",
                where=hidden(url),
                hint="see that it runs ('discovery serve'), and that this machine reaches it",
            ) from error
        finally:
            connection.close()
        if response.status >= 500:
            raise Unreachable(f"the discovery service answered with HTTP status {response.status}", where=hidden(url))
        location = response.headers.get("Location")
        if location is None or response.status not in (301, 302, 303, 307, 308):
            return response.status, data
        try:
            url = urljoin(url, location)
        except ValueError as error:
            raise Failure("redirects to what is no URL", where=hidden(url), hint=_HINT_URL) from error
    raise Failure(f"more than {_REDIRECTS_MAX} redirects", where=hidden(url), hint=_HINT_URL)


def _connection(url: str, timeout: float, proxy: str, context: ssl.SSLContext | None) -> tuple[HTTPConnection, str]:
    from http.client import HTTPConnection, HTTPSConnection

    parts, host, port = checked(url)
    # A proxy may be HOST:PORT, as etcd accepts it.
    proxy_host, proxy_port = checked(proxy if "://" in proxy else f"http://{proxy}")[1:] if proxy else (None, None)
    path = quote(parts.path or "/", safe="/%:") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "https":
        if proxy_host is None:
            return HTTPSConnection(host, port, timeout=timeout, context=context), path
        secure = HTTPSConnection(proxy_host, proxy_port or 80, timeout=timeout, context=context)
        secure.set_tunnel(host, port or 443)
        return secure, path
    if proxy_host is None:
        return HTTPConnection(host, port, timeout=timeout), path
    return HTTPConnection(proxy_host, proxy_port or 80, timeout=timeout), f"http://{parts.netloc}{path}"


def _below(url: str, path: str) -> str:
    """The URL of ``path`` under ``url``, whose query stays, as etcd's client does."""
    head, mark, query = url.partition("?")
    return f"{head.rstrip('/')}/{path}{mark}{query}"


def _registered(node: Mapping[str, Any]) -> Registered:
    value = str(node["value"])
    if not value.isprintable():  # it goes to the journal, to systemd and into etcd's environment
        raise ValueError(value)
    pairs = [pair.partition("=") for pair in value.split(",")]
    return Registered(
        id=str(node["key"]).rsplit("/", 1)[-1],
        names=tuple(name for name, _, _ in pairs),
        urls=tuple(url for _, _, url in pairs if url),
        value=value,
        order=int(node["createdIndex"]),
    )


def _json(url: str, status: int, body: bytes) -> Any:
    try:
        answer = record.parse(body)
    except ValueError as error:
        raise _not_a_token(url) from error
    if status != 200:
        raise Failure(f"the discovery service refuses: {_cause(body) or f'HTTP status {status}'}", where=hidden(url))
    return answer


def _cause(body: bytes) -> str:
    """The message of an etcd error, empty if the body is none."""
    try:
        answer = record.parse(body)
        return f"{answer['message']}: {answer['cause']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _not_a_token(url: str) -> Failure:
    return Failure("the answer is not that of a discovery token", where=hidden(url), hint=_HINT_URL)


def _not_http(url: str) -> Failure:
    return Failure("not an http URL", where=hidden(url), hint=_HINT_URL)
