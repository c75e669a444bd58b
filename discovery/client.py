"""Reads and makes tokens at a discovery service, ours or another with etcd's v2 keys API.

Runs on nodes, at boot, under emulation: standard library only, and little of it. A member that restarts does not need
the service, so the HTTP client, half of the time that all imports take, is loaded by the first request.

A URL may pin the service's certificate, ``https://HOST:PORT/TOKEN#sha256=FINGERPRINT``: a fragment, which is sent to no
server, and which etcd's own client ignores. Such a service is believed for its key alone (:mod:`webserver.pinned`). What
goes wrong then is a Failure; nothing falls back to less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from terminal import Failure, record

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection, HTTPSConnection

_ANSWER_BYTES_MAX = 1 << 20
_REDIRECTS_MAX = 3
_WATCH_S = 90.0
"""Of a watch, until it counts as lost: our service answers after 60 s, whether there is something or not."""
_NODE_EXISTS = 105
"""etcd's error code (https://etcd.io/docs/v2.3/errorcode/): the id has its slot already."""
_TOKEN = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{26}\b")
_PIN = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_HINT_URL = "a discovery URL is https://HOST:PORT/TOKEN#sha256=FINGERPRINT, as 'discovery new' prints it"
_contexts: dict[str, ssl.SSLContext] = {}
"""By fingerprint, which decides alone: the second request need not look at the certificate first."""


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
    """The pieces of an http or https URL, its host, its port. Raises Failure if it is none, or pins what is no pin."""
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
    if parts.fragment and not (parts.scheme == "https" and _PIN.fullmatch(parts.fragment)):
        raise Failure("the part after # is no pin of a certificate", where=hidden(url), hint=_HINT_URL)
    return parts, host, port


def pinned(url: str, fingerprint: str) -> str:
    """``url``, with the service's certificate pinned."""
    return f"{url}#sha256={fingerprint}"


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


def register(url: str, identity: str, value: str, *, timeout: float = 5.0, proxy: str = "") -> None:
    """Register the member ``identity`` with ``value``, which is ``NAME=URL,...``, unless it is registered already.

    Raises Unreachable, and Failure if the service refuses.
    """
    target = _below(url, f"{identity}?prevExist=false")
    status, body = request("PUT", target, timeout=timeout, form={"value": value}, proxy=proxy)
    if status == 201 or (status == 412 and _code(body) == _NODE_EXISTS):
        return
    raise Failure(
        f"the discovery service does not register this machine: {_cause(body) or f'HTTP status {status}'}",
        where=hidden(url),
    )


def watch(url: str, roster: Roster, *, timeout: float = _WATCH_S, proxy: str = "") -> None:
    """Return when another machine than those of ``roster`` registers, or after a while. Raises Unreachable, Failure."""
    after = 1 + max((one.order for one in roster.registered), default=0)
    request("GET", _below(url, f"?wait=true&recursive=true&waitIndex={after}"), timeout=timeout, proxy=proxy)


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

    ``context`` is for https, in place of the one that trusts the system's authorities, or what the URL pins.
    """
    from http.client import HTTPException

    from webserver.pinned import refusal

    body = urlencode(form) if form is not None else None
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
    for _ in range(_REDIRECTS_MAX + 1):
        connection = None
        try:
            connection, target = _connection(url, timeout, proxy, context or _pinning(url, timeout, proxy))
            connection.request(method, target, body=body, headers=headers)
            response = connection.getresponse()
            data = response.read(_ANSWER_BYTES_MAX)
        except UnicodeError as error:
            raise _not_http(url) from error  # a host name that DNS cannot have
        except (OSError, HTTPException) as error:
            failure = refusal(error, is_pinned="#" in url) or (None if proxy else _only_tls(url, error, timeout))
            if failure is not None:
                failure.where = hidden(url)
                raise failure from error
            raise Unreachable(
                "cannot reach the discovery service",
                where=hidden(url),
                hint="see that it runs ('discovery serve'), and that this machine reaches it",
            ) from error
        finally:
            if connection is not None:
                connection.close()
        if response.status == 400 and not proxy and (failure := _only_tls(url, None, timeout)) is not None:
            failure.where = hidden(url)
            raise failure
        if response.status >= 500:
            raise Unreachable(f"the discovery service answered with HTTP status {response.status}", where=hidden(url))
        location = response.headers.get("Location")
        if location is None or response.status not in (301, 302, 303, 307, 308):
            return response.status, data
        url = _redirected(url, location)
    raise Failure(f"more than {_REDIRECTS_MAX} redirects", where=hidden(url), hint=_HINT_URL)


def _redirected(url: str, location: str) -> str:
    """Where an answer to ``url`` sends us. Raises Failure for what is no URL, or less safe than ``url``."""
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
    except ValueError as error:
        raise Failure("redirects to what is no URL", where=hidden(url), hint=_HINT_URL) from error
    if old.scheme == "https" and new.scheme != "https":
        raise Failure("redirects to a place without TLS", where=hidden(url), hint="nothing is sent there")
    if not old.fragment:
        return target
    if old.netloc != new.netloc:
        raise Failure("redirects away from the service that is pinned", where=hidden(url), hint="nothing is sent there")
    return new._replace(fragment=old.fragment).geturl()


def _pinning(url: str, timeout: float, proxy: str) -> ssl.SSLContext | None:
    """What trusts the certificate that ``url`` pins; None if it pins none. Raises Failure, OSError, HTTPException."""
    matched = _PIN.fullmatch(checked(url)[0].fragment)
    if matched is None:
        return None
    from webserver import pinned

    fingerprint = matched[1].lower()
    if fingerprint not in _contexts:
        try:
            _contexts[fingerprint] = pinned.context(fingerprint, lambda look: _secure(url, timeout, proxy, look))
        except Failure as failure:
            failure.where = hidden(url)
            raise
    return _contexts[fingerprint]


def _only_tls(url: str, error: Exception | None, timeout: float) -> Failure | None:
    """Whether a request without TLS ended in ``error``, or None was refused, since the port speaks nothing else."""
    from http.client import BadStatusLine

    parts, host, port = checked(url)
    if parts.scheme != "http" or not (error is None or isinstance(error, (BadStatusLine, ConnectionResetError))):
        return None
    from etcd.handshake import asked

    if asked(host or "", port or 80, None, timeout=timeout) is None:
        return None
    return Failure("this port speaks TLS, and the URL says http://", hint=_HINT_URL)


def _secure(url: str, timeout: float, proxy: str, context: ssl.SSLContext | None) -> HTTPSConnection:
    from http.client import HTTPSConnection

    _, host, port = checked(url)
    assert host is not None
    proxy_host, proxy_port = _proxy(proxy)
    if proxy_host is None:
        return HTTPSConnection(host, port, timeout=timeout, context=context)
    tunnel = HTTPSConnection(proxy_host, proxy_port or 80, timeout=timeout, context=context)
    tunnel.set_tunnel(host, port or 443)
    return tunnel


def _proxy(proxy: str) -> tuple[str | None, int | None]:
    """Host and port of an HTTP proxy, which may be HOST:PORT, as etcd accepts it."""
    return checked(proxy if "://" in proxy else f"http://{proxy}")[1:] if proxy else (None, None)


def _connection(url: str, timeout: float, proxy: str, context: ssl.SSLContext | None) -> tuple[HTTPConnection, str]:
    from http.client import HTTPConnection

    parts, host, port = checked(url)
    assert host is not None
    path = quote(parts.path or "/", safe="/%:") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "https":
        return _secure(url, timeout, proxy, context), path
    proxy_host, proxy_port = _proxy(proxy)
    if proxy_host is None:
        return HTTPConnection(host, port, timeout=timeout), path
    return HTTPConnection(proxy_host, proxy_port or 80, timeout=timeout), f"http://{parts.netloc}{path}"


def _below(url: str, path: str) -> str:
    """The URL of ``path`` under ``url``, whose query stays, as etcd's client does, and so does what it pins."""
    parts = checked(url)[0]
    path, _, query = path.partition("?")
    queries = "&".join(filter(None, (parts.query, query)))
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path}".rstrip("/"), query=queries).geturl()


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


def _code(body: bytes) -> object:
    """The code of an etcd error; None if the body is none."""
    try:
        return record.parse(body)["errorCode"]
    except (ValueError, KeyError, TypeError):
        return None


def _not_a_token(url: str) -> Failure:
    return Failure("the answer is not that of a discovery token", where=hidden(url), hint=_HINT_URL)


def _not_http(url: str) -> Failure:
    return Failure("not an http URL", where=hidden(url), hint=_HINT_URL)
