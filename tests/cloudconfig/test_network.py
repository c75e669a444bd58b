"""network-config of NoCloud: both versions become networkd's files; what is broken leaves the cards to DHCP."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.plan import network
from tests.cloudconfig.node import KEY, ShadowNode
from unitfile.text import UnitFile

FOLDER = "/run/systemd/network/10-netcfg-"


def files(text: str) -> dict[str, str]:
    found, findings = network.read(text.encode())
    assert not findings, findings
    return {file.path.removeprefix(FOLDER): file.content.decode().partition("\n")[2] for file in found}


V2 = """\
network:
  version: 2
  renderer: networkd
  ethernets:
    id0:
      match: {macaddress: '52:54:00:AA:bb:01'}
      set-name: lan0
      addresses: [10.0.0.5/24, 'fd00::5/64']
      gateway4: 10.0.0.1
      routes:
      - {to: 10.9.0.0/16, via: 10.0.0.9, metric: 50, on-link: true}
      - {to: default, via: 'fd00::1'}
      nameservers: {addresses: [10.0.0.2], search: [example.org, a.example.org]}
      mtu: 9000
    eth1: {dhcp4: true, dhcp6: true, dhcp4-overrides: {use-dns: false, route-metric: 200}, optional: true}
"""


def test_version_2() -> None:
    found = files(V2)
    assert found["id0.link"] == "[Match]\nPermanentMACAddress=52:54:00:aa:bb:01\n\n[Link]\nNamePolicy=\nName=lan0\n"
    assert found["id0.network"] == (
        "[Match]\nPermanentMACAddress=52:54:00:aa:bb:01\n\n"
        "[Network]\nDHCP=no\nAddress=10.0.0.5/24\nAddress=fd00::5/64\nDNS=10.0.0.2\nDomains=example.org a.example.org\n\n"
        "[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9\nMetric=50\nGatewayOnLink=yes\n\n"
        "[Route]\nDestination=::/0\nGateway=fd00::1\n\n"
        "[Route]\nDestination=0.0.0.0/0\nGateway=10.0.0.1\n\n"
        "[Link]\nMTUBytes=9000\nRequiredForOnline=no\n"
    )
    assert found["eth1.network"] == (
        "[Match]\nName=eth1\n\n[Network]\nDHCP=yes\n\n"
        "[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nRouteMetric=200\nUseDNS=no\n\n"
        "[DHCPv6]\nUseHostname=no\nUseDNS=no\n\n[Link]\nRequiredForOnline=no\n"
    )


V1 = """\
version: 1
config:
- {type: physical, name: eth0, mac_address: '52:54:00:aa:bb:01', subnets: [{type: dhcp}]}
- type: physical
  name: eth1
  mtu: 1400
  subnets:
  - type: static
    address: 10.0.0.5
    netmask: 255.255.255.0
    gateway: 10.0.0.1
    dns_nameservers: [10.0.0.2, 10.0.0.3]
    dns_search: [example.org]
    routes: [{network: 10.9.0.0, netmask: 255.255.0.0, gateway: 10.0.0.9}]
  - {type: static6, address: 'fd00::5/64'}
- {type: nameserver, address: [9.9.9.9], search: [b.example.org]}
- {type: route, destination: 10.8.0.0/16, gateway: 10.0.0.8}
"""


def test_version_1() -> None:
    found = files(V1)
    assert "Name=eth0" in found["eth0.link"]
    assert "PermanentMACAddress=52:54:00:aa:bb:01" in found["eth0.network"]
    assert "DHCP=ipv4\nDNS=9.9.9.9\nDomains=b.example.org" in found["eth0.network"]
    lines = found["eth1.network"].splitlines()
    for line in (
        "Name=eth1",
        "DHCP=no",
        "Address=10.0.0.5/24",
        "Address=fd00::5/64",
        "DNS=10.0.0.3",
        "DNS=9.9.9.9",
        "Domains=example.org b.example.org",
        "MTUBytes=1400",
    ):
        assert line in lines
    assert "[Route]\nDestination=10.9.0.0/16\nGateway=10.0.0.9\n" in found["eth1.network"]
    assert "[Route]\nDestination=0.0.0.0/0\nGateway=10.0.0.1\n" in found["eth1.network"]
    assert "Destination=10.8.0.0/16" in found["eth0.network"], "a route of no card is of the first that has an address"


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\nethernets: {a: {}, b: {}}\nbonds: {bond0: {interfaces: [a, b], dhcp4: true, parameters: {mode: 802.3ad, mii-monitor-interval: 100, lacp-rate: fast}}}\nvlans: {v7: {id: 7, link: bond0, addresses: [10.7.0.1/24]}}\n",
        "version: 1\nconfig:\n- {type: physical, name: a}\n- {type: physical, name: b}\n- {type: bond, name: bond0, bond_interfaces: [a, b], params: {bond-mode: 4, bond-miimon: 100, bond_lacp_rate: 1}, subnets: [{type: dhcp4}]}\n- {type: vlan, name: v7, vlan_link: bond0, vlan_id: 7, subnets: [{type: static, address: 10.7.0.1/24}]}\n",
    ],
)
def test_bonds_and_vlans_in_both(text: str) -> None:
    found = files(text)
    assert found["bond0.netdev"] == (
        "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=802.3ad\nMIIMonitorSec=100ms\nLACPTransmitRate=fast\n"
    )
    assert "[Network]\nBond=bond0\nLinkLocalAddressing=no\n" in found["a.network"]
    assert "DHCP=ipv4\nVLAN=v7" in found["bond0.network"]
    assert found["v7.netdev"] == "[NetDev]\nName=v7\nKind=vlan\n\n[VLAN]\nId=7\n"
    assert "Address=10.7.0.1/24" in found["v7.network"]


def test_bridges() -> None:
    found = files(
        "version: 2\nethernets: {a: {}}\nbridges: {br0: {interfaces: [a], macaddress: '52:54:00:00:00:09', parameters: {stp: false, forward-delay: 4}}}\n"
    )
    assert (
        found["br0.netdev"]
        == "[NetDev]\nName=br0\nKind=bridge\nMACAddress=52:54:00:00:00:09\n\n[Bridge]\nSTP=false\nForwardDelaySec=4\n"
    )
    assert "Bridge=br0" in found["a.network"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "network: {config: disabled}\n",
        "version: 2\n",
        "version: 1\nconfig: []\n",
        "version: 1\nconfig: [{type: loopback, name: lo}]\n",
    ],
)
def test_nothing_to_do(text: str) -> None:
    found, findings = network.read(text.encode())
    assert (found, [one for one in findings if one.severity == "error" and text]) == ((), [])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("version: 3\n", "version"),
        ("ethernets: {}\n", "version"),
        ("version: 2\nethernets: [a]\n", "ethernets"),
        ("version: 2\nethernets: {'../x': {}}\n", "ethernets.../x"),
        ("version: 2\nethernets: {a: {addresses: [10.0.0.5]}}\n", "ethernets.a.addresses[0]"),
        ("version: 2\nethernets: {a: {addresses: [10.0.0.999/24]}}\n", "ethernets.a.addresses[0]"),
        ("version: 2\nethernets: {a: {gateway4: here}}\n", "ethernets.a.gateway4"),
        ('version: 2\nethernets: {a: {match: {name: "x\\n[Route]"}}}\n', "ethernets.a.match.name"),
        ('version: 2\nethernets: {a: {nameservers: {search: ["x y"]}}}\n', "ethernets.a.nameservers.search[0]"),
        ("version: 2\nethernets: {a: {routes: [{to: nowhere, via: 10.0.0.1}]}}\n", "ethernets.a.routes[0].to"),
        ("version: 2\nethernets: {a: {mtu: big}}\n", "ethernets.a.mtu"),
        ('version: 2\nbridges: {b: {parameters: {stp: "a\\nb"}}}\n', "bridges.b.parameters.stp"),
        ("version: 2\nbonds: {b: {interfaces: [a]}}\n", "bonds.b"),
        ("version: 1\nconfig: [{type: wifi, name: w}]\n", "config[0]"),
        ("version: 1\nconfig: [{type: physical}]\n", "config[0]"),
        ("version: 1\nconfig: [{type: physical, name: a, subnets: [{type: static}]}]\n", "config[0].subnets[0]"),
        ("version: 1\nconfig: [{type: physical, name: a, subnets: [{type: magic}]}]\n", "config[0].subnets[0].type"),
        ("version: 2\nethernets: [\n", ""),
    ],
)
def test_broken(text: str, path: str) -> None:
    found, findings = network.read(text.encode())
    assert found == ()
    assert path in [one.path for one in findings if one.severity == "error"], findings


@given(st.text(alphabet=st.sampled_from(list("version: 12\nethernets{}[],'\"#-configaddresses/.0 ")), max_size=200))
def test_nothing_raises(text: str) -> None:
    network.read(text.encode())
    network.read(f"version: 2\nethernets: {{a: {{{text}}}}}\n".encode())


NAMES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(NAMES, NAMES, NAMES)
def test_no_value_becomes_a_line_of_its_own(name: str, domain: str, mac: str) -> None:
    import json

    config = {
        "version": 2,
        "ethernets": {
            name: {
                "match": {"macaddress": mac, "driver": domain},
                "nameservers": {"search": [domain]},
                "set-name": name,
            }
        },
    }
    for file in network.read(json.dumps(config).encode())[0]:
        for line in file.content.decode().splitlines():
            assert line.partition("=")[0] in {
                "# Made by cloudconfig of network-config.",
                "",
                "[Match]",
                "[Network]",
                "[Link]",
                "PermanentMACAddress",
                "Driver",
                "Name",
                "NamePolicy",
                "DHCP",
                "Domains",
                "RequiredForOnline",
            }


def test_a_broken_network_config_keeps_nothing_else_back(tmp_path: Path) -> None:
    node = ShadowNode(tmp_path)
    outcome = node.apply(
        f"#cloud-config\nssh_authorized_keys: ['{KEY}']\nwrite_files: [{{path: /etc/a}}]\n", network=b"version: 9\n"
    )
    assert (outcome.result, outcome.errors[0].path) == ("degraded", "network-config version")
    assert (tmp_path / "etc/a").exists()
    assert not (tmp_path / "run/systemd/network").exists()


def test_a_user_s_own_network_file_goes_before_the_image_s() -> None:
    overlay = Path(__file__).parents[2] / "image/overlay/usr/lib/systemd/network"
    (default,) = (path.name for path in overlay.iterdir())
    assert default == "zz-default.network", "CoreOS's name for it"
    assert all(name < default for name in ("static.network", "99-x.network", "eth0.network", "10-netcfg-eth0.network"))
    UnitFile.parse((overlay / default).read_text())
