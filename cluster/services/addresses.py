"""Who is who on the segment: this computer's services and the nodes, by address and by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from cluster.model.description import Description
from cluster.model.machine import DISCOVERY_PORT, HOST_ADDRESS, NETWORK, NODES_MAX, cluster_address, cluster_mac
from cluster.services import packet
from cluster.services.packet import Frame

SERVICES = f"{NETWORK}.1"
"""This computer."""
METADATA = "169.254.169.254"
"""Where every cloud's client looks for metadata."""
MAC = cluster_mac(0)
"""This computer's card: the one before node 1's."""
DOMAIN = "cluster.internal"
FILES_PORT = 8080
REGISTRY_PORT = 5000
METADATA_PORT = 80
METADATA_SOURCES = ("ec2", "openstack")
"""The datasources that are this service."""
SERVICE_NAMES = ("discovery", "files", "registry", "time")
"""Names of this computer, one for each service."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One node as the services know it."""

    number: int

    @property
    def name(self) -> str:
        """Its host name, without domain."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its IPv4 address on the segment."""
        return cluster_address(self.number)

    @property
    def mac(self) -> bytes:
        """Its card on the segment."""
        return bytes.fromhex(cluster_mac(self.number).replace(":", ""))


EVERY_NODE = tuple(map(Neighbour, range(1, NODES_MAX + 1)))
"""Nodes come and go; connections through the stack are not to be cut for that, so it knows all that there may be."""


def names(nodes: Iterable[Neighbour]) -> dict[str, str]:
    """Every name of the segment, without domain, and its address."""
    return {node.name: node.address for node in nodes} | dict.fromkeys(SERVICE_NAMES, SERVICES)


CERTIFIED = (*SERVICE_NAMES, *(f"{name}.{DOMAIN}" for name in SERVICE_NAMES), SERVICES, HOST_ADDRESS)
"""What the certificate of this computer's services is for."""


def packed(address: str) -> bytes:
    """An IPv4 address as on the wire."""
    return IPv4Address(address).packed


_OWNERS = {own: node.number for node in EVERY_NODE for own in (node.mac, packed(node.address))}


def claimed(frame: Frame) -> set[int]:
    """The numbers of the nodes that a frame claims as its source, by its card and its IPv4 address.

    None for cards and addresses of other kinds.
    """
    said = [frame.source, frame.payload[12:16] if frame.kind == packet.IPV4 else b""]
    return {_OWNERS[own] for own in said if own in _OWNERS}


def services(description: Description) -> dict[str, str | None]:
    """Where nodes find what: service to address, None for one that is not there."""
    return {
        "address": SERVICES,
        "names": f"*.{DOMAIN}",
        "discovery": description.served(f"{SERVICES}:{DISCOVERY_PORT}/"),
        "metadata": f"http://{METADATA}/" if description.datasource in METADATA_SOURCES else None,
        "registry": f"registry:{REGISTRY_PORT}",
        "files": f"http://{SERVICES}:{FILES_PORT}/" if description.files is not None else None,
    }
