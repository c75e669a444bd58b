"""Where a cluster's files are.

$XDG_STATE_HOME/flotilla/clusters/NAME/
    cluster.json        what the cluster is (description.py); supervisor.json: the processes that run it now
    key, key.pub        its ssh key; known_hosts: the nodes' host keys, pinned at first contact
    trust/              its authorities and what they issued (trust/folder.py); operator/: this computer's certificates
    image/              the image its nodes boot; discovery.json: the discovery service's memory
    timeline.jsonl      what was done to it; kept: there if no clean-up may remove it
    node-1/             state.img (sparse), cidata.iso, user-data, console.log, qemu.log
    .../*.log.1         the end of a log that became too long (logs.py)
$XDG_RUNTIME_DIR/flotilla/NAME-HASH/
    control, net-1, qmp-1 ...   sockets, whose paths the kernel limits to 107 bytes: so they are apart, and short
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from terminal import Failure, UsageFailure

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,30}")
SOCKET_PATH_BYTES_MAX = 107
"""``sun_path`` has 108 bytes, the last of which is a zero; unix(7)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cluster: ``state`` survives a reboot of this computer, ``runtime`` holds sockets."""

    state: Path
    runtime: Path

    @classmethod
    def of(cls, name: str, environment: Mapping[str, str] | None = None) -> Layout:
        """The layout of the cluster called ``name``.

        Raises :class:`UsageFailure` for an invalid name; touches no file.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise UsageFailure(
                f"{name!r} is no cluster name",
                hint="a letter, then letters, digits and dashes, all lower case: 'lab-2'",
            )
        env = os.environ if environment is None else environment
        state = clusters_root(env) / name
        # Two state directories may each have a "default"; the hash distinguishes their sockets.
        folder = f"{name}-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"
        bases = runtime_roots(env)
        fitting = [base for base in bases if len(os.fsencode(base / folder / "control")) <= SOCKET_PATH_BYTES_MAX]
        return cls(state, (fitting or bases)[0] / folder)

    @property
    def description(self) -> Path:
        """What the cluster is, see :class:`cluster.model.description.Description`."""
        return self.state / "cluster.json"

    @property
    def supervisor(self) -> Path:
        """The processes that run the cluster now."""
        return self.state / "supervisor.json"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's log."""
        return self.state / "supervisor.log"

    @property
    def services_log(self) -> Path:
        """The output of the QEMU behind the services."""
        return self.state / "services.log"

    @property
    def lock(self) -> Path:
        """Held by the command that changes the cluster; beside its folder, since it outlives that."""
        return self.state.parent / f".{self.state.name}.lock"

    @property
    def kept(self) -> Path:
        """An empty file, there if a person wants to look at the cluster although it did not come up or its test failed."""
        return self.state / "kept"

    @property
    def key(self) -> Path:
        """The private half of the cluster's ssh key; the public one has ``.pub`` behind."""
        return self.state / "key"

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys, in OpenSSH's format."""
        return self.state / "known_hosts"

    @property
    def trust(self) -> Path:
        """The trust folder (:mod:`trust`): the authorities of its etcd and fleet, and what they issued."""
        return self.state / "trust"

    @property
    def operator(self) -> Path:
        """The certificates with which this computer reaches the nodes' etcd."""
        return self.state / "operator"

    @property
    def image(self) -> Path:
        """The cluster's own copy (or hard links) of the image it was made from."""
        return self.state / "image"

    @property
    def discovery(self) -> Path:
        """What the discovery service remembers."""
        return self.state / "discovery.json"

    @property
    def services_certificate(self) -> Path:
        """Key and certificate of what this computer serves to nodes; clusters of before have none."""
        return self.state / "services.pem"

    @property
    def timeline(self) -> Path:
        """What was done to the cluster, see :mod:`cluster.model.timeline`."""
        return self.state / "timeline.jsonl"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.runtime / "control"

    def node(self, number: int) -> Path:
        """The folder of node ``number``."""
        return self.state / f"node-{number}"

    def node_logs(self, number: int) -> tuple[Path, ...]:
        """What node ``number`` wrote to its console, and its QEMU's output."""
        return self.node(number) / "console.log", self.node(number) / "qemu.log"

    def net_socket(self, number: int) -> Path:
        """The switch's socket for node ``number``."""
        return self.runtime / f"net-{number}"

    @property
    def registry(self) -> Path:
        """The container registry's data, settings and log, once there is one."""
        return self.state / "registry"

    @property
    def registry_socket(self) -> Path:
        """The container registry's socket, which takes images, too; nodes reach another (cluster.services.pulls)."""
        return self.runtime / "images"

    def qmp_socket(self, number: int) -> Path:
        """The monitor of node ``number``'s QEMU."""
        return self.runtime / f"qmp-{number}"

    def shell_socket(self, number: int) -> Path:
        """The port of node ``number``'s root shell."""
        return self.runtime / f"shell-{number}"


def clusters_root(environment: Mapping[str, str] | None = None) -> Path:
    """The folder that holds all clusters of this user."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - Path's needs HOME
    return Path(base).absolute() / "flotilla" / "clusters"


def runtime_roots(environment: Mapping[str, str] | None = None) -> list[Path]:
    """The folders that may hold the sockets of this user's clusters, the preferred one first."""
    env = os.environ if environment is None else environment
    bases = [Path(env["XDG_RUNTIME_DIR"]) / "flotilla"] if env.get("XDG_RUNTIME_DIR") else []
    return bases + [Path(parent) / f"flotilla-{os.getuid()}" for parent in (tempfile.gettempdir(), "/tmp")]  # noqa: S108 - see make_private


def cache_root(environment: Mapping[str, str] | None = None) -> Path:
    """The folder for what can be found out again."""
    env = os.environ if environment is None else environment
    base = env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - as above
    return Path(base).absolute() / "flotilla"


def make_private(folder: Path) -> None:
    """Make ``folder`` and its parent for this user alone, and verify that.

    The parent may lie in a world-writable place.

    Raises :class:`Failure` if it cannot be made, if another user made it first, or if it is a link.
    """
    for path in (folder.parent, folder):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            hint = "XDG_RUNTIME_DIR may be another user's (after su, say): unset XDG_RUNTIME_DIR"
            raise Failure("the folder for sockets cannot be made", where=str(path), hint=hint) from error
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise Failure(
                "the folder for sockets is not this user's alone",
                where=str(path),
                hint=f"look at it, then remove it: rm -r {path}",
            )
