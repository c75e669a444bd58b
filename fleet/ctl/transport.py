"""ssh connections to a cluster from outside, and from machine to machine.

The OpenSSH client does all of it; this module only controls it.

A *tunnel* is one ssh connection to one node for the life of one command::

    fleetctl -- unix socket in a private folder -- ssh -L -- /run/fleet.sock on the node
        \\------ control socket there --------- further sessions on the same connection (status, journal, ssh),
                                               or the hop from that node to another one (ssh -W)

It must leave nothing behind, even if we are killed. So ssh is run by a small shell that removes the folder when ssh
ends; and ssh ends when our end of its standard input closes, even by SIGKILL, since that ends the remote ``cat``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from fleet.model.entities import Machine
from terminal import Failure, UsageFailure

SSH_PORT = 22

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_PATH_MAX = 60  # of the temporary folder: a unix socket's path has 108 bytes at most, and ssh adds to it
_KEEPER = 'folder=$1; shift; ssh "$@"; status=$?; rm -rf -- "$folder"; exit $status'
_GREETING = "cat /etc/machine-id && exec cat"


@dataclass(frozen=True, slots=True)
class Address:
    """A host that ssh can reach."""

    host: str
    port: int = SSH_PORT

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST[:PORT]``, an IPv6 address with a port in brackets; raises :class:`UsageFailure`."""
        host, port = text, "22"
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            port = rest.removeprefix(":") if bracket and rest else "22"
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise UsageFailure("not of the form HOST[:PORT]", where=repr(text), hint="as in --tunnel 127.0.0.1:2201")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_tunnel(text: str) -> list[Address]:
    """Read a comma-separated list of addresses."""
    return [Address.parse(each.strip()) for each in text.split(",") if each.strip()]


@dataclass(frozen=True, slots=True)
class Ssh:
    """How to ssh, to any host.

    ``strict`` records an unknown host's key and refuses a changed one; without it no key is checked."""

    user: str
    timeout_s: float
    known_hosts: Path
    identity: Path | None = None
    strict: bool = True

    def arguments(self, address: Address) -> list[str]:
        """Options and host of an ssh command line, without the ``ssh``; the remote command follows."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(math.ceil(self.timeout_s)),
            "ServerAliveInterval": "15",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "accept-new" if self.strict else "no",
            "UserKnownHostsFile": f'"{self.known_hosts}"' if self.strict else "/dev/null",
        }
        if self.identity is not None:
            options |= {"IdentityFile": f'"{self.identity}"', "IdentitiesOnly": "yes"}
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        port = [] if address.port == SSH_PORT else ["-p", str(address.port)]
        return [*settings, "-l", self.user, *port, "--", address.host]

    def prepare(self) -> None:
        """Make the folder of the known hosts; raises :class:`Failure`."""
        if self.identity is not None and not self.identity.is_file():
            raise Failure("there is no ssh key", where=str(self.identity), hint="check --ssh-identity-file")
        if shutil.which("ssh") is None:
            raise Failure("the program ssh is missing", hint="install the package openssh-client")
        try:
            self.known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(
                f"cannot make the folder of the known hosts: {error.strerror}",
                where=str(self.known_hosts.parent),
                hint="choose another one with --known-hosts-file",
            ) from None


class Tunnel:
    """An open ssh connection to a node: ``socket`` is the node's fleet socket, here; ``machine_id`` is the node's.

    A context manager; leaving it ends ssh and removes the folder.
    """

    def __init__(self, address: Address, ssh: Ssh, remote_socket: str) -> None:
        self.address = address
        self.machine_id = ""
        self._ssh = ssh
        self._folder = Path(tempfile.mkdtemp(prefix="fleetctl-", dir=_short_temporary_folder()))
        self.socket = self._folder / "fleet.sock"
        self._control = self._folder / "control"
        self._said = ""
        self._deadline = time.monotonic() + ssh.timeout_s
        arguments = [
            *("-T", "-M", "-S", str(self._control), "-o", "ControlPersist=no", "-o", "ExitOnForwardFailure=yes"),
            *("-L", f"{self.socket}:{remote_socket}", *ssh.arguments(address), _GREETING),
        ]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", str(self._folder), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us to handle
        )

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End ssh and remove the folder; any number of times."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def greeting(self) -> int:
        """The descriptor that is readable when the connection is up or has failed."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def greeted(self) -> bool:
        """Read the output of the other side; True when it is up. Raises :class:`Failure` when ssh gave up."""
        said = os.read(self.greeting, 4096)
        if not said:
            raise Failure(self._complaint(), where=str(self.address))
        self._said += said.decode(errors="replace")
        # A login script may talk as well: the id is a line of its own.
        found = re.search(r"^([0-9a-f]{32})\r?\n", self._said, re.MULTILINE)
        if found is None:
            if len(self._said) > 65536:
                raise Failure("the node prints too much at login", where=str(self.address))
            return False
        self.machine_id = found.group(1)
        return True

    @property
    def overdue_in_s(self) -> float:
        """Seconds until the connection has taken too long."""
        return self._deadline - time.monotonic()

    def overdue(self) -> Failure:
        """What to report when it has."""
        return Failure(f"no answer within {self._ssh.timeout_s:g} s", where=str(self.address))

    def session(self, line: str, *, machine: Machine | None = None, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs the shell's ``line`` (a login shell when empty) on the tunnel's node, or on
        ``machine`` by a hop from there.

        ``options`` are for the ssh to the machine: ``-t``, ``-A``, ``-p``.
        """
        shared = ["ssh", "-S", str(self._control)]
        if machine is None:
            return [*shared, *options, *self._ssh.arguments(self.address), *_remote(line)]
        hop = shlex.join([*shared, "-W", "%h:%p", *self._ssh.arguments(self.address)])
        return direct_session(self._ssh, machine, line, options=["-o", f"ProxyCommand={hop}", *options])

    def _complaint(self) -> str:
        """The last line of ssh's standard error; it has ended when this is called."""
        assert self._process.stderr is not None
        lines = [line.strip() for line in self._process.stderr.read().decode(errors="replace").splitlines()]
        complaint = next((line for line in reversed(lines) if line), "")
        return complaint.removeprefix("ssh: ") or f"ssh ended with exit code {self._process.wait()}"


def direct_session(ssh: Ssh, machine: Machine, line: str, *, options: Sequence[str] = ()) -> list[str]:
    """The command line that runs the shell's ``line`` on ``machine``; raises :class:`Failure` when its address is none.

    The address came over the network and ends up in a command line: nothing but an IP address is taken.
    """
    try:
        host = str(ipaddress.ip_address(machine.ip))
    except ValueError:
        raise Failure(
            f"its address {machine.ip!r} is no IP address",
            where=f"machine {machine.id}",
            hint="set coreos.fleet.public-ip in its cloud-config",
        ) from None
    return ["ssh", *options, *ssh.arguments(Address(host)), *_remote(line)]


class Usable(Protocol):
    """Checks that a node is usable.

    Raises :class:`Failure` if it is not, or, unless ``patiently``, if it is not usable at once."""

    def __call__(self, tunnel: Tunnel, *, patiently: bool) -> None: ...


@contextlib.contextmanager
def open_tunnel(
    addresses: Sequence[Address],
    ssh: Ssh,
    remote_socket: str,
    usable: Usable,
    *,
    stagger_s: float,
) -> Iterator[Tunnel]:
    """Connect to the first node of ``addresses`` that can be reached and that is ``usable``.

    ``remote_socket`` is the path of the fleet socket on the node.

    The next node is tried as soon as one fails, or does not answer within ``stagger_s``; the slower one stays in the
    race. Only if none is usable at once, those that were reached are tried again, patiently: a node that is cut off
    from the others costs little then, and an election that all of them wait for is waited for. Raises :class:`Failure`
    with the error of each of them.
    """
    ssh.prepare()
    with contextlib.ExitStack() as cleanup:

        def start(address: Address) -> Tunnel:
            return cleanup.enter_context(Tunnel(address, ssh, remote_socket))

        selector = cleanup.enter_context(selectors.DefaultSelector())
        tunnel, trouble = _race(addresses, start, usable, stagger_s, selector)
        if tunnel is None:
            raise _unreachable(trouble, ssh)
        yield tunnel


def _race(
    addresses: Sequence[Address],
    start: Callable[[Address], Tunnel],
    usable: Usable,
    stagger_s: float,
    selector: selectors.BaseSelector,
) -> tuple[Tunnel | None, list[Failure]]:
    """The winner, all others closed, and what was wrong with those that failed."""
    waiting = list(addresses)
    running: list[Tunnel] = []
    doubtful: list[Tunnel] = []
    trouble: list[Failure] = []
    next_start = 0.0

    def leave(tunnel: Tunnel) -> None:
        selector.unregister(tunnel.greeting)
        running.remove(tunnel)

    def won(tunnel: Tunnel) -> tuple[Tunnel, list[Failure]]:
        for other in (*running, *doubtful):
            if other is not tunnel:
                other.close()
        return tunnel, trouble

    while waiting or running:
        if waiting and (not running or time.monotonic() >= next_start):
            running.append(start(waiting.pop(0)))
            selector.register(running[-1].greeting, selectors.EVENT_READ, running[-1])
            next_start = time.monotonic() + stagger_s
        limits = [each.overdue_in_s for each in running] + ([next_start - time.monotonic()] if waiting else [])
        ready = {key.data for key, _ in selector.select(max(0.0, min(limits)))}
        for tunnel in running.copy():
            try:
                greeted = tunnel in ready and tunnel.greeted()
                if not greeted and tunnel.overdue_in_s <= 0:
                    raise tunnel.overdue()
            except Failure as failure:
                trouble.append(failure)
                leave(tunnel)
                tunnel.close()
                continue
            if greeted:
                leave(tunnel)
                doubtful.append(tunnel)
                with contextlib.suppress(Failure):  # it is tried again if no other is better
                    usable(tunnel, patiently=False)
                    return won(tunnel)
    for tunnel in doubtful:
        try:
            usable(tunnel, patiently=True)
            return won(tunnel)
        except Failure as failure:
            trouble.append(failure)
            tunnel.close()
    return None, trouble


def _unreachable(trouble: Sequence[Failure], ssh: Ssh) -> Failure:
    listed = "".join(f"\n  {each}" for each in trouble)
    return Failure(f"no node can be reached through ssh:{listed}", hint=_hint(trouble, ssh))


def _hint(trouble: Sequence[Failure], ssh: Ssh) -> str:
    text = " ".join(each.message for each in trouble)
    if "Host key verification failed" in text:
        return f"the node has another key than last time; if it was built again, remove its line from {ssh.known_hosts}"
    if "Permission denied" in text:
        return "give the cluster's key with --ssh-identity-file, or add it to your ssh agent"
    return next((each.hint for each in trouble if each.hint), "is the node up? check --tunnel and --ssh-timeout")


def _remote(line: str) -> list[str]:
    return [line] if line else []


def _short_temporary_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _PATH_MAX else "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
