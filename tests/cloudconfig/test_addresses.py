"""CoreOS's address variables: what is replaced, by what, and when a node knows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.node import apply as apply_module
from cloudconfig.node import datasource, status
from cloudconfig.node.datasource import Seed
from cloudconfig.node.status import Status
from cloudconfig.text import addresses
from terminal import Failure
from tests.cloudconfig.node import SeedFields, ShadowNode

VALUES = {"private_ipv4": "10.0.0.5", "public_ipv4": "8.8.4.4", "private_ipv6": "fd00::5", "public_ipv6": "2a00::5"}
ETCD = """\
#cloud-config
hostname: n1
coreos:
  etcd2:
    name: "%H"
    advertise-client-urls: "http://$private_ipv4:2379"
    initial-advertise-peer-urls: "http://${private_ipv4}:2380"
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$private_ipv4", "10.0.0.5"),
        ("${private_ipv4}", "10.0.0.5"),
        ("http://$private_ipv4:2380", "http://10.0.0.5:2380"),
        ("$private_ipv4$public_ipv4", "10.0.0.58.8.4.4"),
        ("[$public_ipv6]:1 [${private_ipv6}]:2", "[2a00::5]:1 [fd00::5]:2"),
        (r"\$private_ipv4", "$private_ipv4"),
        (r"\${public_ipv4}", "${public_ipv4}"),
        # Nothing that would have been replaced: nothing loses its backslash.
        (r"\$x \$HOME $x", r"\$x \$HOME $x"),
        ("$private_ipv4_suffix $private_ipv45", "$private_ipv4_suffix $private_ipv45"),
        (r"\$private_ipv4_suffix", r"\$private_ipv4_suffix"),
        ("${private_ipv4", "${private_ipv4"),
        ("$COREOS_PRIVATE_IPV4", "$COREOS_PRIVATE_IPV4"),
    ],
)
def test_substitution(text: str, expected: str) -> None:
    assert addresses.substitute(text, VALUES) == expected


@given(st.text("\\${}privateublc_46 \n"))
def test_what_uses_no_variable_stays(text: str) -> None:
    if not addresses.VARIABLE.search(text):
        assert addresses.substitute(text, VALUES) == text
    assert addresses.used(addresses.substitute(text, VALUES).replace("\\", "")) <= set(addresses.NAMES)


def test_what_is_used() -> None:
    assert addresses.used("a $private_ipv4\n# $public_ipv4\n  # ${public_ipv6}\n\\$private_ipv6") == {
        "private_ipv4",
        "public_ipv6",
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["127.0.0.1", "169.254.1.1", "fe80::1", "::1"], {}),
        (["10.0.2.15", "10.0.0.5"], {"private_ipv4": "10.0.2.15"}),
        (["8.8.8.8", "192.168.1.2"], {"private_ipv4": "192.168.1.2", "public_ipv4": "8.8.8.8"}),
        (
            ["100.64.0.1", "fd00::1", "2a00::1"],
            {"private_ipv4": "100.64.0.1", "private_ipv6": "fd00::1", "public_ipv6": "2a00::1"},
        ),
        (["nonsense", ""], {}),
    ],
)
def test_kinds_of_addresses(found: list[str], expected: dict[str, str]) -> None:
    assert addresses.sort(found) == expected


def test_one_stands_for_both() -> None:
    assert addresses.complete({"private_ipv4": "10.0.0.1"}) == {"private_ipv4": "10.0.0.1", "public_ipv4": "10.0.0.1"}
    assert addresses.complete(VALUES) == VALUES


def test_waiting_ends_with_an_address_or_with_its_name() -> None:
    found: Iterator[dict[str, str]] = iter([{}, {}, {"private_ipv4": "10.0.0.5"}])
    slept: list[float] = []
    values = addresses.wait(["public_ipv4"], {}, lambda: next(found), clock=lambda: 0.0, sleep=slept.append)
    assert (values["public_ipv4"], len(slept)) == ("10.0.0.5", 2)
    with pytest.raises(Failure, match=r"\$private_ipv6: no card has such an address"):
        addresses.wait(["private_ipv4", "private_ipv6"], {"private_ipv4": "10.0.0.5"}, dict, wait_s=0)
    assert addresses.wait(["private_ipv4"], {"private_ipv4": "10.9.9.9"}, lambda: VALUES)["private_ipv4"] == "10.9.9.9"


def test_cards_of_a_real_kernel() -> None:
    """In a network of its own: two cards, the default route leads over the second, whose address counts."""
    script = """
ip link set lo up
ip link add a0 type veth peer name peer0; ip link set peer0 up; ip addr add 10.1.0.1/24 dev a0; ip link set a0 up
ip link add z0 type veth peer name peer1; ip link set peer1 up; ip addr add 10.2.0.1/24 dev z0; ip addr add 2a00::7/64 dev z0 nodad; ip link set z0 up
ip link add docker0 type veth peer name peer2; ip link set peer2 up; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
ip route add default via 10.2.0.2 dev z0 metric 10
ip route add default via 10.1.0.2 dev a0 metric 20
mount -t sysfs sysfs /sys
exec "$0" -c 'from cloudconfig.text import addresses; print(addresses.cards())'
"""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-ec", script, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout.strip() == str({"private_ipv4": "10.2.0.1", "public_ipv6": "2a00::7"}), done.stderr


@pytest.fixture
def node(tmp_path: Path) -> ShadowNode:
    return ShadowNode(tmp_path)


def early(node: ShadowNode, text: str, **seed: Unpack[SeedFields]) -> Status:
    """The apply before there is a network."""
    found = Seed("test", text.encode(), **seed)
    node.machine.ran.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasource, "fetch", lambda _name, *, online: found)
        return apply_module.apply("test", str(node.path), node.machine, online=False)


def drop_in(node: ShadowNode) -> str:
    return (node.path / "run/systemd/system/etcd.service.d/20-cloudinit.conf").read_text()


def environment(node: ShadowNode) -> str:
    return (node.path / "etc/environment").read_text()


def test_from_metadata(node: ShadowNode) -> None:
    (node.path / "etc/environment").write_text("PATH=/bin\n# mine\nCOREOS_PRIVATE_IPV4=old\nEDITOR=vi\n")
    outcome = early(node, ETCD, addresses=tuple(VALUES.items()))
    assert (outcome.result, outcome.errors) == ("done", ())
    assert 'Environment="ETCD_ADVERTISE_CLIENT_URLS=http://10.0.0.5:2379"' in drop_in(node)
    assert 'Environment="ETCD_INITIAL_ADVERTISE_PEER_URLS=http://10.0.0.5:2380"' in drop_in(node)
    assert 'Environment="ETCD_NAME=%H"' in drop_in(node)
    assert environment(node) == (
        "PATH=/bin\n# mine\nCOREOS_PRIVATE_IPV4=10.0.0.5\nEDITOR=vi\n"
        "COREOS_PUBLIC_IPV4=8.8.4.4\nCOREOS_PRIVATE_IPV6=fd00::5\nCOREOS_PUBLIC_IPV6=2a00::5\n"
    )
    node.apply("#cloud-config\n")
    assert environment(node) == "PATH=/bin\n# mine\nCOREOS_PRIVATE_IPV4=old\nEDITOR=vi\n"


def test_from_the_cards_once_there_is_a_network(node: ShadowNode) -> None:
    """Early: name, and what leads to the network. Then all, once."""
    text = (
        ETCD
        + "  units: [{name: 10-a.network, content: '[Match]'}, {name: 20-b.network, content: \"[Network]\\nAddress=$public_ipv4/24\"}]\n"
    )
    outcome = early(node, text)
    assert outcome.result == status.DEFERRED
    assert node.machine.ran == ["systemctl --no-block start cloudconfig-online.service"]
    assert (node.path / "etc/hostname").read_text() == "n1\n"
    assert (node.path / "etc/systemd/network/10-a.network").exists()
    assert not (node.path / "etc/systemd/network/20-b.network").exists()
    assert not (node.path / "run/systemd/system").exists()
    node.machine.cards = {"private_ipv4": "10.2.0.1"}
    outcome = node.apply(text)
    assert (outcome.result, outcome.errors) == ("done", ())
    assert "http://10.2.0.1:2379" in drop_in(node)
    assert "10.2.0.1" in (node.path / "etc/systemd/network/20-b.network").read_text()
    assert environment(node) == "COREOS_PRIVATE_IPV4=10.2.0.1\nCOREOS_PUBLIC_IPV4=10.2.0.1\n"


def test_the_early_part_takes_nothing_away(node: ShadowNode) -> None:
    text = (
        ETCD
        + "  units: [{name: 10-a.network, content: '[Match]'}]\nwrite_files: [{path: /etc/x, content: $private_ipv4}]\n"
    )
    node.machine.cards = {"private_ipv4": "10.2.0.1"}
    node.apply(text)
    assert early(node, text).result == status.DEFERRED
    assert (node.path / "etc/x").read_text() == "10.2.0.1"
    node.apply("#cloud-config\n")
    assert not (node.path / "etc/x").exists()
    assert not (node.path / "etc/systemd/network/10-a.network").exists()


def test_an_address_that_the_text_gives_a_card_comes_first(node: ShadowNode) -> None:
    text = ETCD + "  units:\n  - name: 10-a.network\n    content: |\n      [Network]\n      Address=10.3.0.1/24\n"
    assert early(node, text).result == "done"
    assert "http://10.3.0.1:2379" in drop_in(node)
    assert environment(node) == "COREOS_PRIVATE_IPV4=10.3.0.1\nCOREOS_PUBLIC_IPV4=10.3.0.1\n"


def test_an_address_of_network_config(node: ShadowNode) -> None:
    config = b"version: 2\nethernets: {eth0: {addresses: [10.4.0.1/24]}}\n"
    assert early(node, ETCD, network=config).result == "done"
    assert "http://10.4.0.1:2379" in drop_in(node)
    assert "Address=10.4.0.1/24" in (node.path / "run/systemd/network/10-netcfg-eth0.network").read_text()


def test_a_tunnel_s_address_in_a_file_is_no_card_s(node: ShadowNode) -> None:
    text = ETCD + 'write_files: [{path: /etc/wireguard/wg0.conf, content: "[Interface]\\nAddress = 10.9.0.1/24\\n"}]\n'
    assert early(node, text).result == status.DEFERRED


def test_no_address_is_an_error_and_keys_are_there(node: ShadowNode) -> None:
    outcome = node.apply(ETCD)
    assert (outcome.result, len(outcome.errors)) == ("degraded", 1)
    assert "$private_ipv4: no card has such an address" in outcome.errors[0].message
    assert (node.path / "etc/hostname").read_text() == "n1\n"


def test_the_environment_of_units_that_come_later(node: ShadowNode) -> None:
    """A text of CoreOS's kind without variables is applied at once; /etc/environment follows."""
    assert early(node, "#cloud-config\ncoreos: {fleet: {metadata: a=b}}\n").result == "done"
    assert node.machine.ran[-1].endswith("--unit=cloudconfig-environment /usr/bin/cloudconfig environment")
    node.machine.cards = {"private_ipv4": "10.2.0.1"}
    apply_module.environment(str(node.path), node.machine)
    assert environment(node) == "COREOS_PRIVATE_IPV4=10.2.0.1\nCOREOS_PUBLIC_IPV4=10.2.0.1\n"


def test_units_of_the_text_that_look_into_the_environment_wait_for_it(node: ShadowNode) -> None:
    unit = '{name: a.service, command: start, content: "[Service]\\nEnvironmentFile=/etc/environment\\n"}'
    text = f"#cloud-config\ncoreos: {{units: [{unit}]}}\n"
    assert early(node, text).result == status.DEFERRED
    node.machine.cards = {"private_ipv4": "10.2.0.1"}
    assert node.apply(text).result == "done"
    assert "10.2.0.1" in environment(node)


def test_who_writes_the_environment_keeps_it(node: ShadowNode) -> None:
    outcome = node.apply(
        "#cloud-config\nwrite_files: [{path: /etc/environment, content: mine}]\ncoreos: {etcd2: {name: a}}\n"
    )
    assert (outcome.errors, environment(node)) == ((), "mine")


def test_scripts_too(node: ShadowNode) -> None:
    node.machine.cards = {"private_ipv4": "10.2.0.1"}
    assert node.apply("#!/bin/sh\necho $private_ipv4 \\$private_ipv4\n").result == "done"
    text = (node.path / "var/lib/cloudconfig/scripts/user-data-1").read_text()
    assert text == "#!/bin/sh\necho 10.2.0.1 $private_ipv4\n"
