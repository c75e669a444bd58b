"""Names of the segment."""

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.services.addresses import Neighbour
from cluster.services.dns import UDP_BYTES_MAX, NameServer
from cluster.services.host import Caller

NODE = Caller(b"\x52\x54\0\x43\0\x01", b"\x0a\x4d\0\x0b")
SERVER = NameServer([Neighbour(1), Neighbour(2)])


def ask(name: str, kind: str = "A") -> dns.message.Message:
    question = dns.message.make_query(name, kind)
    answer = SERVER(NODE, question.to_wire())
    assert answer is not None
    reply = dns.message.from_wire(answer)
    assert question.is_response(reply)
    return reply


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("node-1.cluster.internal", "A", "10.77.0.11"),
        ("NODE-2.Cluster.Internal", "A", "10.77.0.12"),
        ("registry.cluster.internal", "A", "10.77.0.1"),
        ("12.0.77.10.in-addr.arpa", "PTR", "node-2.cluster.internal."),
        ("cluster.internal", "NS", "time.cluster.internal."),
    ],
)
def test_what_it_knows(name: str, kind: str, value: str) -> None:
    reply = ask(name, kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.flags & dns.flags.AA
    assert [str(item) for record in reply.answer for item in record] == [value]


def test_what_there_is_not() -> None:
    missing = ask("node-3.cluster.internal")
    assert missing.rcode() == dns.rcode.NXDOMAIN
    empty = ask("node-1.cluster.internal", "AAAA")
    assert empty.rcode() == dns.rcode.NOERROR
    for reply in (missing, empty):
        assert not reply.answer
        assert "SOA" in str(reply.authority[0])  # or no client may cache it


@pytest.mark.parametrize("name", ["example.org", "registry", ".", "11.0.0.10.in-addr.arpa"])
def test_the_rest_is_refused(name: str) -> None:
    assert ask(name).rcode() == dns.rcode.REFUSED


def test_an_answer_is_not_answered() -> None:
    assert SERVER(NODE, dns.message.make_response(dns.message.make_query("a.", "A")).to_wire()) is None


def test_an_update_is_none_of_its_business() -> None:
    question = bytearray(dns.message.make_query("cluster.internal", "SOA").to_wire())
    question[2] |= 5 << 3
    answer = SERVER(NODE, bytes(question))
    assert answer is None or answer[3] & 15 == dns.rcode.NOTIMP


@given(st.binary(max_size=600))
def test_noise_is_survived(question: bytes) -> None:
    answer = SERVER(NODE, question)
    assert answer is None or len(answer) <= UDP_BYTES_MAX
