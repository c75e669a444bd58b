"""Addresses, and the messages in which they are given."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.services import dhcp
from cluster.services.addresses import Neighbour
from cluster.services.dhcp import ACK, DISCOVER, INFORM, NAK, OFFER, RELEASE, REQUEST, AddressServer, Message, read
from cluster.services.host import Caller

MAC = b"\x52\x54\0\x43\0\x02"
HERE, MINE, OTHER = b"\x0a\x4d\0\x01", b"\x0a\x4d\0\x0c", b"\x0a\x4d\0\x0d"
SERVER = AddressServer([Neighbour(1), Neighbour(2)])


def ask(kind: int, *, mac: bytes = MAC, client: bytes = bytes(4), **options: bytes) -> Message | None:
    numbers = {"wanted": dhcp.REQUESTED_ADDRESS, "server": dhcp.SERVER}
    given = {numbers[name]: value for name, value in options.items()}
    question = Message(1, 0xCAFE, 0, client, bytes(4), bytes(4), mac, {dhcp.MESSAGE_TYPE: bytes([kind]), **given})
    answer = SERVER(Caller(mac, client), question.bytes())
    return None if answer is None else read(answer)


def kind(message: Message | None) -> int | None:
    return None if message is None else message.options[dhcp.MESSAGE_TYPE][0]


def test_an_offer_as_on_the_wire() -> None:
    question = Message(1, 0xCAFE, 0, bytes(4), bytes(4), bytes(4), MAC, {dhcp.MESSAGE_TYPE: b"\x01"})
    answer = SERVER(Caller(MAC, bytes(4)), question.bytes())
    assert answer is not None
    assert answer[:44].hex() == (
        "020106000000cafe00000000"  # a reply, Ethernet, no hops; the transaction; no seconds, no flags
        "000000000a4d000c0000000000000000"  # yours is 10.77.0.12
        "52540043000200000000000000000000"
    )  # fmt: skip
    assert answer[236:].rstrip(b"\0").hex() == (
        "63825363"  # the cookie
        "35010236040a4d0001330400015180"  # an offer, of this server, for a day
        "0104ffffff00790920a9fea9fe0a4d0001"  # /24; 169.254.169.254/32 by 10.77.0.1
        "06040a4d00012a040a4d0001"  # names, time
        "0c06" + b"node-2".hex() + "0f10" + b"cluster.internal".hex() + "ff"
    )  # fmt: skip


def test_the_four_steps() -> None:
    offer = ask(DISCOVER)
    assert offer is not None
    assert (kind(offer), offer.yours) == (OFFER, MINE)
    ack = ask(REQUEST, wanted=offer.yours, server=HERE)
    assert ack is not None
    assert (kind(ack), ack.yours) == (ACK, MINE)
    renewed = ask(REQUEST, client=MINE)
    assert renewed is not None
    assert (kind(renewed), renewed.client) == (ACK, MINE)


def test_an_address_that_is_not_its_own_is_refused() -> None:
    assert kind(ask(REQUEST, wanted=OTHER)) == NAK
    assert kind(ask(REQUEST, client=OTHER)) == NAK
    assert kind(ask(REQUEST)) == NAK


def test_a_client_with_an_address_gets_the_rest() -> None:
    reply = ask(INFORM, client=MINE)
    assert reply is not None
    assert kind(reply) == ACK
    assert reply.yours == bytes(4)
    assert dhcp.LEASE_TIME not in reply.options


def test_silence() -> None:
    assert ask(DISCOVER, mac=b"\x52\x54\0\x43\0\x09") is None
    assert ask(REQUEST, wanted=MINE, server=OTHER) is None  # it took another server's offer
    assert ask(RELEASE, client=MINE) is None
    assert ask(99) is None
    lie = Message(1, 1, 0, bytes(4), bytes(4), bytes(4), MAC, {dhcp.MESSAGE_TYPE: b"\x01"})
    assert SERVER(Caller(b"\x52\x54\0\x43\0\x01", bytes(4)), lie.bytes()) is None


@given(
    st.builds(
        Message,
        st.sampled_from([1, 2]),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, 65535),
        *[st.binary(min_size=4, max_size=4)] * 3,
        st.binary(min_size=6, max_size=6),
        st.dictionaries(st.integers(1, 254), st.binary(max_size=255)),
    )
)
def test_what_is_written_is_read(message: Message) -> None:
    assert read(message.bytes()) == message


@given(st.binary(max_size=100))
def test_noise_is_survived(options: bytes) -> None:
    whole = Message(1, 1, 0, bytes(4), bytes(4), bytes(4), MAC, {}).bytes()[:240] + options
    read(options)
    read(whole)
    SERVER(Caller(MAC, bytes(4)), whole)
