"""Names in coreos.units: which kind of file a name means, and which names mean the same unit."""

from __future__ import annotations

from fleet.unitname import UnitName, UnitNameError

# Files of systemd-networkd and udev. They go to /etc/systemd/network, and nothing is started by their name.
NETWORK_SUFFIXES = (".network", ".netdev", ".link")

# CoreOS had two etcds and users wrote either name; the image has one etcd, and one fleet whose daemon is fleetd.
ALIASES = {"etcd2.service": "etcd.service", "fleetd.service": "fleet.service"}


def canonical(name: str) -> str:
    """The name under which the image knows the unit."""
    return ALIASES.get(name, name)


def is_network(name: str) -> bool:
    """Whether the file is networkd's or udev's, not a unit of systemd's."""
    return name.endswith(NETWORK_SUFFIXES)


def check(name: str) -> None:
    """Raise UnitNameError unless ``name`` may become a file name in a unit directory."""
    if is_network(name):
        # The same characters and length as a unit's name; only the suffix is networkd's own.
        UnitName.parse(name.rpartition(".")[0] + ".target")
    else:
        UnitName.parse(name)


__all__ = ["ALIASES", "NETWORK_SUFFIXES", "UnitNameError", "canonical", "check", "is_network"]
