"""A cluster as a command or a test holds it: found by name, its nodes, its processes, its end."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.client import control
from cluster.client.eventually import T, eventually
from cluster.client.fault import Fault
from cluster.client.net import Net
from cluster.client.node import CONNECT_DEADLINE_S, Node
from cluster.client.ssh import USER
from cluster.machines.process import Process, running
from cluster.model.description import Description
from cluster.model.layout import NAME_PATTERN, Layout, clusters_root, make_private
from cluster.model.protocol import (
    DEADLINE_S,
    Adopt,
    ClusterState,
    Faults,
    Heal,
    Mark,
    NodeState,
    PowerCut,
    Request,
    ShiftTime,
    Shutdown,
    StartRegistry,
    Status,
)
from cluster.model.status import ClusterStatus, FaultStatus, NodeStatus
from cluster.network.impairment import no_port
from cluster.services.addresses import services
from terminal import Failure, record
from terminal.lock import locked

SUPERVISOR_DEADLINE_S = 20.0
"""For the supervisor to listen: a Python start on a busy computer."""
ENDING_GRACE_S = 20.0
TIME_DEADLINE_S = 30.0
"""For the supervisor to set its time server right; no node takes part in that."""
ADOPT_DEADLINE_S = 60.0
POWER_CUT_DEADLINE_S = 60.0
HEAL_DEADLINE_S = 60.0
"""For all faults of a cluster, with hardware: a disk is emptied, clocks are set."""


class Cluster:
    """The cluster with a given layout. Nothing here caches what is running: each call looks again."""

    def __init__(self, layout: Layout, description: Description) -> None:
        self.layout = layout
        self.description = description
        self.name = description.name
        self.nodes = [Node(number, description, layout) for number in description.numbers]

    @classmethod
    def create(cls, layout: Layout, description: Description) -> Cluster:
        """Make the folder of a new cluster and write down what it is. Raises :class:`Failure` or OSError."""
        layout.state.mkdir(mode=0o700, parents=True)
        make_private(layout.runtime)
        description.save(layout.description)
        return cls(layout, description)

    @classmethod
    def open(cls, name: str = "default") -> Cluster:
        """The cluster called ``name``. Raises :class:`Failure` if there is none."""
        try:
            return cls._load(name)
        except FileNotFoundError:
            known = ", ".join(Cluster.names()) or "none"
            raise Failure(f"there is no cluster {name!r} (there are: {known})", hint="cluster-up 3 makes one") from None

    @classmethod
    def _load(cls, name: str) -> Cluster:
        layout = Layout.of(name)
        description = Description.load(layout.description)
        return cls(Layout(layout.state, Path(description.runtime)), description)

    @staticmethod
    def names() -> list[str]:
        """The names of this user's clusters."""
        names = (path.parent.name for path in clusters_root().glob("*/cluster.json"))
        return sorted(filter(NAME_PATTERN.fullmatch, names))

    @classmethod
    def list(cls) -> list[Cluster]:
        """This user's clusters, by name, but for those of another version of this program."""
        found = []
        for name in cls.names():
            with suppress(FileNotFoundError, Failure):  # just removed, or of another version
                found.append(cls._load(name))
        return found

    @classmethod
    def reserved_ports(cls) -> set[int]:
        """The ports of this user's clusters, running or not.

        Those of a cluster that another version of this program made are not known.
        """
        ports: set[int] = set()
        for name in cls.names():
            with suppress(FileNotFoundError, Failure):
                description = cls._load(name).description
                ports |= {*description.ssh_ports, description.discovery_port}
        return ports

    def node(self, text: str) -> Node:
        """The node called ``text``: "node-2", or just "2". Raises :class:`UsageFailure`."""
        for node in self.nodes:
            if text in (node.name, str(node.number)):
                return node
        raise no_port(text, [node.name for node in self.nodes], f" in cluster {self.name!r}")

    @property
    def net(self) -> Net:
        """Its network, to be broken on purpose."""
        return Net(self.ask, lambda: [node.number for node in self.nodes])

    def running_node(self, text: str) -> Node:
        """:meth:`node`, of a cluster that runs. Raises :class:`Failure` if it does not."""
        self.require_running()
        return self.node(text)

    @property
    def is_running(self) -> bool:
        """Whether its supervisor is alive; single nodes may be off."""
        recorded = processes(self.layout)
        return bool(recorded) and recorded[0].alive

    def require_running(self) -> None:
        """Raise :class:`Failure` unless the cluster runs."""
        if not self.is_running:
            raise Failure(
                f"cluster {self.name!r} is not running",
                hint=f"cluster start --name {self.name} boots it again",
            )

    def launch(self) -> None:
        """Start the supervisor in the background; returns when it listens.

        Raises :class:`Failure` with what it said.
        """
        end_processes(self.layout)
        make_private(self.layout.runtime)
        package_parent = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")])),
        }
        log = str(self.layout.supervisor_log)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *supervisor_arguments(self.layout)],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # a Ctrl-C in this terminal is not for it
            setsigdef=[signal.SIGINT, signal.SIGTERM],
        )
        try:
            self._wait_for_supervisor(pid)
        except BaseException:
            # It has not recorded its process yet, so no other command could find it to end it.
            if (supervisor := Process.of(pid)) is not None:
                supervisor.end()
            raise

    def _wait_for_supervisor(self, pid: int) -> None:
        deadline = time.monotonic() + SUPERVISOR_DEADLINE_S
        while not self.layout.supervisor.exists():
            if Process.of(pid) is None or time.monotonic() > deadline:
                log = self.layout.supervisor_log
                said = log.read_text(errors="replace").strip().splitlines()
                raise Failure(
                    f"the cluster's supervisor did not start: {said[-1] if said else 'no message'}", where=str(log)
                )
            time.sleep(0.02)

    def ask(self, request: Request[T], /, *, deadline_s: float = DEADLINE_S) -> T:
        """Ask the supervisor, see :func:`cluster.client.control.ask`. Raises :class:`Failure`."""
        self.require_running()
        return control.ask(self.layout.control, request, deadline_s=deadline_s)

    def power_cut(self, nodes: Sequence[Node] | None = None) -> None:
        """Pull the plugs of ``nodes`` (all) at one moment, and put them back: they boot.

        Raises :class:`Failure` if one is off.
        """
        chosen = self.nodes if nodes is None else nodes
        for node in chosen:
            node.close()
        self.ask(PowerCut(tuple(node.number for node in chosen)), deadline_s=POWER_CUT_DEADLINE_S)

    def faults(self) -> Sequence[FaultStatus]:
        """What is broken on purpose now, oldest first: ``id``, ``what``, ``nodes``. Raises :class:`Failure`."""
        return [fault.data() for fault in self.ask(Faults())]

    def heal(self, number: int | None = None) -> Sequence[int]:
        """Heal all faults, or that with this number; returns the numbers of those that were healed now.

        Raises :class:`Failure`.
        """
        return self.ask(Heal(number), deadline_s=HEAL_DEADLINE_S * self.description.accelerator.factor)

    def status(self) -> ClusterStatus:
        """The cluster's state for ``cluster status --json``."""
        live = self.ask(Status()) if self.is_running else ClusterState(0, (), {}, ())
        by_number = {state.node: state for state in live.nodes}
        off = NodeState(0, "off", pid=None, started_at=None, ended=None, shell=False, boot=None)
        nodes: list[NodeStatus] = [
            {
                "name": node.name,
                "state": (state := by_number.get(node.number, off)).state,
                "address": node.address,
                "role": self.description.role(node.number),
                "ssh_port": node.ssh_port,
                "pid": state.pid,
                "ended": state.ended,
                "network": live.network.get(str(node.number)),
            }
            for node in self.nodes
        ]
        accelerator = self.description.accelerator
        return {
            "name": self.name,
            "state": "running" if self.is_running else "stopped",
            "accelerator": {"name": accelerator.name, "factor": accelerator.factor, "reason": accelerator.reason},
            "memory_mib": self.description.memory_mib,
            "discovery": self.description.served(f"127.0.0.1:{self.description.discovery_port}"),
            "folder": str(self.layout.state),
            "services": services(self.description),
            "nodes": nodes,
            "faults": [fault.data() for fault in live.faults],
        }

    def push(
        self, image: Path, name: str | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> tuple[str, ...]:
        """Push the images in a docker-archive or OCI layout into the cluster's registry.

        See :func:`cluster.services.push.push`.

        Returns the names under which nodes pull them. Raises :class:`Failure`.
        """
        from cluster.services.push import Shelf, push
        from cluster.services.registry import find

        self.ask(StartRegistry(str(find())))
        return push(image, Shelf(self.layout.registry_socket, self.layout.registry), name, progress)

    def shift_time(self, seconds: float) -> Fault:
        """Make the segment's time server wrong by ``seconds``; nodes follow at their next query.

        Raises :class:`Failure`.
        """
        from cluster.client.fault import recorded

        return recorded(self.ask, self.ask(ShiftTime(seconds)), TIME_DEADLINE_S)

    def exports(self) -> dict[str, str]:
        """The environment variables with which a plain ``fleetctl`` on this computer talks to this cluster."""
        patience = max(30, round(CONNECT_DEADLINE_S * self.description.accelerator.factor))
        return {
            "FLEETCTL_TUNNEL": ",".join(f"127.0.0.1:{node.ssh_port}" for node in self.nodes),
            "FLEETCTL_SSH_USERNAME": USER,
            "FLEETCTL_SSH_IDENTITY_FILE": str(self.layout.key),
            "FLEETCTL_KNOWN_HOSTS_FILE": str(self.layout.known_hosts),
            "FLEETCTL_STRICT_HOST_KEY_CHECKING": "true",
            "FLEETCTL_SSH_TIMEOUT": str(patience),
            "FLEETCTL_REQUEST_TIMEOUT": str(patience),
            "FLOTILLA_CLUSTER": self.name,
        }

    def exports_text(self) -> str:
        """:meth:`exports` as lines for a shell's ``eval``, and our commands' folder in front of PATH."""
        lines = [f"export {key}={shlex.quote(value)}" for key, value in self.exports().items()]
        # The folder of this Python, not of the file its link points to: that is where the console scripts are.
        return "\n".join([*lines, f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'])

    def eventually(self, predicate: Callable[[], T], within: float = 30.0, *, what: str = "") -> T:
        """The first true result of ``predicate``.

        See :func:`cluster.client.eventually.eventually`; ``within`` is seconds with hardware, scaled.

        Raises :class:`~cluster.client.eventually.NeverHappened` with the last answer, or the last trouble.
        """
        return eventually(predicate, within * self.description.accelerator.factor, what=what)

    def mark(self, text: str) -> None:
        """Put ``text`` on the timeline, now. Raises :class:`Failure`."""
        self.ask(Mark(text))

    def close(self) -> None:
        """Hang up all connections to nodes."""
        for node in self.nodes:
            node.close()

    @property
    def strays(self) -> Sequence[Path]:
        """Folders of nodes that it does not have: of one that was joining, or leaving, when the command was killed."""
        wanted = {self.layout.node(number) for number in self.description.numbers}
        return sorted(set(self.layout.state.glob("node-*")) - wanted)

    def tidy(self) -> None:
        """End and remove what is at work in it for nodes that it does not have. Raises :class:`Failure`."""
        if self.is_running:
            self.ask(Adopt(self.description), deadline_s=ADOPT_DEADLINE_S)
        for folder in self.strays:
            shutil.rmtree(folder)

    def stop(self) -> None:
        """Press every node's power button, wait, and end the supervisor; the disks are kept.

        Raises :class:`Failure`.
        """
        with ThreadPoolExecutor(len(self.nodes)) as executor:
            list(executor.map(Node.stop, self.nodes))
        self.close()
        end_processes(self.layout)

    def remove(self) -> None:
        """End every process and remove every file of the cluster."""
        self.close()
        remove(self.layout)


def supervisor_arguments(layout: Layout) -> list[str]:
    """The arguments with which Python is a cluster's supervisor."""
    return ["-m", "cluster.daemon.supervisor", str(layout.state)]


def processes(layout: Layout) -> list[Process]:
    """The processes that a supervisor wrote down, itself first; none if it ended in an orderly way."""
    try:
        return [record.build(Process, entry) for entry in record.parse(layout.supervisor.read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def end_processes(layout: Layout) -> None:
    """End the supervisor and the QEMUs of a cluster in any state, and clean up what a killed supervisor left."""
    recorded = processes(layout)
    if not recorded:
        # One that is still starting, of a command that was killed, has recorded nothing, and would begin to write
        # into the folder after this.
        recorded = running(supervisor_arguments(layout))
    if recorded and recorded[0].alive:
        with suppress(Failure):  # it may hang; then it is killed
            control.ask(layout.control, Shutdown(), deadline_s=5)
            recorded[0].wait_gone(ENDING_GRACE_S)
        recorded[0].end()
    for process in recorded[1:]:
        process.send(signal.SIGKILL)
        process.wait_gone(ENDING_GRACE_S)
    layout.supervisor.unlink(missing_ok=True)


def remove(layout: Layout) -> None:
    """End every process and remove every file of the cluster with this layout; it may be a torso, or not exist."""
    description = None
    with suppress(FileNotFoundError, Failure):
        description = Description.load(layout.description)
        layout = Layout(layout.state, Path(description.runtime))
    end_processes(layout)
    if description is not None and description.driver == "libvirt":
        from cluster.machines.libvirt_driver import forget

        make_private(layout.runtime)  # for the socket of the way to another computer
        forget(description, layout)
    if description is not None and description.driver == "namespaces":
        from cluster.machines.namespaces.driver import forget_groups

        forget_groups(description, layout)
    remove_tree(layout.runtime)
    # Before all other files: if this process is killed, the rest is a torso, which the next command removes, and not a
    # cluster with half of its disks.
    layout.description.unlink(missing_ok=True)
    remove_tree(layout.state)
    with suppress(OSError):
        layout.runtime.parent.rmdir()  # another cluster's sockets may be there


def remove_tree(folder: Path) -> None:
    """Remove a folder that other programs may be removing, too, or that is gone."""
    while folder.exists():
        with suppress(FileNotFoundError):  # the next command of another program removes what is left, too
            shutil.rmtree(folder)


@contextmanager
def changing(layout: Layout) -> Iterator[None]:
    """Hold the cluster's lock: one command at a time makes or removes it.

    Raises :class:`Failure` if another one is at it, or if this user may not write there.
    """
    try:
        layout.lock.parent.mkdir(parents=True, exist_ok=True)
        layout.lock.touch()
    except OSError as error:
        hint = "put clusters elsewhere: XDG_STATE_HOME=/some/folder"
        raise Failure("clusters cannot be kept here", where=str(layout.lock.parent), hint=hint) from error
    while True:
        with layout.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failure(
                    f"another command is making or removing cluster {layout.state.name!r}",
                    hint="wait for it, or end it with Ctrl-C",
                ) from error
            if not _is_at(lock.fileno(), layout.lock):
                continue  # its former holder removed the file between our opening and locking it
            try:
                yield
            finally:
                layout.lock.unlink(missing_ok=True)
            return


@contextmanager
def choosing_ports() -> Iterator[None]:
    """Wait for, and hold, this user's turn to choose ports; a cluster's are taken once its description is saved."""
    with locked(clusters_root(), fcntl.LOCK_EX):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let the block end: a second, impatient Ctrl-C would leave half of what is being removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not reach it
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
