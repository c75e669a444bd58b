"""The discovery service as an object: its registry, the file that stores it, and the threads that serve it."""

from __future__ import annotations

import glob
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from discovery.client import checked, pinned
from discovery.protocol import Protocol
from discovery.registry import Full, Invalid, Registration, Registry
from terminal import Failure, durable
from webserver import selfmade
from webserver.server import Server, listen

EMPTY_TTL_S = 3600.0
"""A token without a member ends sooner: a caller makes one at no cost, and the service has room for few."""

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
"""All addresses of a machine, which is no answer to where clients reach it."""

KEEP_ALIVE_S = 60.0  # then a watch gets an empty 200, on which etcd asks again


class DiscoveryServer:
    """A discovery service in threads of this process.

    ``address`` and ``port`` (0 = any free one) are where it listens; ``state_file`` is what it remembers;
    ``public_url`` is how machines reach it, if that differs (through a forward or a proxy). A token ends ``ttl_s``
    seconds after its last change, and within an hour if it has no member by then (None: never).

    With a ``certificate``, PEM files of one and its key (None: in the same file), it speaks TLS there and the URLs pin
    that; ``plain`` is one more address and port (0 = any free one), without TLS, for clients that pin nothing.
    """

    def __init__(
        self,
        address: str,
        port: int,
        state_file: Path | str,
        *,
        public_url: str | None = None,
        certificate: tuple[Path, Path | None] | None = None,
        plain: tuple[str, int] | None = None,
        ttl_s: float | None = None,
        keep_alive_s: float = KEEP_ALIVE_S,
        clock: Callable[[], float] = time.time,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address = address
        self._port = port
        self._certificate = certificate
        self._plain = plain
        self._state_file = Path(state_file)
        self._public_url = public_url
        self._ttl_s = ttl_s
        self._clock = clock
        self._registry = Registry()
        self._http: list[Server] = []
        self.keep_alive_s = keep_alive_s
        self.log = log
        self.changed = threading.Condition()
        self.stopping = False

    def start(self) -> None:
        """Load the state, listen and serve. Raises Failure: port taken, state unreadable, directory not writable."""
        self._registry = self._load()
        tls = selfmade.context(*self._certificate) if self._certificate is not None else None
        doors = [_listen(self._address, self._port)]
        self._port = int(doors[0].getsockname()[1])
        if self._plain is not None:
            try:
                doors.append(_listen(*self._plain))
            except Failure:
                doors[0].close()
                raise
            self._plain = self._plain[0], int(doors[1].getsockname()[1])
        self.stopping = False
        protocol = Protocol(self)
        urls = (self.url, self.plain_url)
        # The second door, if there is one, has no TLS.
        for listening, url, secure in zip(doors, urls, (tls, None), strict=False):
            self._http.append(Server(listening, protocol.site(url), tls=secure))
            self._http[-1].start()

    def stop(self) -> None:
        """Answer waiting clients, stop listening, drop all connections. The state is on disk already."""
        if not self._http:
            return
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        for each in self._http:
            each.stop()  # waits until answers are sent: waiting clients get "ask again", not a broken connection
        self._http.clear()

    @property
    def port(self) -> int:
        """Where it listens; if it was 0, what it became at the first start."""
        return self._port

    @property
    def base_url(self) -> str:
        """How machines reach it, with its certificate pinned if it has one."""
        return self.url("")

    def url(self, token: str) -> str:
        """What goes into ``coreos.etcd2.discovery``; every member must be given the very same text."""
        scheme = "http" if self._certificate is None else "https"
        base = (self._public_url or f"{scheme}://{_host(self._address)}:{self.port}").rstrip("/")
        found = f"{base}/{token}" if token else base
        return found if self._certificate is None else pinned(found, self._fingerprint)

    @cached_property
    def _fingerprint(self) -> str:
        assert self._certificate is not None
        return selfmade.read_fingerprint(self._certificate[0])

    def plain_url(self, token: str) -> str:
        """The same for etcd's own ``--discovery``, at the door without TLS: where it listens, or if those are all
        addresses, the host of the public URL."""
        assert self._plain is not None
        address, port = self._plain
        public = checked(self._public_url)[1] if self._public_url else None
        host = public if public and address in EVERYWHERE else address
        return f"http://{_host(host)}:{port}/{token}".rstrip("/")

    def new_token(self, size: int) -> str:
        """A new token for a cluster of ``size``.

        Raises Failure if the size is out of range or the tokens are used up."""
        token = secrets.token_hex(16)
        try:
            self.change(lambda registry, now_s: registry.new(token, size, now_s))
        except (Invalid, Full) as error:
            raise Failure(str(error), where=self.base_url) from error
        return token

    @property
    def registry(self) -> Registry:
        """What is registered now."""
        if self._ttl_s is None:
            return self._registry
        now_s = self._clock()
        return self._registry.expire(now_s - self._ttl_s, now_s - EMPTY_TTL_S)

    def change(self, step: Callable[[Registry, float], Registry]) -> Registry:
        """Do ``step(registry, now)``, on disk before anyone sees it. Raises what ``step`` does, and Failure."""
        with self.changed:
            after = step(self.registry, self._clock())
            self._save(after)
            self._registry = after
            self.changed.notify_all()
            return after

    def wait(self, token: str, index: int, member_id: str | None) -> Registration | None:
        """The first registration at ``index`` or later; None when the keep-alive is due. Raises UnknownToken."""
        deadline = time.monotonic() + self.keep_alive_s
        with self.changed:
            while True:
                found = self.registry.token(token).since(index, member_id)
                left = deadline - time.monotonic()
                if found is not None or self.stopping or left <= 0:
                    return found
                self.changed.wait(left)

    def _load(self) -> Registry:
        # A kill while a change was written leaves its unfinished file, which holds tokens.
        for leftover in self._state_file.parent.glob(f".{glob.escape(self._state_file.name)}.????????"):
            leftover.unlink(missing_ok=True)
        try:
            text = self._state_file.read_text()
        except FileNotFoundError:
            empty = Registry()
            self._save(empty)  # fails now, not at the first token, if it cannot be written
            return empty
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(
                "cannot read the state of the discovery service",
                where=str(self._state_file),
                hint="name another file with --state, or see whose it is: ls -l",
            ) from error
        return Registry.load(text, where=str(self._state_file))

    def _save(self, registry: Registry) -> None:
        directory = self._state_file.parent
        try:
            # mkstemp makes it 0600, and a token is a secret: it is enough to join the cluster.
            handle, name = tempfile.mkstemp(dir=directory, prefix=f".{self._state_file.name}.")
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(registry.dump())
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._state_file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            durable.sync(directory)
        except OSError as error:
            raise Failure(
                "cannot write the state of the discovery service",
                where=str(self._state_file),
                hint="its directory must exist, be writable and have space",
            ) from error


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listen(address: str, port: int) -> socket.socket:
    where = f"{address}:{port}"
    try:
        return listen((address, port))
    except socket.gaierror as error:
        raise Failure(
            "not an address of this machine", where=where, hint="such as 127.0.0.1, or 0.0.0.0 for all"
        ) from error
    except OSError as error:
        raise Failure(
            "cannot listen for machines that look for their cluster",
            where=where,
            hint=f"choose another port, or see who has it: ss -ltnp 'sport = :{port}'",
        ) from error
    except OverflowError as error:
        raise Failure("not a port", where=where, hint="ports are 1 to 65535") from error
