"""One node of a cluster, as a test or a command holds it."""

from __future__ import annotations

import base64
import re
import shlex
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cluster.client import control, root_shell
from cluster.client.clock import Clock
from cluster.client.disk import Disk
from cluster.client.eventually import eventually
from cluster.client.fault import Fault
from cluster.client.ssh import Connection
from cluster.client.unit import Unit
from cluster.model import connection_uri
from cluster.model.description import Description
from cluster.model.layout import Layout
from cluster.model.machine import cluster_address
from cluster.model.protocol import (
    DEADLINE_S,
    KillNode,
    NodeState,
    PauseNode,
    PowerCut,
    RebootNode,
    Request,
    ResumeNode,
    SetClock,
    StartNode,
    Status,
    StopNode,
)
from cluster.model.run import RunResult
from etcd import Tls, credentials
from terminal import Failure

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
RUN_DEADLINE_S = 30.0
"""For a command on a node, with hardware; times the accelerator's factor."""
CONNECT_DEADLINE_S = 6.0
"""For reaching the node's ssh server, likewise: key exchange and log-in are most of it."""
START_DEADLINE_S = 60.0
SEND_DEADLINE_S = 3600.0
"""Likewise, of a node on another computer, to which the image is sent first."""
STOP_DEADLINE_S = 60.0
REBOOT_DEADLINE_S = 90.0
ETCD_PORT = 2379
SERVER_CERTIFICATE = str(credentials.FOLDER / "etcd-server.crt")
TAIL_BYTES = 1 << 16
TERMINAL_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[@-Z\\^_])")
"""Colours and cursor moves, which systemd writes to consoles; ECMA-48."""


class Node:
    """Node ``number`` of a cluster.

    Methods that take time have a ``timeout`` in seconds, by default one that fits the accelerator.
    """

    def __init__(self, number: int, description: Description, layout: Layout) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.address = cluster_address(number)
        self.ssh_port = description.ssh_port(number)
        self.folder = layout.node(number)
        self.factor = description.accelerator.factor
        """How many times longer than with hardware everything takes there."""
        self.control = layout.control
        self._start_deadline_s = (
            START_DEADLINE_S if connection_uri.count_here(description.connect, [number]) else SEND_DEADLINE_S
        )
        self.disk = Disk(number, self._ask, self.factor)
        self.clock = Clock(number, self._ask, self.factor)
        self._operator = layout.operator
        self._ssh = Connection(
            self.ssh_port,
            layout.key,
            layout.known_hosts,
            (self.address, self.name),
            patience_s=CONNECT_DEADLINE_S * self.factor,
        )

    def run(self, command: str, timeout: float | None = None, *, stdin: Path | None = None) -> RunResult:
        """Run a shell command as ``core``, fed with the file ``stdin``.

        Raises :class:`Failure` if it cannot be run or takes too long.
        """
        seconds = timeout if timeout is not None else RUN_DEADLINE_S * self.factor
        if stdin is None:
            return self._ssh.run(command, seconds)
        with stdin.open("rb") as file:
            return self._ssh.run(command, seconds, file)

    def root(self, command: str, timeout: float | None = None, *, stdin: Path | None = None) -> RunResult:
        """Run a shell command as root through the hypervisor: no network, no ssh and no login is needed for it.

        Raises :class:`Failure` if the node has no root shell (yet: it comes early in the boot), or takes too long.
        """
        seconds = timeout if timeout is not None else RUN_DEADLINE_S * self.factor
        if stdin is None:
            return root_shell.run(self.control, self.number, command, seconds)
        with stdin.open("rb") as file:
            return root_shell.run(self.control, self.number, command, seconds, file)

    @property
    def has_shell(self) -> bool:
        """Whether :meth:`root` can be used just now. Raises :class:`Failure` if the supervisor does not answer."""
        return any(node.shell for node in self._states())

    def clock_set(self, epoch_s: float, *, rtc: bool = False) -> tuple[float, float]:
        """Set the node's wall clock, and its hardware clock if ``rtc``; returns its time before and after.

        The new time is ``epoch_s`` seconds since 1970.

        Raises :class:`Failure`.
        """
        seconds = RUN_DEADLINE_S * self.factor
        times = self._ask(SetClock(self.number, epoch_s, rtc), deadline_s=seconds)
        return times.before, times.after

    def pin(self, public_key: str) -> None:
        """Pin ``public_key``, a line as in OpenSSH's ``.pub`` files, as the key of the node's ssh server.

        Raises :class:`Failure`.
        """
        self._ssh.pin(public_key)

    def check(self, command: str, timeout: float | None = None) -> str:
        """Run a shell command that must succeed; returns what it printed.

        Raises :class:`Failure` with its error output.
        """
        return self._checked(command, self.run(command, timeout))

    def ask(self, command: str, timeout: float | None = None) -> str:
        """Run, as root, a shell command that only looks, and return what it printed. Raises :class:`Failure`."""
        return self._checked(command, self.root(command, timeout))

    def poll(self, command: str, within: float = RUN_DEADLINE_S) -> str:
        """Run a shell command again and again until it succeeds, and return what it printed then.

        ``within`` is seconds with hardware, scaled. Raises :class:`Failure` with its last output.
        """
        results: list[RunResult] = []

        def succeeds() -> bool:
            results[:] = [self.run(command)]
            self._checked(command, results[0])
            return True

        eventually(succeeds, within * self.factor, what=f"{command!r} on {self.name}")
        return results[0].out

    def unit(self, name: str) -> Unit:
        """The systemd unit called ``name``."""
        return Unit(self, name)

    def journal(self, unit: str | None = None, *, lines: int | None = None, since: str | None = None) -> str:
        """The last ``lines`` of the node's journal, of one unit if named.

        ``since`` is as for journalctl(1) ("-2min"). Raises :class:`Failure`.
        """
        command = "journalctl --no-pager --quiet --output=short-iso-precise"
        command += "" if unit is None else f" --unit={shlex.quote(unit)}"
        command += "" if lines is None else f" --lines={lines}"
        command += "" if since is None else f" --since={shlex.quote(since)}"
        return self.ask(command).rstrip("\n")

    def get(self, remote: str, local: Path, timeout: float | None = None) -> None:
        """Copy the file ``remote``, which ``core`` may read, to the path ``local``, in one step.

        Raises :class:`Failure`, OSError.
        """
        content = base64.b64decode(self.check(f"base64 -w0 -- {shlex.quote(remote)}", timeout))
        part = local.with_name(f"{local.name}.part")
        part.write_bytes(content)
        part.replace(local)

    def put(self, local: Path, remote: str, *, mode: int = 0o644, timeout: float | None = None) -> None:
        """Copy the file ``local`` to the path ``remote``, in one step. Raises :class:`Failure`."""
        target, part = shlex.quote(remote), shlex.quote(remote + ".part")
        command = f"cat > {part} && chmod {mode:o} {part} && mv {part} {target}"
        self._checked(command, self.run(command, timeout, stdin=local))

    def load_image(self, archive: Path, timeout: float | None = None) -> str:
        """Load the docker-archive ``archive`` into the node's docker; returns docker's output.

        Raises :class:`Failure`.
        """
        seconds = timeout if timeout is not None else 4 * RUN_DEADLINE_S * self.factor
        return self._checked("docker load", self.run("docker load", seconds, stdin=archive)).strip()

    def http(self, port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Ask an HTTP server on the node's loopback, see :meth:`cluster.client.ssh.Connection.http`."""
        return self._ssh.http(port, method, path, body, timeout=CONNECT_DEADLINE_S * self.factor)

    def etcd(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Ask the node's etcd, or the proxy for it, as its JSON gateway has it, with this computer's certificate.

        Returns status and body. Raises :class:`Failure` as :meth:`http`, and if the certificate cannot be read.
        """
        seconds = CONNECT_DEADLINE_S * self.factor
        return self._ssh.http(ETCD_PORT, method, path, body, timeout=seconds, context=self._etcd_context)

    @cached_property
    def _etcd_context(self) -> ssl.SSLContext | None:
        """With this computer's certificate, read once: clients under load ask thousands of times."""
        return operator_tls(self._operator).context() if self.has_certificates else None

    @property
    def has_certificates(self) -> bool:
        """Whether its user-data gives it some, so that its etcd takes nothing but TLS."""
        return SERVER_CERTIFICATE in (self.folder / "user-data").read_text()

    def start(self) -> None:
        """Switch the node on, with the disk it has; returns when its machine runs.

        Raises :class:`Failure` if it is on.
        """
        self._ask(StartNode(self.number), deadline_s=self._start_deadline_s)

    def kill(self) -> Fault:
        """Pull the node's plug; healed, it is switched on again."""
        self._ssh.close()
        self._ask(KillNode(self.number))
        return Fault(f"kill {self.name}", self._switch_on)

    def _switch_on(self) -> None:
        if any(node.state == "off" for node in self._states()):
            self.start()

    def power_cut(self) -> None:
        """Pull the node's plug and put it back at once: it boots, without its unwritten data.

        Raises :class:`Failure` if it is off.
        """
        self._ssh.close()
        self._ask(PowerCut((self.number,)), deadline_s=60)

    def reboot(self, *, graceful: bool = True, timeout: float | None = None) -> None:
        """Make the node's system reboot, or press its reset button.

        Returns when its root shell is there again, early in the new boot.

        Raises :class:`Failure`.
        """
        self._ssh.close()
        seconds = timeout if timeout is not None else REBOOT_DEADLINE_S * self.factor
        self._ask(RebootNode(self.number, graceful), deadline_s=seconds)

    def stop(self) -> None:
        """Press the node's power button and wait until it is off."""
        self._ssh.close()
        self._ask(StopNode(self.number), deadline_s=STOP_DEADLINE_S * self.factor)

    def pause(self) -> Fault:
        """Stop the node's time until it is healed. Raises :class:`Failure` if it is off."""
        self._ask(PauseNode(self.number))
        return Fault(f"pause {self.name}", self.resume)

    def resume(self) -> None:
        """Let the node's time go on. Raises :class:`Failure` if it is off."""
        self._ask(ResumeNode(self.number))

    @property
    def console_log(self) -> Path:
        """The node's output on its serial console since its machine was made. There is none before its first start.

        If that is more than :data:`cluster.model.logs.BYTES_MAX`, its last part is in ``console.log.1`` beside it, and
        the rest is gone.
        """
        return self.folder / "console.log"

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of the node's console, without control characters; empty if there is none yet."""
        try:
            with self.console_log.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(plain_lines(text)[-lines:])

    def _states(self) -> list[NodeState]:
        """Its state, from those of all nodes; none if the cluster no longer has it."""
        return [node for node in self._ask(Status()).nodes if node.node == self.number]

    def _ask(self, request: Request[T], /, *, deadline_s: float = DEADLINE_S) -> T:
        return control.ask(self.control, request, deadline_s=deadline_s)

    def close(self) -> None:
        """Hang up the connection; the next call makes another."""
        self._ssh.close()

    def _checked(self, command: str, result: RunResult) -> str:
        if result.rc != 0:
            said = (result.err.strip() or result.out.strip()).splitlines()[-1:]
            raise Failure(
                f"{command!r} failed with exit code {result.rc}: {said[0] if said else 'no output'}", where=self.name
            )
        return result.out


def operator_tls(folder: Path) -> Tls:
    """The certificates of a cluster's operator (:attr:`cluster.model.layout.Layout.operator`)."""
    return Tls(*(str(folder / name) for name in ("etcd-clients-ca.crt", "etcd-client.crt", "etcd-client.key")))


def plain_lines(text: str) -> list[str]:
    """What a person would read of a console's output: the lines that are not empty, without control characters."""
    lines = TERMINAL_SEQUENCE.sub("", text).splitlines()
    clean = ("".join(c for c in line if c.isprintable() or c == "\t").rstrip() for line in lines)
    return [line for line in clean if line]
