"""How a command reaches the cluster: its API, and the machines themselves."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.ctl.client import Client
from fleet.ctl.endpoint import NO_CREDENTIALS, Credentials, Endpoint
from fleet.ctl.transport import Address, Ssh, Tunnel, direct_session, open_tunnel
from fleet.model.entities import Machine
from terminal import Failure, UsageFailure

STAGGER_S = 4.0
"""Seconds to wait for one node before trying the next, too: an emulated node's handshake takes one to three."""

PROBE_S = 25.0
"""Seconds for the first answer of a node's API when no other node is better: enough for an election of etcd."""

MACHINE_ID_FILE = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options. Without ``tunnel`` the endpoints are reached from here; with it, the first from the node."""

    endpoints: tuple[Endpoint, ...]
    tunnel: tuple[Address, ...]
    ssh: Ssh
    request_timeout_s: float
    credentials: Credentials = NO_CREDENTIALS

    @property
    def endpoint(self) -> Endpoint:
        """The first."""
        return self.endpoints[0]


class Reach:
    """The open way to a cluster: ``client`` speaks to its API, :meth:`run` runs programs on its machines."""

    def __init__(self, settings: Settings) -> None:
        endpoint = settings.endpoint
        if settings.tunnel and not endpoint.path:
            raise UsageFailure(
                "a tunnel leads to a unix socket on a node, not to a host", where=str(endpoint), hint="drop --endpoint"
            )
        self._settings = settings
        self._tunnel: Tunnel | None = None
        self._opened = contextlib.ExitStack()
        if settings.tunnel:
            self._tunnel = self._opened.enter_context(self._race())
            self.client = _client_of(self._tunnel, settings, settings.request_timeout_s)
        else:
            self.client = Client(
                *settings.endpoints, credentials=settings.credentials, timeout_s=settings.request_timeout_s
            )

    def close(self) -> None:
        """Close the way."""
        self.client.close()
        self._opened.close()

    def open_again(self) -> None:
        """The way is broken: open another one, maybe to another node. Raises :class:`Failure` if there is none."""
        self.client.close()
        if self._settings.tunnel:
            self._opened.close()
            self._tunnel = self._opened.enter_context(self._race())
            self.client.move(*_end_of(self._tunnel, self._settings))

    def _race(self) -> contextlib.AbstractContextManager[Tunnel]:
        settings = self._settings

        def usable(tunnel: Tunnel, *, patiently: bool) -> None:
            # With a choice of nodes, one whose fleetd is down or has no etcd is as good as dead.
            if len(settings.tunnel) > 1:
                seconds = min(PROBE_S if patiently else STAGGER_S, settings.request_timeout_s)
                with contextlib.closing(_client_of(tunnel, settings, seconds)) as client:
                    try:
                        client.machines()
                    except Failure as failure:
                        raise Failure(failure.message, where=str(tunnel.address), hint=failure.hint) from None

        return open_tunnel(settings.tunnel, settings.ssh, settings.endpoint.path, usable, stagger_s=STAGGER_S)

    def run(self, machine: Machine, line: str, *, options: Sequence[str] = ()) -> int:
        """Run the shell's ``line`` (a login shell when empty) on ``machine`` with our own standard streams.

        ``options`` are for ssh, and are of no use on the machine that we are on. Returns the exit status.
        """
        ssh = self._settings.ssh
        if self._tunnel is not None:
            there = machine.id == self._tunnel.machine_id
            return _run(self._tunnel.session(line, machine=None if there else machine, options=options))
        if machine.id == local_machine_id():
            shell = os.environ.get("SHELL", "/bin/sh")
            return _run(["/bin/sh", "-c", line] if line else [shell])
        ssh.prepare()
        return _run(direct_session(ssh, machine, line, options=options))


@contextlib.contextmanager
def open_reach(settings: Settings) -> Iterator[Reach]:
    """Open the way that ``settings`` describe, and close it behind the caller."""
    with contextlib.closing(Reach(settings)) as reach:
        yield reach


def _client_of(tunnel: Tunnel, settings: Settings, timeout_s: float) -> Client:
    endpoint, where = _end_of(tunnel, settings)
    return Client(endpoint, timeout_s=timeout_s, where=where, hint="is fleet.service running on that node?")


def _end_of(tunnel: Tunnel, settings: Settings) -> tuple[Endpoint, str]:
    """Where a tunnel's API is here, and how to call that in a message."""
    return Endpoint("localhost", path=str(tunnel.socket)), f"{settings.endpoint} on {tunnel.address}"


def local_machine_id() -> str:
    """The id of the machine that we are on; "" when it has none."""
    try:
        return MACHINE_ID_FILE.read_text().strip()
    except OSError:
        return ""


def _run(command: Sequence[str]) -> int:
    """Run a program and return its status as a shell would: 128 and the number of the signal that ended it."""
    try:
        status = subprocess.call(command)
    except FileNotFoundError:
        raise Failure("the program is missing", where=command[0], hint="is this a node of the cluster?") from None
    return 128 - status if status < 0 else status
