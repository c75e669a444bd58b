"""One kept ssh connection to a node, with its host key pinned at first contact."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from cluster.client.secured import Secured
from cluster.model.run import RunResult
from terminal import Failure

if TYPE_CHECKING:
    import ssl

    import paramiko

USER = "core"
CHUNK_BYTES = 1 << 15
_pinning = threading.Lock()
# Users see paramiko's messages as our failures; without a handler Python would print them as well.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Unreachable(Failure):
    """The node was not reached, so the request was not sent."""


class Connection:
    """A connection to the ssh server at 127.0.0.1:``port``, opened when first needed, and again when it broke.

    ``names`` are the host names under which the server's key is pinned besides. Calls from several threads take turns
    at connecting and run side by side after that.
    """

    def __init__(self, port: int, key: Path, known_hosts: Path, names: tuple[str, ...], *, patience_s: float) -> None:
        self._port, self._key, self._known_hosts, self._names = port, key, known_hosts, names
        self._patience_s = patience_s
        self._client: paramiko.SSHClient | None = None
        self._connecting = threading.Lock()

    def run(self, command: str, timeout: float, stdin: IO[bytes] | None = None) -> RunResult:
        """Run ``command`` in the user's shell, fed with ``stdin``, and return its outcome.

        Raises :class:`Failure` if the node cannot be reached, or, with its last output, if the command takes longer
        than ``timeout`` seconds.
        """
        import paramiko

        deadline = time.monotonic() + timeout
        out, err = bytearray(), bytearray()
        with self._channel("session") as channel:
            try:
                channel.settimeout(timeout)
                channel.exec_command(command)
                errors = threading.Thread(target=_collect, args=(channel.recv_stderr, err), daemon=True)
                errors.start()
                if stdin is not None:
                    while chunk := stdin.read(CHUNK_BYTES):
                        channel.sendall(chunk)
                channel.shutdown_write()
                while chunk := channel.recv(CHUNK_BYTES):
                    out += chunk
                    channel.settimeout(max(deadline - time.monotonic(), 0.01))
                errors.join(max(deadline - time.monotonic(), 0.01))
                if not channel.status_event.wait(max(deadline - time.monotonic(), 0.01)):
                    raise TimeoutError
            except TimeoutError as error:
                last = (out + err).decode(errors="replace").strip().splitlines()[-1:]
                said = f"; the last it said: {last[0]}" if last else ""
                raise Failure(f"{command!r} did not end within {timeout:.0f} s{said}", where=self._names[-1]) from error
            except (OSError, paramiko.SSHException) as error:
                raise Failure(f"the connection broke during {command!r}", where=self._names[-1]) from error
            rc = channel.recv_exit_status()
            return RunResult(rc if rc >= 0 else 255, out.decode(errors="replace"), err.decode(errors="replace"))

    def http(
        self,
        port: int,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout: float,
        context: ssl.SSLContext | None = None,
    ) -> tuple[int, bytes]:
        """Ask an HTTP server on the node's own loopback, ``body`` as JSON; no program runs on the node for it.

        With a ``context`` it speaks TLS. Returns status and body. Raises :class:`Failure` if there is no such server or
        no answer.
        """
        with self._channel("direct-tcpip", ("127.0.0.1", port)) as channel:
            channel.settimeout(timeout)
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.sock = cast("socket.socket", channel)
            try:
                if context is not None:
                    connection.sock = cast("socket.socket", Secured(channel, context, "127.0.0.1"))
                connection.request(method, path, None if body is None else json.dumps(body))
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Failure(f"no answer from port {port}", where=self._names[-1]) from error
            finally:
                connection.close()

    def pin(self, public_key: str) -> None:
        """Record the server's key before the first contact, unless one is known already.

        Raises :class:`Failure` if it is not a key.
        """
        kind, data = [*public_key.split(), "", ""][:2]
        try:
            is_key = b64decode(data, validate=True).startswith(len(kind).to_bytes(4, "big") + kind.encode())
        except ValueError:
            is_key = False
        if not is_key or not kind:
            raise Failure("this is no public key of an ssh server", where=self._names[-1])
        host = f"[127.0.0.1]:{self._port}"
        with _pinning:
            known = self._known_hosts.read_text() if self._known_hosts.exists() else ""
            if not any(line.startswith(f"{host},") for line in known.splitlines()):
                with self._known_hosts.open("a") as file:
                    file.write(f"{','.join((host, *self._names))} {kind} {data}\n")

    def close(self) -> None:
        """Hang up; the next call connects again."""
        with self._connecting:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _channel(self, kind: str, target: tuple[str, int] | None = None) -> paramiko.Channel:
        import paramiko

        try:
            transport = self._transport()
            return transport.open_channel(kind, target, ("127.0.0.1", 0) if target else None, timeout=self._patience_s)
        except paramiko.BadHostKeyException as error:
            raise Failure(
                "the node's host key is not the one that was pinned at first contact",
                where=self._names[-1],
                hint=f"if the node was reinstalled on purpose, remove its lines from {self._known_hosts}",
            ) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Unreachable("the node cannot be reached by ssh", where=self._names[-1]) from error

    def _transport(self) -> paramiko.Transport:
        import paramiko

        with self._connecting:
            transport = self._client.get_transport() if self._client is not None else None
            if transport is not None and transport.is_active():
                return transport
            if self._client is not None:
                self._client.close()
            client = paramiko.SSHClient()
            if self._known_hosts.exists():
                client.load_host_keys(str(self._known_hosts))
            client.set_missing_host_key_policy(_pin_policy(self._known_hosts, self._names))
            try:
                client.connect(
                    "127.0.0.1",
                    self._port,
                    username=USER,
                    key_filename=str(self._key),
                    allow_agent=False,
                    look_for_keys=False,
                    timeout=self._patience_s,
                    banner_timeout=self._patience_s,
                    auth_timeout=self._patience_s,
                )
            except BaseException:
                client.close()
                raise
            self._client = client
            opened = client.get_transport()
            if opened is None:
                raise paramiko.SSHException("hung up at once")
            return opened


def _collect(receive: Callable[[int], bytes], into: bytearray) -> None:
    try:
        while chunk := receive(CHUNK_BYTES):
            into += chunk
    except OSError:
        return  # the main thread meets the same error and reports it


def _pin_policy(known_hosts: Path, names: tuple[str, ...]) -> paramiko.MissingHostKeyPolicy:
    import paramiko

    class Pin(paramiko.MissingHostKeyPolicy):
        """Record an unknown host's key: it is our own child at the other end of a loopback port."""

        def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
            line = f"{','.join((hostname, *names))} {key.get_name()} {key.get_base64()}\n"
            with _pinning, known_hosts.open("a") as file:
                file.write(line)
            client.get_host_keys().add(hostname, key.get_name(), key)

    return Pin()
