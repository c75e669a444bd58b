"""Guests of a few instructions, in place of a kernel, that real QEMU processes boot in a moment; every option and
device is real.
"""

import dataclasses
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.client.cluster import Cluster, processes
from cluster.client.node import Node
from cluster.lifecycle import certificates
from cluster.machines import qemu
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.layout import Layout
from tests.eventually import ended
from tests.ports import free_ports

GREETING = b"hello from a few instructions\n"
GREETS = bytes.fromhex("baf803 be9200 2eac 84c0 7403 ee ebf7 f4 ebfd")  # dx = port, si = text; out until zero; halt
# Without end, a sector of the second disk is written, then read, by the firmware (int 13h), and "w" and "r" go to the
# serial port, upper case for what failed: es = cs; again: ax = 0301 (write), si = 'w', call request; ax = 0201 (read),
# si = 'r', call request; jmp again; request: bx = 1000, cx = 2 (sector), dx = 81 (disk); push si; int 13; pop ax;
# unless carry, jump over "and al, df"; dx = port; out al; ret.
USES_DISK = bytes.fromhex(
    "8cc8 8ec0 b80103 be7700 e80b00 b80102 be7200 e80200 ebec bb0010 b90200 ba8100 56 cd13 58 7302 24df baf803 ee c3"
)


def tiny_kernel(code: bytes = GREETS) -> bytes:
    """What QEMU takes for a Linux kernel: the boot protocol's header (Documentation/arch/x86/boot.rst), ``code``, no
    more.
    """
    setup = bytearray(1024)
    setup[0x1F1] = 1  # one sector of set-up code behind the first
    setup[0x1FE:0x206] = b"\x55\xaa\xeb\x7eHdrS"  # boot flag, jump to 0x280, magic
    setup[0x206:0x208] = b"\x07\x02"  # protocol 2.07
    setup[0x211] = 1  # the rest is loaded high
    setup[0x22C:0x230] = (0x37FFFFFF).to_bytes(4, "little")  # where an initrd may end
    setup[0x280 : 0x280 + len(code)] = code
    if code == GREETS:
        setup[0x292 : 0x292 + len(GREETING)] = GREETING
    return bytes(setup) + bytes(4096)


def console(node: Node) -> bytes:
    """All that its guest has said."""
    return (node.folder / "console.log").read_bytes()


def end_supervisor(cluster: Cluster, number: signal.Signals) -> None:
    """Send its supervisor a signal while both nodes run, and see it and the nodes' machines end."""
    for node in cluster.nodes:
        node.start()
    recorded = processes(cluster.layout)
    assert len(recorded) == 3
    os.kill(recorded[0].pid, number)
    assert ended(*(process.pid for process in recorded))


@contextmanager
def tiny_cluster(
    image: Path, code: bytes = GREETS, size: int = 2, name: str = "tiny", **changes: Any
) -> Iterator[Cluster]:
    """Nodes of a tiny kernel, supervised, not started; ``changes`` are made to the cluster's description."""
    layout = Layout.of(name)
    ports = free_ports(size + 1)
    program = qemu.find({"PATH": os.environ["PATH"]})
    description = Description(
        name=name,
        runtime=str(layout.runtime),
        qemu=str(program.path),
        accelerator=Accelerator("tcg", 1.0, "a test"),
        memory_mib=128,
        ssh_ports=tuple(ports[:size]),
        discovery_port=ports[size],
        agent_ttl="30s",
        ready=True,
        **changes,
    )
    Cluster.create(layout, description)
    fingerprint = certificates.make_services(layout.services_certificate)
    made = Cluster(layout, dataclasses.replace(description, services_fingerprint=fingerprint))
    made.description.save(layout.description)
    (image / "vmlinuz").write_bytes(tiny_kernel(code))
    image.rename(layout.image)
    for node in made.nodes:
        node.folder.mkdir()
        for file in ("state.img", "cidata.iso"):
            (node.folder / file).write_bytes(bytes(1 << 20))
    try:
        made.launch()
        yield made
    finally:
        made.remove()
