"""This computer on the segment: ARP, ping, datagrams; and what it stays silent about."""

from cluster.services import packet
from cluster.services.host import Caller, Host
from cluster.services.packet import Arp, Datagram, Frame, Ipv4

MAC, HERE, THERE = b"\x52\x54\0\x43\0\0", b"\x0a\x4d\0\x01", b"\xa9\xfe\xa9\xfe"
NODE_MAC, NODE = b"\x52\x54\0\x43\0\x01", b"\x0a\x4d\0\x0b"


def shout(caller: Caller, said: bytes) -> bytes | None:
    return said.upper() + caller.mac[-1:] if said else None


HOST = Host(MAC, [HERE, THERE], {7: shout})


def ask(target: bytes, said: bytes, *, mac: bytes = MAC, source: bytes = NODE, port: int = 7) -> Ipv4 | None:
    datagram = Datagram(999, port, said).bytes(source, target)
    frame = Frame(mac, NODE_MAC, packet.IPV4, Ipv4(source, target, packet.UDP, datagram).bytes())
    answer = HOST.answer(frame)
    if answer is None:
        return None
    came = packet.read_frame(answer)
    assert came is not None
    assert (came.target, came.source) == (NODE_MAC, MAC)
    return packet.read_ipv4(came.payload)


def test_a_datagram_is_answered_from_the_address_it_was_sent_to() -> None:
    for target in (HERE, THERE):
        reply = ask(target, b"hello")
        assert reply is not None
        assert (reply.source, reply.target) == (target, NODE)
        assert packet.read_datagram(reply) == Datagram(7, 999, b"HELLO\x01")


def test_who_has_no_address_is_answered_at_its_card() -> None:
    reply = ask(packet.BROADCAST_IP, b"hello", mac=packet.BROADCAST_MAC, source=packet.ANY_IP)
    assert reply is not None
    assert (reply.source, reply.target) == (HERE, packet.BROADCAST_IP)


def test_it_is_silent_about_what_is_not_for_it() -> None:
    assert ask(b"\x0a\x4d\0\x0c", b"hello") is None
    assert ask(HERE, b"hello", mac=b"\x52\x54\0\x43\0\x02") is None
    assert ask(HERE, b"hello", port=8) is None
    assert ask(HERE, b"") is None
    assert HOST.answer(Frame(MAC, NODE_MAC, 0x86DD, bytes(60))) is None
    assert HOST.answer(Frame(MAC, NODE_MAC, packet.IPV4, b"")) is None


def test_it_says_who_has_its_addresses_and_no_others() -> None:
    for address, known in ((HERE, True), (THERE, True), (NODE, False)):
        question = Arp(packet.ARP_REQUEST, NODE_MAC, NODE, bytes(6), address)
        answer = HOST.answer(Frame(packet.BROADCAST_MAC, NODE_MAC, packet.ARP, question.bytes()))
        if known:
            assert answer is not None
            assert packet.read_arp(answer[14:]) == Arp(packet.ARP_REPLY, MAC, address, NODE_MAC, NODE)
        else:
            assert answer is None
    reply = Arp(packet.ARP_REPLY, NODE_MAC, NODE, MAC, HERE)
    assert HOST.answer(Frame(MAC, NODE_MAC, packet.ARP, reply.bytes())) is None


def test_tcp_is_wanted_for_its_addresses_only() -> None:
    def tcp(target: bytes) -> Frame:
        return Frame(MAC, NODE_MAC, packet.IPV4, Ipv4(NODE, target, packet.TCP, bytes(20)).bytes())

    assert HOST.wants(tcp(HERE)) is not None
    assert HOST.wants(tcp(b"\x0a\x4d\x01\x0b")) is None  # an alias inside the stack
    assert HOST.wants(tcp(HERE)._replace(target=packet.BROADCAST_MAC)) is None
    assert HOST.answer(tcp(HERE)) is None
