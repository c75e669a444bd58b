"""A node's machine as libvirt's domain XML (libvirt ``docs/formatdomain.html``): a pure function, pinned by a test.

All that libvirt's XML can express is expressed in it. The two network cards are not: libvirt's user network has no
forwards and its networks have no ``stream`` socket, so they go to QEMU's command line as they are, on slots of their
own.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from cluster.model.machine import (
    EMULATED_CACHE_MIB,
    EMULATED_FEATURES,
    EMULATED_MODEL,
    SHELL_PORT,
    Machine,
    cluster_mac,
    cluster_network,
    kernel_arguments,
    management_mac,
    management_network,
)

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
ARCHITECTURES = {"amd64": ("x86_64", "q35"), "arm64": ("aarch64", "virt")}
"""libvirt's words for architecture and board."""
LIBVIRT_FEATURES = {"pclmulqdq": "pclmuldq"}
"""Its words for features of a processor, where QEMU has another."""
MANAGEMENT_SLOT, CLUSTER_SLOT = "0x10", "0x11"
"""On the root bus, where libvirt itself fills the slots from both ends: it does not know that these are taken."""

ElementTree.register_namespace("qemu", QEMU_NAMESPACE)


def domain_xml(machine: Machine, name: str, identity: str, emulator: Path) -> str:
    """The domain ``name`` with UUID ``identity``, which runs ``machine`` with the QEMU program ``emulator``.

    All paths are those of the computer it runs on.
    """
    architecture, board = ARCHITECTURES[machine.architecture]
    emulated = machine.accelerator == "tcg"
    domain = ElementTree.Element("domain", type="qemu" if emulated else machine.accelerator)
    _add(domain, "name", name)
    _add(domain, "uuid", identity)
    _add(domain, "memory", str(machine.memory_mib), unit="MiB")
    _add(domain, "vcpu", "1")
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch=architecture, machine=board)
    _add(system, "kernel", str(machine.image / "vmlinuz"))
    _add(system, "initrd", str(machine.image / "initrd.img"))
    _add(system, "cmdline", kernel_arguments(machine))
    features = _add(domain, "features")
    _add(features, "acpi")
    if emulated:
        _add(_add(features, "tcg"), "tb-cache", str(EMULATED_CACHE_MIB), unit="MiB")
    if machine.is_plain:
        processor = _add(domain, "cpu", mode="custom", match="exact", check="none")
        _add(processor, "model", EMULATED_MODEL, fallback="forbid")
        for name in EMULATED_FEATURES:
            _add(processor, "feature", policy="require", name=LIBVIRT_FEATURES.get(name, name))
    else:
        _add(domain, "cpu", mode="maximum" if emulated else "host-passthrough")
    _add(domain, "on_poweroff", "destroy")
    _add(domain, "on_reboot", "restart")
    _add(domain, "on_crash", "destroy")
    _add_devices(_add(domain, "devices"), machine, emulator)
    line = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for argument in _network_arguments(machine):
        _add(line, f"{{{QEMU_NAMESPACE}}}arg", value=argument)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode") + "\n"


def _add_devices(devices: ElementTree.Element, machine: Machine, emulator: Path) -> None:
    _add(devices, "emulator", str(emulator))
    _add_disk(devices, "vda", "root", machine.image / "root.img", writable=False)
    _add_disk(devices, "vdb", "state", machine.state_disk, writable=True)
    _add_disk(devices, "vdc", "cidata", machine.cidata, writable=False)
    _add(devices, "controller", type="usb", model="none")
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(machine.console), append="on")
    shell = _add(devices, "channel", type="unix")
    _add(shell, "source", mode="bind", path=str(machine.shell_socket))
    _add(shell, "target", type="virtio", name=SHELL_PORT)
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(devices, "memballoon", model="none")


def _add_disk(devices: ElementTree.Element, target: str, serial: str, path: Path, *, writable: bool) -> None:
    disk = _add(devices, "disk", type="file", device="disk")
    # "unsafe" is QEMU's no-flush: see cluster.model.machine for why that is safe here.
    _add(disk, "driver", name="qemu", type="raw", cache="unsafe", discard="unmap")
    _add(disk, "source", file=str(path))
    _add(disk, "target", dev=target, bus="virtio")
    _add(disk, "serial", serial)
    if not writable:
        _add(disk, "readonly")


def _network_arguments(machine: Machine) -> list[str]:
    cards = (
        (management_network(machine), management_mac(machine.number), MANAGEMENT_SLOT),
        (cluster_network(machine), cluster_mac(machine.number), CLUSTER_SLOT),
    )
    arguments = []
    for network, mac, slot in cards:
        card = f"virtio-net-pci,netdev={network['id']},mac={mac},bus=pcie.0,addr={slot}"
        arguments += ["-netdev", json.dumps(network), "-device", card]
    return arguments


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text
    return element
