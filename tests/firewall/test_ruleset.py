"""The table as text: whole ones to read, and what no rules may change.

That nft takes them, and what they do, is tried on nodes (vm-tests/test_docker.py).
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core import data
from firewall.ruleset import METADATA, Endpoint, Range, Rules, text

GOLDEN = Path(__file__).parent / "golden"
ALL = Rules(
    doors=(2380, 2379, 4001),
    machines=("10.1.0.0/16", "192.0.2.7/32", "10.1.2.0/24", "2001:db8:1::/64"),
    neighbours=False,
    nodes_only=("10.77.0.1/32", "fd00::1/128"),
    endpoints=(Endpoint("10.0.2.100", 8087), Endpoint("2001:db8::5", 7379)),
    strict=True,
    allowed=(Range("udp", 53, 53), Range("tcp", 8000, 8100), Range("tcp", 80, 80)),
)
networks = st.ip_addresses().map(lambda each: f"{each}/{each.max_prefixlen}")
rules = st.builds(
    Rules,
    doors=st.lists(st.integers(1, 65535), max_size=4).map(lambda ports: (2378, 2379, 2380, *ports)),
    machines=st.lists(networks, max_size=4).map(tuple),
    neighbours=st.booleans(),
    nodes_only=st.lists(networks, max_size=4).map(tuple),
    endpoints=st.lists(st.builds(Endpoint, st.ip_addresses().map(str), st.integers(1, 65535)), max_size=4).map(tuple),
    strict=st.booleans(),
    allowed=st.lists(st.builds(Range, st.sampled_from(["tcp", "udp"]), st.integers(1, 9), st.integers(9, 99))).map(
        tuple
    ),
)


def test_the_images_file_is_the_table_without_user_data() -> None:
    """Otherwise: write firewall.ruleset.text(Rules()) there."""
    assert (data.image() / "overlay/etc/flotilla/firewall.nft").read_text() == text(Rules())


def test_golden() -> None:
    """All that there is; read it when it changes."""
    assert text(ALL) == (GOLDEN / "strict.nft").read_text()


@given(rules)
def test_it_replaces_its_own_table_and_touches_no_other(made: Rules) -> None:
    lines = text(made).splitlines()
    assert lines[1:4] == ["table inet flotilla", "delete table inet flotilla", "table inet flotilla {"]
    assert [line for line in lines[4:] if line.startswith(("table", "delete", "flush", "add"))] == []
    assert sum(line.count("{") for line in lines) == sum(line.count("}") for line in lines)


@given(rules)
def test_containers_are_refused_before_anybody_is_let_in(made: Rules) -> None:
    """Whatever user-data names: an address does not make a container a machine of the cluster."""
    chains = chains_of(text(made))
    assert chains["door"][0].startswith('meta iifkind { "bridge", "veth" } iifname != @cards counter reject')
    assert chains["door"][-1] == "counter reject with icmpx admin-prohibited"
    # What is jumped to may only refuse: nothing is accepted before the doors are checked.
    reached = chains["input"][2 : chains["input"].index("tcp flags & (fin | syn | rst | ack) == syn jump node") + 1]
    assert [rule for rule in reached if rule.endswith("accept")] == []
    assert [rule for name in ("door", "node", "from_container") for rule in chains[name] if "accept" in rule] == []


@given(rules)
def test_metadata_is_nodes_only_always(made: Rules) -> None:
    body = "\n".join(chains_of(text(made))["from_container"])
    assert all(network in body for network in METADATA)


@given(rules, st.randoms(use_true_random=False))
def test_order_means_nothing(made: Rules, chance: Random) -> None:
    turned = {
        name: tuple(chance.sample(value, len(value)))
        for name, value in made._asdict().items()
        if isinstance(value, tuple)
    }
    assert text(Rules(**(made._asdict() | turned))) == text(made)


@pytest.mark.parametrize("wrong", ["", "x", "10.0.0.1/8", "10.0.0.0/8 }", "10.0.0.0/8, 0.0.0.0/0", "fe80::1%eth0/64;"])
def test_only_networks_get_into_the_text(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"IPv4 or IPv6|host bits"):
        text(Rules(machines=(wrong,)))
    with pytest.raises(ValueError, match=r"IPv4 or IPv6|host bits"):
        text(Rules(endpoints=(Endpoint(wrong, 80),)))


def chains_of(table: str) -> dict[str, list[str]]:
    """The rules of each chain."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in map(str.strip, table.splitlines()):
        if line.endswith(" {"):
            name = line.removeprefix("chain ").removesuffix(" {")
            found[name] = []
        elif name and not line.startswith(("#", "}", "type ")):
            found[name].append(line)
    return found
