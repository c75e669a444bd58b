"""Frames: golden ones as other stacks make them, and properties."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from cluster.services import packet
from cluster.services.packet import Arp, Datagram, Frame, Ipv4

addresses = st.binary(min_size=4, max_size=4)
# RFC 1071's example
WORDS = bytes.fromhex("0001f203f4f5f6f7")


def plain_checksum(data: bytes) -> int:
    """As RFC 1071 spells it in C."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_checksum_of_the_rfc() -> None:
    assert packet.checksum(WORDS) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_the_loop(data: bytes) -> None:
    assert packet.checksum(data) == plain_checksum(data)


@given(addresses, addresses, st.integers(0, 255), st.binary(max_size=100))
def test_a_packet_that_is_written_is_read(source: bytes, target: bytes, protocol: int, payload: bytes) -> None:
    wrote = Ipv4(source, target, protocol, payload)
    assert packet.read_ipv4(wrote.bytes() + b"padding") == wrote


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=100), addresses, addresses, st.integers(0, 800))
def test_a_datagram_that_is_written_is_read_unless_a_bit_is_wrong(
    port: int, other: int, payload: bytes, source: bytes, target: bytes, flipped: int
) -> None:
    wrote = Datagram(port, other, payload)
    data = wrote.bytes(source, target)
    assert packet.read_datagram(Ipv4(source, target, packet.UDP, data)) == wrote
    broken = bytearray(data)
    position = flipped // 8 % len(data)
    broken[position] ^= 1 << flipped % 8
    came = packet.read_datagram(Ipv4(source, target, packet.UDP, bytes(broken)))
    # No checksum at all is allowed; a bit of the length may make it one of a shorter, then wrongly summed datagram.
    assert came is None or broken[6:8] == b"\0\0"


@given(st.binary(max_size=120))
def test_noise_is_read_as_nothing_or_as_something_never_as_an_error(data: bytes) -> None:
    packet.read_frame(data)
    packet.read_arp(data)
    came = packet.read_ipv4(data)
    for ip in filter(None, (came, Ipv4(b"abcd", b"efgh", packet.UDP, data), Ipv4(b"abcd", b"efgh", packet.ICMP, data))):
        packet.read_datagram(ip)
        packet.echo_reply(ip)
        packet.readdressed(ip._replace(protocol=packet.TCP), source=b"1234")


@given(addresses, addresses, addresses, addresses, st.binary(min_size=20, max_size=99))
def test_a_new_address_keeps_the_sum_of_tcp_right(a: bytes, b: bytes, c: bytes, d: bytes, data: bytes) -> None:
    def total(source: bytes, target: bytes, payload: bytes) -> int:
        return plain_checksum(source + target + struct.pack(">BBH", 0, packet.TCP, len(payload)) + payload)

    summed = data[:16] + b"\0\0" + data[18:]
    summed = summed[:16] + total(a, b, summed).to_bytes(2, "big") + summed[18:]
    moved = packet.readdressed(Ipv4(a, b, packet.TCP, summed), source=c, target=d)
    assert (moved.source, moved.target) == (c, d)
    assert total(c, d, moved.payload) == 0


def test_a_fragment_and_a_packet_with_a_wrong_sum_are_no_packets() -> None:
    whole = bytearray(Ipv4(b"\x0a\x4d\0\x0b", b"\x0a\x4d\0\x01", packet.UDP, b"x" * 8).bytes())
    assert packet.read_ipv4(bytes(whole)) is not None
    for position, value in ((6, 0x20), (7, 1), (8, 63), (0, 0x65), (3, 255)):
        broken = bytearray(whole)
        broken[position] = value
        assert packet.read_ipv4(bytes(broken)) is None


def test_a_ping_is_answered() -> None:
    # "ping -c 1 -s 4 -p 61": type 8, identifier 0x1234, sequence 1
    body = bytes.fromhex("0800000012340001") + b"aaaa"
    body = body[:2] + plain_checksum(body).to_bytes(2, "big") + body[4:]
    reply = packet.echo_reply(Ipv4(b"node", b"host", packet.ICMP, body))
    assert reply is not None
    assert (reply.source, reply.target, reply.payload[0], reply.payload[4:]) == (b"host", b"node", 0, body[4:])
    assert plain_checksum(reply.payload) == 0
    assert packet.echo_reply(Ipv4(b"node", b"host", packet.ICMP, body[:-1] + b"b")) is None


def test_arp_as_on_the_wire() -> None:
    question = Arp(packet.ARP_REQUEST, b"\x52\x54\0\x43\0\x01", b"\x0a\x4d\0\x0b", bytes(6), b"\x0a\x4d\0\x01")
    expected = "0001080006040001" + "525400430001" + "0a4d000b" + "000000000000" + "0a4d0001"
    assert question.bytes().hex() == expected
    assert packet.read_arp(question.bytes()) == question
    assert len(Frame(b"t" * 6, b"s" * 6, packet.ARP, question.bytes()).bytes()) == packet.FRAME_BYTES_MIN
