"""The way of a guest to the discovery service, through the real QEMU's user network, with this test as the guest.

No machine is run: a QEMU hub joins the management network of a node's command line to a unix socket, where the test
speaks Ethernet, ARP and just enough TCP. So QEMU's parsing of our ``guestfwd``, its quoting, and ``restrict`` are
tested as they are.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.machines import qemu
from cluster.machines.libvirt_connection import emulator
from cluster.model import description
from cluster.model.machine import DISCOVERY_PORT, HOST_ADDRESS, SANDBOX, Machine, argv
from tests.ports import free_ports

GUEST_MAC = bytes.fromhex("5254004d0001")
GUEST_IP = socket.inet_aton("10.0.2.15")
SYN, ACK, FIN, RST, PSH = 2, 16, 1, 4, 8


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class RunningNode:
    """A network card and the smallest TCP that gets one answer: in order, no loss, one connection."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire.makefile("rwb")
        self._router = b"\xff" * 6

    def send(self, kind: int, payload: bytes) -> None:
        frame = (self._router + GUEST_MAC + struct.pack(">H", kind) + payload).ljust(60, b"\0")
        self._wire.write(struct.pack(">I", len(frame)) + frame)
        self._wire.flush()

    def receive(self, kind: int) -> bytes:
        """The payload of the next frame of this type."""
        while True:
            (length,) = struct.unpack(">I", self._wire.read(4))
            frame = self._wire.read(length)
            if struct.unpack(">H", frame[12:14])[0] == kind:
                return bytes(frame[14:])

    def resolve(self, address: str) -> None:
        """Ask who has ``address`` (ARP, RFC 826) and send there from now on."""
        question = (
            struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + GUEST_MAC + GUEST_IP + bytes(6) + socket.inet_aton(address)
        )
        self.send(0x0806, question)
        while (answer := self.receive(0x0806))[6:8] != b"\0\2":
            pass
        self._router = answer[8:14]

    def segment(self, address: str, port: int, seq: int, ack: int, flags: int, data: bytes = b"") -> None:
        target = socket.inet_aton(address)
        tcp = struct.pack(">HHIIBBHHH", 40000, port, seq, ack, 5 << 4, flags, 65535, 0, 0) + data
        pseudo = GUEST_IP + target + struct.pack(">BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + GUEST_IP + target
        self.send(0x0800, ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:] + tcp)

    def next_segment(self) -> tuple[int, int, bytes]:
        """Sequence number, flags and data of the next segment."""
        packet = self.receive(0x0800)
        packet = packet[: struct.unpack(">H", packet[2:4])[0]]
        tcp = packet[(packet[0] & 15) * 4 :]
        return struct.unpack(">I", tcp[4:8])[0], tcp[13], tcp[(tcp[12] >> 4) * 4 :]

    def ask(self, address: str, port: int, request: bytes) -> bytes | None:
        """Send ``request`` over one connection; returns all of the answer, or None if the connection is refused."""
        self.segment(address, port, 1000, 0, SYN)
        seq, flags, _ = self.next_segment()
        if flags & RST:
            return None
        assert flags & (SYN | ACK) == SYN | ACK
        expected, answer = seq + 1, b""
        self.segment(address, port, 1001, expected, PSH | ACK, request)
        while True:
            seq, flags, data = self.next_segment()
            if seq == expected:
                answer += data
                expected += len(data) + (1 if flags & FIN else 0)
                self.segment(address, port, 1001 + len(request), expected, ACK)
            if flags & (FIN | RST):
                return answer


@pytest.fixture
def service() -> Iterator[int]:
    """A service on this computer's loopback that answers one request with itself in capitals; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                line.sendall(line.recv(1000).upper())

        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1]
        socket.create_connection(listener.getsockname()).close()  # there may have been no caller, and it waits for one
        server.join()


LIBVIRTS_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""What libvirt 9.0 puts on every command line."""


@contextmanager
def connected(program: Path, sandbox: str, service: int, folder: Path) -> Iterator[RunningNode]:
    """A guest on the management network that a node's command line describes, with a forwarder in a folder with an
    awkward name.
    """
    forward = folder / "it's, a folder" / "forward.py"
    forward.parent.mkdir()
    shutil.copy(description.FORWARD, forward)
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    machine = Machine(
        number=1,
        name="node-1",
        accelerator="tcg",
        memory_mib=128,
        image=folder,
        cmdline="",
        state_disk=folder,
        cidata=folder,
        console=folder,
        net_socket=folder,
        qmp_socket=folder,
        shell_socket=folder,
        ssh_port=free_ports(1)[0],
        forward=(sys.executable, "-I", "-S", str(forward), "127.0.0.1", str(service)),
    )
    words = argv(program, machine, 0)
    management = words[words.index("-netdev") + 1]
    wire = {"type": "stream", "id": "wire", "server": False, "addr": {"type": "unix", "path": str(runtime / "wire")}}
    hub = [
        word
        for port, net in ((1, "management"), (2, "wire"))
        for word in ("-netdev", f"hubport,id=hub{port},hubid=0,netdev={net}")
    ]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "wire"))
        listener.listen()
        listener.settimeout(20)
        alone = ("-nodefaults", "-display", "none", "-M", "none")
        networks = ("-netdev", management, "-netdev", json.dumps(wire), *hub)
        with subprocess.Popen([str(program), "-sandbox", sandbox, *alone, *networks]) as process:
            try:
                line, _ = listener.accept()
                with line:
                    line.settimeout(20)
                    yield RunningNode(line)
            finally:
                process.kill()


@pytest.fixture
def program() -> Path:
    """The real QEMU."""
    return qemu.find({"PATH": os.environ["PATH"]}).path


@pytest.fixture(params=["alone", "by libvirt"])
def guest(request: pytest.FixtureRequest, program: Path, service: int, tmp_path: Path) -> Iterator[RunningNode]:
    """Such a guest, as each driver runs it."""
    by_libvirt = request.param == "by libvirt"
    how = (emulator(program), LIBVIRTS_SANDBOX) if by_libvirt else (program, SANDBOX)
    with connected(*how, service, tmp_path) as guest:
        yield guest


def test_a_guest_reaches_the_discovery_service(guest: RunningNode) -> None:
    guest.resolve(HOST_ADDRESS)
    assert guest.ask(HOST_ADDRESS, DISCOVERY_PORT, b"get /token") == b"GET /TOKEN"


def test_a_guest_reaches_nothing_else_of_this_computer(guest: RunningNode, service: int) -> None:
    """10.0.2.2 is QEMU's name for this computer; without ``restrict`` its loopback services would answer there."""
    guest.resolve("10.0.2.2")
    assert guest.ask("10.0.2.2", service, b"let me in") is None


@pytest.mark.parametrize("also", ["spawn=deny", "elevateprivileges=deny", "elevateprivileges=children"])
def test_the_sandbox_forbids_all_that_it_can(also: str, program: Path, service: int, tmp_path: Path) -> None:
    """What it allows, a guest's way to the discovery service needs. If this fails, QEMU can do without: forbid it."""
    stricter = SANDBOX.replace(f"{also.partition('=')[0]}=allow", also)
    assert stricter != SANDBOX
    with connected(program, stricter, service, tmp_path) as guest:
        guest.resolve(HOST_ADDRESS)
        assert not guest.ask(HOST_ADDRESS, DISCOVERY_PORT, b"get /token")


def test_every_group_of_the_sandbox_is_decided(program: Path) -> None:
    printed = subprocess.run([program, "-help"], capture_output=True, text=True, check=True).stdout
    usage = printed[printed.index("-sandbox on") : printed.index("Enable seccomp")]
    assert set(re.findall(r"(\w+)=allow", usage)) == set(re.findall(r"(\w+)=", SANDBOX))
