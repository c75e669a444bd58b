"""Any frame of a guest to this computer: it is answered with one frame or none, and costs little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.model.framing import FRAME_BYTES_MAX
from cluster.services import dhcp, ntp, packet
from cluster.services.addresses import METADATA, SERVICES, Neighbour, packed
from cluster.services.dhcp import AddressServer, Message
from cluster.services.dns import PORT as DNS_PORT
from cluster.services.dns import UDP_BYTES_MAX, NameServer
from cluster.services.host import Caller, Host
from cluster.services.ntp import TimeServer
from cluster.services.packet import Arp, Datagram, Frame, Ipv4
from cluster.services.stack import WAITING_MAX, Stack
from tests.budget import assert_cheap

MAC, NODE = b"\x52\x54\0\x43\0\0", Neighbour(1)
NODES = [NODE, Neighbour(2)]
HERE, THERE = packed(SERVICES), packed(METADATA)
TIME, NAMES, ADDRESSES = TimeServer(), NameServer(NODES), AddressServer(NODES)
HOST = Host(MAC, [HERE, THERE], {dhcp.PORT: ADDRESSES, DNS_PORT: NAMES, ntp.PORT: TIME})
CALLER = Caller(NODE.mac, packed(NODE.address))
TIME_QUESTION = b"\x23" + bytes(47)
NAME_QUESTION = dns.message.make_query("node-1.cluster.internal", "A", use_edns=0).to_wire()
ADDRESS_QUESTION = Message(
    1, 7, 0, bytes(4), bytes(4), bytes(4), NODE.mac, {dhcp.MESSAGE_TYPE: b"\x01", 55: b"\x01\x03\x06", 61: b"x" * 200}
).bytes()
QUESTIONS = {TIME: TIME_QUESTION, NAMES: NAME_QUESTION, ADDRESSES: ADDRESS_QUESTION}
PORTS = st.sampled_from([dhcp.PORT, DNS_PORT, ntp.PORT, 7])


@st.composite
def mutated(draw: st.DrawFn, questions: list[bytes]) -> bytes:
    """A question that is nearly right: some bytes are others, some are left out, some are put in."""
    data = bytearray(draw(st.sampled_from(questions)))
    for position, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[position] = byte
    begin = draw(st.integers(0, len(data)))
    data[begin : begin + draw(st.integers(0, 4))] = draw(st.binary(max_size=8))
    return bytes(data)


payloads = st.one_of(st.binary(max_size=700), mutated(list(QUESTIONS.values())))
ips = st.sampled_from([HERE, THERE, CALLER.address, packet.ANY_IP, packet.BROADCAST_IP, b"\xe0\0\0\1"])
macs = st.sampled_from([MAC, NODE.mac, packet.BROADCAST_MAC, bytes(6), b"\1\0\x5e\0\0\1"])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame that is well-formed down to some layer."""
    source, target = draw(ips), draw(ips)
    udp = Datagram(draw(PORTS), draw(PORTS), draw(payloads)).bytes(source, target)
    ping = b"\x08\0" + packet.checksum(b"\x08\0" + (rest := draw(st.binary(min_size=4, max_size=99)))).to_bytes(
        2, "big"
    )
    ip = Ipv4(
        source,
        target,
        draw(st.sampled_from([packet.UDP, packet.ICMP, packet.TCP, 0, 255])),
        draw(st.sampled_from([udp, ping + rest, rest])),
    )
    arp = Arp(draw(st.integers(0, 65535)), draw(macs), source, draw(macs), target)
    kind, payload = draw(
        st.sampled_from([(packet.IPV4, ip.bytes()), (packet.ARP, arp.bytes()), (packet.IPV4, rest), (packet.ARP, rest)])
    )
    return Frame(draw(macs), draw(macs), kind, payload).bytes()


@given(
    st.one_of(
        frames(),
        mutated(
            [
                Frame(
                    MAC,
                    NODE.mac,
                    packet.IPV4,
                    Ipv4(CALLER.address, HERE, packet.UDP, Datagram(9, port, data).bytes(CALLER.address, HERE)).bytes(),
                ).bytes()
                for port, data in ((ntp.PORT, TIME_QUESTION), (DNS_PORT, NAME_QUESTION), (dhcp.PORT, ADDRESS_QUESTION))
            ]
        ),
        st.binary(max_size=100),
    )
)
def test_any_frame_has_one_answer_or_none(data: bytes) -> None:
    frame = packet.read_frame(data)
    if frame is not None:
        HOST.wants(frame)
        answer = HOST.answer(frame)
        assert answer is None or len(answer) <= max(len(data), packet.FRAME_BYTES_MIN, 14 + 28 + UDP_BYTES_MAX)


@given(st.sampled_from([TIME, NAMES, ADDRESSES]), payloads)
@example(TIME, b"\x23\0\x80" + bytes(45))  # a poll interval above 127, which once was an error
@example(
    NAMES, NAME_QUESTION[:2] + b"\1\0\0\x53" + bytes(6) + b"\xc0\2\0\1\0\1" * 83
)  # small questions that are large ones
@example(NAMES, NAME_QUESTION[:4] + b"\0\1\0\0\0\0\0\1" + b"\0\0\1\0\1" + b"\0\xff\1\xff\1\0\0\0\0\0\0")
def test_any_question_has_one_answer_or_none(server: Callable[[Caller, bytes], bytes | None], question: bytes) -> None:
    answer = server(CALLER, question)
    assert answer is None or len(answer) <= UDP_BYTES_MAX


PIECES = {
    "pads": b"\0",
    "options of nothing": b"\x0c\0",
    "one option in parts": b"\x0c\1x",
    "long options": b"\x0c\xff" + b"x" * 255,
    "questions": b"\xc0\x0c\0\1\0\1",
    "labels": b"\1a" * 100 + b"\0",
    "compressed labels": b"\1a\xc0\x0c",
}


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("server", [TIME, NAMES, ADDRESSES], ids=["time", "names", "addresses"])
def test_a_mebibyte_of_questions_costs_little(server: Callable[[Caller, bytes], bytes | None], piece: bytes) -> None:
    """In one, larger than any frame, and in as many as there may be."""
    head = {TIME: TIME_QUESTION, NAMES: NAME_QUESTION[:12], ADDRESSES: ADDRESS_QUESTION[:240]}[server]
    assert_cheap(lambda size: server(CALLER, head + piece * (size // len(piece))))
    large = head + piece * (FRAME_BYTES_MAX // len(piece))
    assert_cheap(lambda size: [server(CALLER, large) for _ in range(size // FRAME_BYTES_MAX)])


def test_edns_is_answered_as_requested() -> None:
    for edns in (0, None):
        answer = NAMES(CALLER, dns.message.make_query("node-1.cluster.internal", "A", use_edns=edns).to_wire())
        assert answer is not None
        assert dns.message.from_wire(answer).edns == (-1 if edns is None else 0)


@given(st.lists(st.one_of(frames(), st.binary(max_size=80)), max_size=8), st.binary(max_size=60))
def test_the_stack_takes_any_packet_and_any_answer(came: list[bytes], said: bytes) -> None:
    """What waits for its QEMU is bounded, and so is what it remembers of callers."""

    async def scene() -> None:
        nothing = Path("/nonexistent")
        stack = Stack(
            nothing, nothing / "wire", nothing / "log", [],
            mac=MAC, apart={NODE.address: METADATA}, send=lambda _: None, changed=lambda: None, say=lambda _: None,
        )  # fmt: skip
        for data in came * 50:
            frame = packet.read_frame(data)
            if frame is not None and (ip := packet.read_ipv4(frame.payload)) is not None:
                stack.carry(frame.source, ip._replace(source=CALLER.address[:3] + data[-1:]))
            stack._came(data)
        stack._came(said)
        assert len(stack._waiting) <= WAITING_MAX
        assert len(stack._cards) <= 256
        await stack.stop()

    asyncio.run(scene())
