"""TCP for this computer's address on the segment.

A QEMU that runs no machine lends it: its user network (libslirp) ends connections.

Each connection to a door, an address and port, is carried by ``cluster/machines/forward.py`` to a server of ours
(``guestfwd``); libslirp is set to refuse everything else (``restrict``). It sees only TCP, over a unix socket with a
length before each frame, as ``-netdev stream`` has it, and never the segment itself. It is started by the first packet:
about 0.1 s and 11 MiB of memory of its own.

libslirp does not report who connects. So a door may have a separate address for each caller: packets for it get that
address, :func:`alias`, as their target, and the answers get the real one back as their source. The command behind the
alias knows which caller it serves.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.machines.process import dies_with_us
from cluster.model import logs
from cluster.model.machine import NETWORK, SANDBOX
from cluster.services import packet
from cluster.services.addresses import packed
from cluster.services.packet import Arp, Frame, Ipv4

HEADER_BYTES = 4
FRAME_BYTES_MAX = 65536
WAITING_MAX = 256
"""Packets kept while QEMU starts; TCP sends again what is lost."""
RESTART_S = 1.0
"""Between two starts: one that fails at once must not keep this computer busy."""
QUEUE_BYTES_MAX = 1 << 20
ONE_HOP = 1
"""The TTL of an answer that is for a node itself.

A container behind it never sees one, as with EC2's "hop limit" of 1.
"""
_ALIASES = ".".join(NETWORK.split(".")[:2])
_SEGMENT = packed(f"{NETWORK}.0")[:3]


@dataclass(frozen=True, slots=True)
class Door:
    """A TCP address that nodes may connect to, and the command that carries one connection."""

    address: str
    port: int
    command: Sequence[str]


def alias(caller: str) -> str:
    """The address of a door for ``caller`` alone, as libslirp sees it.

    For 10.77.0.X it is 10.77.1.X, which no packet outside has.
    """
    return f"{_ALIASES}.1.{caller.rpartition('.')[2]}"


def argv(qemu: Path, wire: Path, doors: Sequence[Door]) -> list[str]:
    """The command line: two networks of QEMU's joined by a hub, and nothing else."""
    user = {
        "type": "user",
        "id": "user",
        "restrict": True,
        "ipv6": False,
        # Wider than the segment, for the aliases; its own addresses are where no node looks for them.
        "net": f"{_ALIASES}.0.0/16",
        "host": f"{_ALIASES}.255.2",
        "dns": f"{_ALIASES}.255.3",
        "dhcpstart": f"{_ALIASES}.255.15",
        "guestfwd": [{"str": f"tcp:{door.address}:{door.port}-cmd:{shlex.join(door.command)}"} for door in doors],
    }
    stream = {"type": "stream", "id": "wire", "server": False, "addr": {"type": "unix", "path": str(wire)}}
    hubs = [{"type": "hubport", "id": f"hub-{end}", "hubid": 0, "netdev": end} for end in ("user", "wire")]
    networks = [word for net in (user, stream, *hubs) for word in ("-netdev", json.dumps(net))]
    alone = ("-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX)
    return [str(qemu), *alone, *networks]


class Stack:
    """TCP for one address of ours. :meth:`carry` takes what nodes send, ``send`` gets what goes to them."""

    def __init__(
        self,
        qemu: Path,
        wire: Path,
        log: Path,
        doors: Sequence[Door],
        *,
        mac: bytes,
        apart: Mapping[str, str],
        send: Callable[[bytes], None],
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """``wire`` is the path of the socket to QEMU, ``log`` gets its output.

        ``apart`` has callers by address, each with the address of the door that has a separate address for them.
        ``changed`` is called when there is another process.
        """
        self.process: asyncio.subprocess.Process | None = None
        self._qemu, self._wire, self._log, self._doors = qemu, wire, log, doors
        self._mac = mac
        self._outward = {(packed(caller), packed(door)): packed(alias(caller)) for caller, door in apart.items()}
        self._inward = {packed(alias(caller)): packed(door) for caller, door in apart.items()}
        self._send, self._changed, self._say = send, changed, say
        self._cards: dict[bytes, bytes] = {}
        self._waiting: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for QEMU, which is not started yet. Raises OSError."""
        self._wire.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._wire))

    async def stop(self) -> None:
        """End QEMU, and with it all connections."""
        if self._server is not None:
            self._server.close()
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        self._wire.unlink(missing_ok=True)

    def carry(self, source: bytes, came: Ipv4) -> None:
        """Take a TCP packet from the card ``source``. A packet with a source outside the segment gets no answer."""
        if came.source[:3] != _SEGMENT:
            return
        self._cards[came.source] = source
        target = self._outward.get((came.source, came.target))
        if target is not None:
            came = packet.readdressed(came, target=target)
        self._write(Frame(slirp_mac(came.target), source, packet.IPV4, came.bytes()).bytes())

    def _write(self, frame: bytes) -> None:
        data = len(frame).to_bytes(HEADER_BYTES, "big") + frame
        if self._writer is not None:
            if self._writer.transport.get_write_buffer_size() < QUEUE_BYTES_MAX:
                self._writer.write(data)
            return
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(data)
        if self._life is None:
            self._life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while self._waiting:
            begin = time.monotonic()
            await self._run()
            await asyncio.sleep(max(0.0, begin + RESTART_S - time.monotonic()))
        self._life = None  # the next packet starts another

    async def _run(self) -> None:
        process: asyncio.subprocess.Process | None = None
        try:
            with logs.fresh(self._log) as log:
                process = await asyncio.create_subprocess_exec(
                    *dies_with_us(argv(self._qemu, self._wire, self._doors)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.process = process
            self._changed()
            code = await process.wait()
            said = self._log.read_text(errors="replace").strip().splitlines()
            self._say(f"TCP of the services ended with {code}: {said[-1] if said else 'no message'}")
        except OSError as error:
            self._say(f"TCP of the services cannot be started: {error}")
        finally:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            self.process = None
            self._waiting.clear()
            self._changed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.writelines(self._waiting)
        self._waiting.clear()
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(HEADER_BYTES), "big")
                if length > FRAME_BYTES_MAX:
                    raise ConnectionError(f"a frame of {length} bytes")
                self._came(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            pass  # the waiter for its end reports how it ended
        except OSError as error:
            self._say(f"TCP of the services was hung up on: {error}")
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()

    def _came(self, data: bytes) -> None:
        """Pass on what libslirp sends: TCP to the segment.

        It sends ARP requests for cards; the answers are known from its callers.
        """
        frame = packet.read_frame(data)
        if frame is None:
            return
        if frame.kind == packet.ARP:
            question = packet.read_arp(frame.payload)
            if question is not None and (card := self._cards.get(question.target_ip)) is not None:
                reply = Arp(packet.ARP_REPLY, card, question.target_ip, question.sender_mac, question.sender_ip)
                self._write(Frame(question.sender_mac, card, packet.ARP, reply.bytes()).bytes())
        elif frame.kind == packet.IPV4 and (came := packet.read_ipv4(frame.payload)) is not None:
            card = self._cards.get(came.target)
            if came.protocol == packet.TCP and card is not None:
                apart = self._inward.get(came.source)
                data = packet.readdressed(came, source=apart).bytes(packet.TTL if apart is None else ONE_HOP)
                self._send(Frame(card, self._mac, packet.IPV4, data).bytes())


def slirp_mac(address: bytes) -> bytes:
    """The card that libslirp gives to one of its own addresses (``special_ethaddr`` in its ``slirp.c``)."""
    return b"RU" + address
