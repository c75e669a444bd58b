"""Names of the segment: an authoritative DNS server for ``cluster.internal`` and the addresses' names.

It refuses all other names.

The wire format is dnspython's (RFC 1035, 2181, 2308; EDNS 0 of RFC 6891). Nothing is forwarded: a node uses other
servers for the internet. Only the one question of a query is read: dnspython remembers every record type that it ever
met, and there are some four thousand million.
"""

from __future__ import annotations

from collections.abc import Iterable

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from cluster.model.machine import NETWORK
from cluster.services import addresses
from cluster.services.addresses import DOMAIN, SERVICES, Neighbour
from cluster.services.host import Caller

PORT = 53
TTL_S = 60
"""Addresses never change while a cluster lives.

A minute is short, so that a removed node is not remembered for long.
"""
UDP_BYTES_MAX = 512
"""Of an answer, and of a question, which is half as long with the longest name there can be."""
HEADER_BYTES = 12
_ANSWER, _OPERATION, _RECURSION_WANTED = 0x80, 0x78, 0x01
"""Bits of the header's third byte (RFC 1035, section 4.1.1)."""
_ONE = b"\0\1"
_OPTIONS = bytes([0, 0, dns.rdatatype.OPT])
"""How EDNS begins: the name of the root, and its type."""


class NameServer:
    """Answers questions about ``nodes`` and this computer's services."""

    def __init__(self, nodes: Iterable[Neighbour]) -> None:
        domain = dns.name.from_text(DOMAIN)
        reverse = dns.name.from_text(".".join(reversed(NETWORK.split("."))) + ".in-addr.arpa")
        self._zones = (domain, reverse)
        known = addresses.names(nodes)
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], str] = {}
        for name, address in known.items():
            self._records[dns.name.from_text(name, domain), dns.rdatatype.A] = address
            if address != SERVICES:
                self._point(address, f"{name}.{DOMAIN}.")
        self._point(SERVICES, f"time.{DOMAIN}.")
        for zone in self._zones:
            self._records[zone, dns.rdatatype.NS] = f"time.{DOMAIN}."
            self._records[zone, dns.rdatatype.SOA] = f"time.{DOMAIN}. root.{DOMAIN}. 1 3600 600 86400 {TTL_S}"
        self._names = {name for name, _ in self._records}

    def _point(self, address: str, name: str) -> None:
        self._records[dns.reversename.from_address(address), dns.rdatatype.PTR] = name

    def __call__(self, caller: Caller, question: bytes) -> bytes | None:  # noqa: ARG002 - services share it
        """The answer to a query, None if it is not one: an answer to nonsense could be the start of a loop."""
        if not HEADER_BYTES <= len(question) <= UDP_BYTES_MAX or question[2] & _ANSWER:
            return None
        if question[2] & _OPERATION:
            return _refusal(question, dns.rcode.NOTIMP)
        if question[4:6] != _ONE:
            return _refusal(question, dns.rcode.FORMERR)
        try:
            query = dns.message.from_wire(question, question_only=True)
        except dns.exception.DNSException:
            return None
        wanted = query.question[0]
        reply = dns.message.make_response(query)
        behind = HEADER_BYTES + len(wanted.name.to_digestable()) + 4
        if question[behind : behind + len(_OPTIONS)] == _OPTIONS:
            reply.use_edns(0, payload=UDP_BYTES_MAX)
        self._answer(wanted, reply)
        return reply.to_wire(max_size=UDP_BYTES_MAX)

    def _answer(self, question: dns.rrset.RRset, reply: dns.message.Message) -> None:
        name = question.name.canonicalize()
        zone = next((zone for zone in self._zones if name.is_subdomain(zone)), None)
        if zone is None or question.rdclass != dns.rdataclass.IN:
            reply.set_rcode(dns.rcode.REFUSED)
            return
        reply.flags |= dns.flags.AA
        value = self._records.get((name, question.rdtype))
        if value is not None:
            reply.answer.append(self._record(question.name, question.rdtype, value))
            return
        if name not in self._names:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        soa = dns.rdatatype.SOA
        reply.authority.append(self._record(zone, soa, self._records[zone, soa]))

    def _record(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, value: str) -> dns.rrset.RRset:
        return dns.rrset.from_text(name, TTL_S, dns.rdataclass.IN, kind, value)


def _refusal(question: bytes, code: dns.rcode.Rcode) -> bytes:
    """A header, without the question."""
    return question[:2] + bytes([_ANSWER | question[2] & (_OPERATION | _RECURSION_WANTED), code]) + bytes(8)
