"""User-data from a cloud's metadata service at 169.254.169.254: EC2's and OpenStack's, in any cloud that has them.

Formats: Amazon's "Instance metadata and user data" (version 2: a token first; where there are none, as in clouds that
copy version 1, none is used) and OpenStack's "Metadata service". Requests are repeated until a deadline if the service
does not answer or returns 5xx or 429; only 404 means that there is nothing. Redirects are not followed and no proxy is
used, since root carries out what a metadata service returns.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from cloudconfig.node import guard
from cloudconfig.node.status import Trouble
from cloudconfig.text.userdata import INFLATED_MAX
from terminal import Failure, record

ADDRESS = "169.254.169.254"
DEADLINE_S = 120.0
"""For all of it, from the first try on: the network may not be up yet, and is slow in emulation."""
ANSWER_S = 10.0
PAUSE_S = (0.1, 5.0)
"""Between two tries: the first, doubled each time up to the last."""
BODY_MAX = 2 * INFLATED_MAX
KEYS_MAX = 64
KEY_BYTES_MAX = 1 << 13
TOKEN_TTL_S = 300
TOKEN_BYTES_MAX = 1024
_NO_TOKENS = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
_HINT = "flotilla.datasource on the kernel command line names the datasource; is the network card that leads there up?"


class Metadata(NamedTuple):
    """The answer of a metadata service.

    ``addresses`` are by names of :mod:`cloudconfig.text.addresses`; ``damage`` is what is missing or broken."""

    user_data: bytes
    instance_id: str
    hostname: str
    keys: tuple[str, ...]
    addresses: tuple[tuple[str, str], ...] = ()
    damage: tuple[Trouble, ...] = ()


class Service:
    """A metadata service at ``address`` and ``port``, queried until ``deadline_s`` seconds have passed."""

    def __init__(
        self,
        address: str = ADDRESS,
        port: int = 80,
        *,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address, self._port = address, port
        self._clock, self._sleep = clock, sleep
        self._end = clock() + deadline_s
        self._deadline_s = deadline_s

    def ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of an answer that is no trouble. Raises Failure after the deadline, with the last trouble."""
        pause, longest = PAUSE_S
        while True:
            try:
                status, body = self._once(method, path, headers)
                if not _passes(status):
                    return status, body
                trouble = f"HTTP status {status}"
            except (OSError, http.client.HTTPException) as error:
                trouble = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if self._clock() + pause > self._end:
                raise Failure(f"no answer after {self._deadline_s:g} s: {trouble}", where=self._where(path), hint=_HINT)
            self._sleep(pause)
            pause = min(2 * pause, longest)

    def get(self, path: str, headers: Mapping[str, str]) -> bytes | None:
        """The content of ``path``, None if there is none. Raises Failure."""
        status, body = self.ask("GET", path, headers)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status != HTTPStatus.OK:
            raise Failure(f"HTTP status {status}", where=self._where(path))
        return body

    def need(self, path: str, headers: Mapping[str, str]) -> bytes:
        """The same for values that every machine has."""
        body = self.get(path, headers)
        if body is None:
            raise Failure("there is none", where=self._where(path), hint="is it this kind of metadata service?")
        return body

    def _once(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        left = max(0.1, min(ANSWER_S, self._end - self._clock()))
        connection = http.client.HTTPConnection(self._address, self._port, timeout=left)
        try:
            connection.request(method, path, headers={"User-Agent": "flotilla-cloudconfig", **headers})
            response = connection.getresponse()
            body = b""
            # Not a single read to the end: a slow service would keep us beyond the deadline.
            while chunk := response.read1(65536):
                body += chunk
                if len(body) > BODY_MAX:
                    raise Failure(f"more than {BODY_MAX >> 20} MiB", where=self._where(path))
                if self._clock() > self._end:
                    raise TimeoutError("it did not end")
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
            return response.status, body
        finally:
            connection.close()

    def _where(self, path: str) -> str:
        return f"http://{self._address}{path}"


def ec2(service: Service) -> Metadata:
    """The data of EC2's metadata service, or one like it, on this machine. Raises Failure."""
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
    status, token = service.ask("PUT", "/latest/api/token", ttl)
    headers = {}
    if status == HTTPStatus.OK:
        if len(token) > TOKEN_BYTES_MAX or not token.isascii() or not token.decode("ascii").isprintable():
            raise Failure("this is no token", where="/latest/api/token")
        headers = {"X-aws-ec2-metadata-token": token.decode("ascii")}
    elif status not in _NO_TOKENS:
        raise Failure(f"no token: HTTP status {status}", where="/latest/api/token")
    base = "/latest/meta-data"
    user_data = service.get("/latest/user-data", headers) or b""
    damage: list[Trouble] = []
    instance = guard.attempt(lambda: _text(service.need(f"{base}/instance-id", headers)), damage.append)
    hostname = guard.attempt(
        lambda: _short(_text(service.get(f"{base}/local-hostname", headers) or b"")), damage.append
    )
    keys = guard.attempt(lambda: _keys(service, f"{base}/public-keys/", headers), damage.append)
    return Metadata(user_data, instance or "", hostname or "", keys or (), _addresses(service, headers), tuple(damage))


def _keys(service: Service, path: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    # A line for each: "0=name". Without a number it is no key.
    lines = _text(service.get(path, headers) or b"").splitlines()[:KEYS_MAX]
    numbers = [line.partition("=")[0] for line in lines]
    texts = [_key(service, f"{path}{number}/openssh-key", headers) for number in numbers if _is_number(number)]
    return tuple(line for text in texts for line in text.splitlines() if line.strip())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _key(service: Service, path: str, headers: Mapping[str, str]) -> str:
    body = service.get(path, headers) or b""
    if len(body) > KEY_BYTES_MAX:
        raise Failure(f"a key of more than {KEY_BYTES_MAX >> 10} KiB", where=path)
    return _text(body)


def openstack(service: Service) -> Metadata:
    """The data of OpenStack's metadata service on this machine. Raises Failure."""
    user_data = service.get("/openstack/latest/user_data", {}) or b""
    damage: list[Trouble] = []
    metadata = guard.attempt(lambda: _described(service), damage.append) or Metadata(b"", "", "", ())
    return metadata._replace(user_data=user_data, addresses=_addresses(service, {}), damage=tuple(damage))


def _described(service: Service) -> Metadata:
    path = "/openstack/latest/meta_data.json"
    try:
        meta: Any = record.parse(service.need(path, {}))
    except ValueError as error:
        raise Failure("this is no JSON", where=path) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("uuid"), str):
        raise Failure("it does not say which machine this is (uuid)", where=path)
    keys = meta.get("public_keys")
    hostname = meta.get("hostname")
    return Metadata(
        user_data=b"",
        instance_id=meta["uuid"],
        hostname=_short(hostname) if isinstance(hostname, str) else "",
        keys=tuple(
            line
            for key in (list(keys.values())[:KEYS_MAX] if isinstance(keys, dict) else ())
            if isinstance(key, str)
            for line in key.splitlines()
            if line.strip()
        ),
    )


def _addresses(service: Service, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The machine's addresses as EC2's service, or OpenStack's part that is like it, has them.

    What is not there is left out."""
    found: list[tuple[str, str]] = []
    for path, version in (("local-ipv4", 4), ("public-ipv4", 4), ("ipv6", 6)):
        try:
            text = _text(service.get(f"/latest/meta-data/{path}", headers) or b"")
            socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, text)
        except (Failure, OSError, ValueError):
            continue
        kind = "private" if path == "local-ipv4" else "public"
        found.append((f"{kind}_ipv{version}", text))
    return tuple(found)


KINDS: dict[str, Callable[[Service], Metadata]] = {"ec2": ec2, "openstack": openstack}


def _passes(status: int) -> bool:
    """Whether a status is trouble that may pass. 501 is not: the service does not know the method."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or (status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()


def _short(name: str) -> str:
    """Clouds give the name with the domain; a node's host name is without."""
    return name.partition(".")[0]
