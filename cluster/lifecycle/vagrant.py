"""What ``vagrant up`` gives a node before it boots: user-data on a seed volume.

Run by the Vagrantfile, see docs/vagrant.md.

    python -m cluster.lifecycle.vagrant accelerator           print "kvm" or "tcg": what runs guests here
    python -m cluster.lifecycle.vagrant seed FOLDER <request  make FOLDER/node-N.iso from JSON, see :class:`Request`

Every new cluster has its own token, and the discovery service that knows it runs on the first node. So nothing listens
on this computer, no firewall is in the way, and the service lives as long as the cluster. The Vagrantfile fixes all
addresses, so a first node that is made again can get the list of registered members: it must not found a second cluster
under the old name.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from cluster.lifecycle import certificates
from cluster.lifecycle.provision import ETCD_TIMES_MS, RECONCILE_S, template_text
from cluster.model.description import members_of
from discovery.client import pinned
from discovery.join import member_id
from discovery.registry import Registry
from terminal import Failure, UsageFailure, command, record
from webserver import selfmade

VERSION: Final = 3
"""1 had no certificates; 2 had none of the discovery service."""
DISCOVERY_PORT: Final = 7379
DOCKER_PORT: Final = 2375
AGENT_TTL: Final = "30s"
TOKEN_TTL_S: Final = 100 * 365 * 86400
"""A node may be added to a cluster at any age, and the service has this one token only."""
REGISTRY: Final = "/etc/flotilla/discovery.json"
"""On the first node: the token, as the service finds it when it starts for the first time."""
CERTIFICATE: Final = "/etc/flotilla/discovery.pem"
"""There, too: the service's key and certificate, which the discovery URL pins."""

_DISCOVERY_SERVICE: Final = """\
# So that machines find their cluster; the first of them has it. See docs/vagrant.md.
[Unit]
Description=Discovery service of this cluster
After=systemd-networkd.service
# Until the card has its address.
StartLimitIntervalSec=0

[Service]
DynamicUser=yes
StateDirectory=discovery
LoadCredential=registry:{registry}
LoadCredential=certificate:{certificate}
ExecStartPre=/usr/bin/cp --update=none ${{CREDENTIALS_DIRECTORY}}/registry ${{STATE_DIRECTORY}}/registry
ExecStart=/usr/bin/discovery serve --listen {listen} --state ${{STATE_DIRECTORY}}/registry --ttl {ttl} \\
  --certificate ${{CREDENTIALS_DIRECTORY}}/certificate
Restart=always
RestartSec=2s
"""
_DOCKER_SOCKET: Final = """\
[Unit]
Description=Docker's API, for the computer that runs this machine

[Socket]
ListenStream={address}:{port}
FreeBind=yes
Service=docker.service
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One node as the Vagrantfile has it: host name, address and Ethernet address on the private network."""

    name: str
    address: str
    mac: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the Vagrantfile wants: a seed for ``machines[number - 1]``."""

    number: int
    machines: tuple[Machine, ...]
    prefix_length: int
    """Of the private network."""
    fresh: bool
    """No machine of this folder exists: whatever is remembered belongs to a cluster that is gone."""
    emulated: bool
    """Processors are: etcd gets the times that these keep up with."""
    public_key: str
    user_data: str | None = None
    """A template instead of the packaged one; docs/cluster.md lists its variables."""
    docker_address: str | None = None
    """Where docker listens without authentication; None: nowhere."""

    @classmethod
    def load(cls, text: str) -> Request:
        """From the Vagrantfile's JSON. Raises UsageFailure."""
        try:
            request = record.build(cls, record.parse(text))
        except ValueError as error:
            raise UsageFailure(
                f"this is no request: {error}", hint="the Vagrantfile makes them; see docs/vagrant.md"
            ) from None
        if not 1 <= request.number <= len(request.machines):
            raise UsageFailure(f"there is no machine {request.number} of {len(request.machines)}")
        return request


@dataclass(frozen=True, kw_only=True, slots=True)
class Founding:
    """What a cluster gets once and keeps.

    Its token, how many members of etcd it has, when it began (Unix time), and the key and certificate of its discovery
    service (PEM)."""

    token: str
    members: int
    began_s: int
    certificate: str = field(repr=False)

    @classmethod
    def new(cls, machines: Sequence[Machine]) -> Founding:
        """For a cluster of these machines that begins now. Raises Failure."""
        with tempfile.TemporaryDirectory() as folder:
            pem = Path(folder, "made")
            selfmade.make(pem, [machines[0].address])
            certificate = pem.read_text()
        return cls(
            token=secrets.token_hex(16),
            members=members_of(len(machines)),
            began_s=int(time.time()),
            certificate=certificate,
        )

    @classmethod
    def load(cls, path: Path) -> Founding | None:
        """What :meth:`save` wrote; None if there is nothing. Raises Failure for anything else."""
        try:
            fields = record.parse(path.read_bytes())
            version = fields.pop("v")
            if version in (1, 2):
                what = "nodes" if version == 1 else "discovery service"
                message = f"the machines here are of a version whose {what} had no certificates"
                raise Failure(message, where=str(path), hint="make them again: vagrant destroy, then vagrant up")
            if version != VERSION:
                raise ValueError("of another version")
            return record.build(cls, fields)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            hint = "'vagrant destroy' and a new cluster help; the file is only for the machines that exist"
            raise Failure(f"cannot be understood: {error}", where=str(path), hint=hint) from None

    def save(self, path: Path) -> None:
        """Write in one step, readable by the owner only: a machine with the token may join, and there is a key."""
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps({"v": VERSION, **asdict(self)}) + "\n")
        part.replace(path)

    def url(self, machines: Sequence[Machine]) -> str:
        """The discovery URL, the same text for all machines."""
        url = f"https://{machines[0].address}:{DISCOVERY_PORT}/{self.token}"
        return pinned(url, selfmade.fingerprint(self.certificate))

    def registry(self, machines: Sequence[Machine], *, registered: bool) -> Registry:
        """What the first node's discovery service starts with: the token, and if ``registered`` every member of it."""
        registry = Registry().new(self.token, self.members, self.began_s)
        for machine in machines[: self.members] if registered else ():
            peer = peer_url(machine)
            identity = member_id(peer, self.url(machines))
            registry = registry.register(self.token, identity, f"{machine.name}={peer}", self.began_s)
        return registry


def peer_url(machine: Machine) -> str:
    """Where the other members of etcd reach this one; the packaged template has the same address."""
    return f"https://{machine.address}:2380"


def variables(
    request: Request, founding: Founding, issued: Sequence[dict[str, str]], *, registered: bool
) -> dict[str, object]:
    """What a user-data template may use: the variables of ``cluster up``, and what the Vagrantfile adds.

    ``issued`` are the node's certificates, as entries of ``write_files``; ``registered``: the first node was up before,
    so that the members have registered.
    """
    nodes = [
        {
            "name": machine.name,
            "index": index,
            "role": "member" if index <= founding.members else "proxy",
            "private_ipv4": machine.address,
            "public_ipv4": machine.address,
            "prefix_length": request.prefix_length,
            "cluster_mac": machine.mac,
        }
        for index, machine in enumerate(request.machines, 1)
    ]
    node = nodes[request.number - 1]
    accelerator = "tcg" if request.emulated else "kvm"
    heartbeat, election = ETCD_TIMES_MS[accelerator]
    files: list[dict[str, object]] = []
    units: list[dict[str, object]] = []
    if request.number == 1:
        known = founding.registry(request.machines, registered=registered)
        files.append({"path": REGISTRY, "permissions": "0600", "content": known.dump() + "\n"})
        files.append({"path": CERTIFICATE, "permissions": "0600", "content": founding.certificate})
        listen = f"{request.machines[0].address}:{DISCOVERY_PORT}"
        service = _DISCOVERY_SERVICE.format(registry=REGISTRY, certificate=CERTIFICATE, listen=listen, ttl=TOKEN_TTL_S)
        units.append({"name": "discovery.service", "command": "start", "content": service})
    if request.docker_address is not None:
        socket = _DOCKER_SOCKET.format(address=request.docker_address, port=DOCKER_PORT)
        units.append({"name": "docker-tcp.socket", "command": "start", "content": socket})
    return {
        "node": node,
        "nodes": nodes,
        "cluster": {"name": "vagrant", "size": len(nodes), "members": founding.members},
        "ssh_authorized_keys": [request.public_key],
        "trust": {"files": issued},
        "discovery": founding.url(request.machines),
        "etcd": {"heartbeat_ms": heartbeat, "election_ms": election, "initial_cluster": ""},
        "fleet": {
            "agent_ttl": AGENT_TTL,
            "reconcile_s": RECONCILE_S[accelerator],
            "metadata": {"name": node["name"], "role": node["role"]},
        },
        "factor": 10.0 if request.emulated else 1.0,
        "extra_write_files": files,
        "extra_units": units,
    }


def user_data(request: Request, founding: Founding, issued: Sequence[dict[str, str]], *, registered: bool) -> str:
    """The node's user-data. Raises :class:`Failure` for a template that does not render, or renders to no user-data."""
    from cloudconfig.host import render

    text = template_text(Path(request.user_data) if request.user_data is not None else None)
    name = request.machines[request.number - 1].name
    try:
        return render.render(text, variables(request, founding, issued, registered=registered))
    except render.RenderError as error:
        where = request.user_data or "the packaged template"
        hint = "docs/cluster.md lists what a template may use"
        raise Failure(f"this is no user-data for {name}", where=where, hint=hint) from error


def seed(folder: Path, request: Request) -> Path:
    """Make the seed volume of one machine in ``folder``, founding the cluster if that is to be done; returns its path.

    The Vagrantfile leaves ``N.up`` there when machine N has been up. Raises Failure.
    """
    from cloudconfig.host import seed as volumes

    path = folder / "cluster.json"
    founding = None if request.fresh else Founding.load(path)
    if founding is None:
        founding = Founding.new(request.machines)
        for stale in (*folder.glob("*.up"), *folder.glob("*.certificates")):
            stale.unlink()
        for stale in (folder / "trust", folder / "operator"):
            shutil.rmtree(stale, ignore_errors=True)
        certificates.make(folder / "trust", folder / "operator")
        founding.save(path)
    machine = request.machines[request.number - 1]
    given = _certificates(folder, machine)
    text = user_data(request, founding, given, registered=(folder / "1.up").exists())
    target = folder / f"node-{request.number}.iso"
    volumes.make(target, text, volumes.meta_data(f"vagrant-{founding.began_s}-{request.number}", machine.name))
    return target


def _certificates(folder: Path, machine: Machine) -> list[dict[str, str]]:
    """Those of ``machine``: the same each time, since a seed that changes is another instance's to the node."""
    path = folder / f"{machine.name}.certificates"
    if not path.exists():
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(json.dumps(certificates.of_node(folder / "trust", machine.name, [machine.address])))
        part.replace(path)
    found: list[dict[str, str]] = record.parse(path.read_bytes())
    return found


def run(arguments: Sequence[str]) -> int:
    """Carry out one of the Vagrantfile's two requests; returns the exit code. Raises Failure."""
    match arguments:
        case ["accelerator"]:
            from cluster.machines import probe, qemu
            from cluster.model.layout import cache_root

            print(probe.remembered(qemu.find(), cache_root() / "accelerator.json").name)
        case ["seed", folder]:
            seed(Path(folder), Request.load(sys.stdin.read()))
        case _:
            raise UsageFailure("the Vagrantfile runs this", hint="vagrant up; see docs/vagrant.md")
    return 0


if __name__ == "__main__":
    sys.exit(command("vagrant", run))
