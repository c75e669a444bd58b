"""What a cluster is, as data: the content of ``cluster.json``.

From it, every process of the cluster derives the same machines.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.model import machine
from cluster.model.accelerator import Accelerator
from cluster.model.layout import Layout
from cluster.model.machine import Machine
from terminal import Failure, record

VERSION = 2
"""1 had no certificates."""
FORWARD = Path(__file__).parents[1] / "machines" / "forward.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A cluster, decided once by ``cluster up``. ``ready`` turns true when it has come up; until then it is a torso."""

    name: str
    runtime: str
    """The folder of its sockets: kept, since another shell may have another ``XDG_RUNTIME_DIR``."""
    qemu: str
    accelerator: Accelerator
    memory_mib: int
    ssh_ports: tuple[int, ...]
    discovery_port: int
    agent_ttl: str
    architecture: str = "amd64"
    """Of its nodes."""
    datasource: str = "nocloud"
    """Where they take their user-data from."""
    files: str | None = None
    """The folder of this computer that they may read over HTTP."""
    driver: str = "qemu"
    """What runs the nodes: "qemu", "libvirt" or "namespaces"."""
    connect: tuple[str, ...] = ()
    """libvirt's URIs, to which nodes are dealt in turn."""
    ready: bool = False
    node_numbers: tuple[int, ...] = ()
    """Of its nodes, in the order of ``ssh_ports``; empty for 1 to N, as long as none has joined or left."""
    member_numbers: tuple[int, ...] = ()
    """Of the nodes that are members of etcd; empty for the first ones, likewise."""
    last_number: int = 0
    """The highest that any node ever had, likewise. A new node must not get what etcd knows of one that left."""
    services_fingerprint: str = ""
    """SHA-256 of the certificate of what this computer serves to nodes; empty for a cluster of before it had one."""
    token: str = ""
    """Of the discovery service, for nodes that join later."""
    template: str = ""
    """The text of the user-data template; empty for the packaged one."""
    load_images: tuple[str, ...] = ()
    """The docker-archives that were loaded on every node."""

    def __post_init__(self) -> None:
        """Raises ValueError for nodes that are not those that have a port."""
        numbers = self.numbers
        if not numbers or len(set(numbers)) != len(self.ssh_ports) or not set(self.member_numbers) <= set(numbers):
            raise ValueError("its nodes are not those that have a port")

    @property
    def size(self) -> int:
        """How many nodes."""
        return len(self.ssh_ports)

    @property
    def members(self) -> int:
        """How many of them are members of etcd; the others are its proxies."""
        return len(self.member_numbers) or members_of(self.size)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The nodes' numbers, ascending."""
        return self.node_numbers or tuple(range(1, self.size + 1))

    def role(self, number: int) -> str:
        """What node ``number`` is to etcd: "member" or "proxy"."""
        members = self.member_numbers or self.numbers[: self.members]
        return "member" if number in members else "proxy"

    def ssh_port(self, number: int) -> int:
        """The port of this computer that leads to node ``number``'s ssh server."""
        return self.ssh_ports[self.numbers.index(number)]

    def joined(self, ssh_port: int, *, member: bool) -> Description:
        """This cluster with one node more, whose number is the next one."""
        number = max(self.last_number, *self.numbers) + 1
        members = tuple(each for each in self.numbers if self.role(each) == "member")
        return replace(
            self,
            node_numbers=(*self.numbers, number),
            ssh_ports=(*self.ssh_ports, ssh_port),
            member_numbers=(*members, number) if member else members,
            last_number=number,
        )

    def left(self, number: int) -> Description:
        """This cluster without node ``number``."""
        numbers = tuple(each for each in self.numbers if each != number)
        return replace(
            self,
            node_numbers=numbers,
            ssh_ports=tuple(self.ssh_port(each) for each in numbers),
            member_numbers=tuple(each for each in numbers if self.role(each) == "member"),
            last_number=max(self.last_number, *self.numbers),
        )

    def save(self, path: Path) -> None:
        """Write to ``path`` in one step, for its owner alone: the template and the token of discovery are secrets."""
        part = path.with_suffix(".part")
        part.touch(0o600)
        part.write_text(json.dumps(self.data(), indent=1) + "\n")
        part.replace(path)

    def data(self) -> dict[str, object]:
        """For JSON."""
        return {"v": VERSION, **asdict(self)}

    @classmethod
    def of(cls, data: object) -> Description:
        """What :meth:`data` gave. Raises ValueError if it is not that."""
        if not isinstance(data, dict) or data.get("v") != VERSION:
            raise ValueError("another version")
        return record.build(cls, {key: value for key, value in data.items() if key != "v"})

    @classmethod
    def load(cls, path: Path) -> Description:
        """Read what :meth:`save` wrote.

        Raises FileNotFoundError, or :class:`Failure` if it is not that, or cannot be read.
        """
        data: object = None
        try:
            data = record.parse(path.read_bytes())
            return cls.of(data)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Failure("the cluster's description cannot be read", where=str(path)) from error
        except ValueError as error:
            if isinstance(data, dict) and data.get("v") == 1:
                raise _without_certificates(path, data) from None
            hint = f"remove the cluster: cluster down --name {path.parent.name}"
            raise Failure("this is no cluster description of this version", where=str(path), hint=hint) from error

    def machine(self, number: int, layout: Layout, incoming: Path | None = None) -> Machine:
        """The virtual machine of node ``number``, which continues from the content of the folder ``incoming``.

        Raises OSError if the image's command line cannot be read.
        """
        folder = layout.node(number)
        return Machine(
            number=number,
            name=f"flotilla-{self.name}-node-{number}",
            accelerator=self.accelerator.name,
            memory_mib=self.memory_mib,
            image=layout.image,
            cmdline=(layout.image / "cmdline").read_text().strip(),
            architecture=self.architecture,
            datasource=self.datasource,
            state_disk=folder / "state.img",
            cidata=folder / "cidata.iso",
            console=folder / "console.log",
            net_socket=layout.net_socket(number),
            qmp_socket=layout.qmp_socket(number),
            shell_socket=layout.shell_socket(number),
            ssh_port=self.ssh_port(number),
            forward=(os.fspath(sys.executable), "-I", "-S", str(FORWARD), "127.0.0.1", str(self.discovery_port)),
            incoming=incoming,
        )

    def discovery_url(self, token: str) -> str:
        """The address of ``token`` as a node sees it."""
        return self.served(f"{machine.HOST_ADDRESS}:{machine.DISCOVERY_PORT}/{token}")

    def served(self, place: str) -> str:
        """The URL of ``HOST:PORT/PATH``, at which the discovery service is; with its certificate pinned."""
        return f"https://{place}#sha256={self.services_fingerprint}" if self.services_fingerprint else f"http://{place}"


def _without_certificates(path: Path, data: dict[str, object]) -> Failure:
    """For a cluster of before: its etcd takes orders from whoever reaches it."""
    ports = data.get("ssh_ports")
    size, name = len(ports) if isinstance(ports, list) else "N", path.parent.name
    return Failure(
        "this cluster is of a version whose nodes had no certificates",
        where=str(path),
        hint=f"make it again: cluster down --name {name}, then cluster up {size} --name {name}",
    )


def members_of(size: int) -> int:
    """How many members of etcd a cluster of ``size`` nodes has.

    The loss of one (of 3) or two (of 5) must not stop it.
    """
    return 5 if size >= 10 else min(size, 3)
