"""Names and addresses: what may stand in a certificate, and what a person meant when it may not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import UsageFailure
from trust import names

_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(st.lists(_LABEL, min_size=1, max_size=5).map(".".join).filter(lambda name: not name.split(".")[-1].isdigit()))
def test_a_host_name_is_itself_in_lower_case(name: str) -> None:
    assert names.node_name(name.upper()) == name
    assert names.address(name.upper()) == name


@given(st.ip_addresses())
def test_an_address_is_itself_or_refused(one: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    try:
        assert names.address(str(one)) == one
    except UsageFailure:
        is_mapped = isinstance(one, ipaddress.IPv6Address) and one.ipv4_mapped is not None
        assert one.is_multicast or one.is_unspecified or is_mapped or str(one) == "255.255.255.255"


@given(st.text())
def test_anything_else_is_refused_or_plain(text: str) -> None:
    for read in (names.node_name, names.user_name, names.address):
        try:
            found = str(read(text))
        except UsageFailure as failure:
            assert failure.hint
        else:
            assert found.isascii()
            assert found.isprintable()
            assert not set(found) & set(" /*\\,=\"'")
            assert str(read(found)) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "write an IP address"),
        (" ", "write an IP address"),
        ("10.0.0.0/8", "prefix length"),
        ("http://node-1", "URL"),
        ("10.0.0.1:2380", ":PORT"),
        ("[fd00::1]:2380", ":PORT"),
        ("*.example.net", "own names only"),
        ("fe80::1%eth0", "%"),
        ("::ffff:10.0.0.1", "write 10.0.0.1"),
        ("0.0.0.0", "others reach it"),
        ("::", "others reach it"),
        ("224.0.0.1", "others reach it"),
        ("255.255.255.255", "others reach it"),
        ("ff02::1", "others reach it"),
        ("10.0.0.300", "write an IP address"),
        ("10.0.0", "write an IP address"),
        ("münchen.example", "xn--"),
        ("a..b", "host name"),
        ("-a", "host name"),
        ("a_b", "host name"),
        ("a\0", "host name"),
        ("a\n", "host name"),
        ("a" * 64, "host name"),
        (".".join(["a" * 60] * 5), "host name"),
    ],
)
def test_a_refusal_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(UsageFailure) as caught:
        names.address(text)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["", "a b", "a/b", "..", "-a", "a" * 65, "kim\n", "O=operator,CN=kim", "kim\0", "ｋim"]
)
def test_no_name_of_a_user(text: str) -> None:
    with pytest.raises(UsageFailure):
        names.user_name(text)


def test_addresses_are_there_once_and_not_without_end() -> None:
    assert names.addresses(["A", "10.0.0.1", "a", "10.0.0.1"]) == ("a", ipaddress.ip_address("10.0.0.1"))
    with pytest.raises(UsageFailure, match="101 addresses"):
        names.addresses(f"10.0.0.{number}" for number in range(1, 102))
