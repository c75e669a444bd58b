"""The virtual machine of one node as a value, and its QEMU command line: a pure function, pinned by a test."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

NODES_MAX = 99
"""Node numbers are two digits in host names' sort order and one byte in addresses (10.77.0.10 + number)."""
NETWORK = "10.77.0"
PREFIX_BITS = 24
HOST_ADDRESS = "10.0.2.100"
"""Where a guest finds this computer's discovery service: an address inside QEMU's user network, see ``guestfwd``."""
DISCOVERY_PORT = 8087
"""The port there, the same in every cluster. What a node knows must not differ between clusters on this computer, or a
snapshot could not be restored beside the cluster that it was made of. (The original discovery service's own.)"""
SHELL_PORT = "flotilla.shell"
"""The name of the virtio port with the root shell.

A node looks for it (image/overlay, 60-flotilla-shell.rules), see docs/guest.md.
"""
DATASOURCES = ("nocloud", "ec2", "openstack")
"""Where a node may take its user-data from: its seed volume, or one of the two kinds of metadata service."""
EMULATED_CACHE_MIB = 256
"""Translated code kept per emulated node. QEMU's default is an eighth of all memory, each."""

SANDBOX = "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"
"""System calls that QEMU does not need are forbidden to it and to its children (seccomp), and so are new privileges
(``no_new_privs``).

Two groups stay allowed, for the one program that QEMU starts, which carries a connection of ``guestfwd``: ``spawn``
(fork, execve), and ``elevateprivileges``, with ``children`` too, since libslirp gives it a session of its own, and
QEMU counts setsid(2) among the ways to elevate privileges. libslirp could connect to a socket instead of starting a
program, but QEMU 10 does not offer that. ``tests/cluster/test_guestfwd.py`` fails once they can be forbidden.
"""

MACHINES = {"amd64": ("-M", "q35", "-cpu", "max"), "arm64": ("-M", "virt", "-cpu", "max,pauth-impdef=on")}
"""Board and processor by architecture.

ARM's own algorithm to sign pointers costs an emulator a third of its time, any other algorithm nothing.
"""
EMULATED_FEATURES = (
    *("ssse3", "sse4.1", "sse4.2", "popcnt"),
    *("aes", "pclmulqdq", "sha-ni", "rdrand", "fsgsbase", "x2apic"),
)
"""What an emulated amd64 processor has beside QEMU's plainest model: what x86-64-v2 asks for, and what saves work.

A hash or a cipher by one instruction is one call of QEMU's own code. Vectors of AVX, their state at each switch of
tasks, and page tables of five levels only cost: a node boots with two thirds of the time of the processor that has all
("max": 104 to 108 s of QEMU's time for a node of a cluster, this one 72 s; QEMU 10.0).
"""
EMULATED_MODEL = "qemu64"
EMULATED_PROCESSOR = ",+".join((EMULATED_MODEL, *EMULATED_FEATURES))


def cluster_address(number: int) -> str:
    """The address of node ``number`` on the cluster's network."""
    return f"{NETWORK}.{10 + number}"


def cluster_mac(number: int) -> str:
    """The Ethernet address of node ``number``'s cluster card ("43" is "C")."""
    return f"52:54:00:43:00:{number:02x}"


def management_mac(number: int) -> str:
    """The Ethernet address of node ``number``'s management card ("4d" is "M"); the image asks DHCP on those."""
    return f"52:54:00:4d:00:{number:02x}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """All that QEMU needs to know to run one node. Paths are absolute; sockets' paths are 107 bytes at most."""

    number: int
    name: str
    accelerator: str
    memory_mib: int
    image: Path
    """A folder with ``vmlinuz``, ``initrd.img`` and ``root.img`` (see ``builder``)."""
    cmdline: str
    """The kernel command line that came with the image."""
    architecture: str = "amd64"
    """The image's."""
    datasource: str = "nocloud"
    state_disk: Path
    cidata: Path
    console: Path
    net_socket: Path
    qmp_socket: Path
    shell_socket: Path
    ssh_port: int
    forward: tuple[str, ...]
    """The command that carries one connection of the guest to this computer's discovery service."""
    incoming: Path | None = None
    """A folder that :meth:`cluster.machines.driver.Vm.save` filled.

    The machine goes on from there instead of booting.
    """

    @property
    def is_plain(self) -> bool:
        """Whether it is an emulated PC."""
        return self.accelerator == "tcg" and self.architecture == "amd64"


def argv(qemu: Path, machine: Machine, memory: int, *, shared: bool = True) -> list[str]:
    """The command line that runs ``machine`` in the memory of the inherited file descriptor ``memory``.

    If not ``shared``, it is only read.

    JSON wherever QEMU takes it, so that no path needs quoting.
    """
    accelerator = f"tcg,tb-size={EMULATED_CACHE_MIB}" if machine.accelerator == "tcg" else machine.accelerator
    return [
        str(qemu),
        *("-name", f"{machine.name},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX),
        *_board(machine),
        *("-accel", accelerator, "-smp", "1", "-m", str(machine.memory_mib)),
        *("-object", json.dumps(_memory(machine, memory, shared=shared))),
        *("-kernel", str(machine.image / "vmlinuz"), "-initrd", str(machine.image / "initrd.img")),
        *("-append", kernel_arguments(machine)),
        *_disk("root", machine.image / "root.img", writable=False),
        *_disk("state", machine.state_disk, writable=True),
        *_disk("cidata", machine.cidata, writable=False),
        *("-netdev", json.dumps(management_network(machine))),
        *("-device", f"virtio-net-pci,netdev=management,mac={management_mac(machine.number)}"),
        *("-netdev", json.dumps(cluster_network(machine))),
        *("-device", f"virtio-net-pci,netdev=cluster,mac={cluster_mac(machine.number)}"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
        *("-chardev", f"file,id=console,path={_doubled(machine.console)},append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=shell,path={_doubled(machine.shell_socket)},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=shell,name={SHELL_PORT}"),
        *("-qmp", f"unix:{_doubled(machine.qmp_socket)},server=on,wait=off"),
        *(() if machine.incoming is None else ("-incoming", "defer")),
    ]


def kernel_arguments(machine: Machine) -> str:
    """The kernel's command line."""
    words = [machine.cmdline, f"flotilla.datasource={machine.datasource}"]
    if machine.is_plain:
        # The kernel tries whether the timer interrupts it, and panics if it does not within ten ticks, which happens to
        # an emulated node on a computer with too much to do. With KVM it leaves that out by itself.
        words.append("no_timer_check")
    return " ".join(word for word in words if word)


def management_network(machine: Machine) -> dict[str, object]:
    """QEMU's own little network (``-netdev``, as JSON has it): ssh comes in, the discovery service can be reached."""
    return {
        "type": "user",
        "id": "management",
        "restrict": True,
        "hostfwd": [{"str": f"tcp:127.0.0.1:{machine.ssh_port}-:22"}],
        "guestfwd": [{"str": f"tcp:{HOST_ADDRESS}:{DISCOVERY_PORT}-cmd:{shlex.join(machine.forward)}"}],
    }


def cluster_network(machine: Machine) -> dict[str, object]:
    """The cable to our switch, likewise."""
    return {
        "type": "stream",
        "id": "cluster",
        "server": False,
        "addr": {"type": "unix", "path": str(machine.net_socket)},
    }


def _board(machine: Machine) -> tuple[str, ...]:
    option, board, cpu, processor = MACHINES[machine.architecture]
    if machine.is_plain:
        processor = EMULATED_PROCESSOR
    return option, f"{board},memory-backend=ram", cpu, processor


def _memory(machine: Machine, descriptor: int, *, shared: bool) -> dict[str, object]:
    return {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": machine.memory_mib << 20,
        "mem-path": f"/proc/self/fd/{descriptor}",
        "share": shared,
    }


def _disk(name: str, path: Path, *, writable: bool) -> list[str]:
    # A power cut of a node is a SIGKILL of its QEMU: what the guest flushed is in this computer's page cache and
    # survives that, so flushing on to the real disk would only make every fsync of etcd slow.
    drive = {
        "driver": "raw",
        "node-name": name,
        "read-only": not writable,
        "discard": "unmap",
        "cache": {"no-flush": True},
        "file": {"driver": "file", "filename": str(path), "cache": {"no-flush": True}, "discard": "unmap"},
    }
    return ["-blockdev", json.dumps(drive), "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _doubled(path: Path) -> str:
    """``path`` for an option list of QEMU's, where a comma is written twice."""
    return str(path).replace(",", ",,")
