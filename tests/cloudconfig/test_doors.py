"""The key firewall, and the table that follows from user-data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.host import render
from cloudconfig.plan import plan
from cloudconfig.plan.plan import FIREWALL, PlanError
from cloudconfig.text import doors, parse
from cloudconfig.text.finding import ERROR
from cloudconfig.text.schema import CloudConfig
from firewall import ruleset
from firewall.ruleset import Endpoint, Range, Rules


def config_of(text: str) -> CloudConfig:
    found = parse.parse("#cloud-config\n" + text)
    assert [one for one in found.findings if one.severity == ERROR] == []
    return found.config


def findings_of(text: str) -> list[tuple[str, str, str]]:
    found = validate.validate(f"#cloud-config\nfirewall: {text}\n".encode())
    return [(one.severity, one.path, one.message) for one in found]


def table_of(text: str) -> str | None:
    """The table that a node gets; None: the image's."""
    files = {file.path: file.content.decode() for file in plan.make(config_of(text)).files}
    return files.get(FIREWALL)


@pytest.mark.parametrize(
    "text", ["", "hostname: a\n", "firewall: open\n", "coreos: {etcd2: {name: a}}\n", "firewall:\n"]
)
def test_who_asks_for_nothing_has_the_images_table(text: str) -> None:
    assert table_of(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("strict", Rules(strict=True)),
        ("{mode: strict, allow: 80}", Rules(strict=True, allowed=(Range("tcp", 80, 80),))),
        (
            "{mode: strict, allow: [443/tcp, 53/udp, 8000-8100]}",
            Rules(strict=True, allowed=(Range("tcp", 443, 443), Range("udp", 53, 53), Range("tcp", 8000, 8100))),
        ),
        ("{cluster: 10.77.0.11/24}", Rules(machines=("10.77.0.0/24",), neighbours=False)),
        ("{cluster: [192.0.2.1, 'fd00::/64']}", Rules(machines=("192.0.2.1/32", "fd00::/64"), neighbours=False)),
        ("{nodes-only: [10.77.0.1]}", Rules(nodes_only=("10.77.0.1/32",))),
    ],
)
def test_the_key(text: str, wanted: Rules) -> None:
    assert findings_of(text) == []
    assert doors.rules(config_of(f"firewall: {text}\n")) == wanted
    assert table_of(f"firewall: {text}\n") == ruleset.text(wanted)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("closed", "firewall", "is none of the known words"),
        ("{mode: on}", "firewall.mode", "is none of the known words"),
        ("[strict]", "firewall", "must be a mapping of keys to values, is a list"),
        ("{mode: strict, allow: [ssh]}", "firewall.allow[0]", "not a port"),
        ("{mode: strict, allow: [0]}", "firewall.allow[0]", "not a port"),
        ("{mode: strict, allow: [80, 65536]}", "firewall.allow[1]", "not a port"),
        ("{mode: strict, allow: [90-80]}", "firewall.allow[0]", "not a port"),
        ("{mode: strict, allow: [80/sctp]}", "firewall.allow[0]", "not a port"),
        ("{mode: strict, allow: [[80]]}", "firewall.allow[0]", "must be text"),
        ("{mode: strict, allow: {tcp: 80}}", "firewall.allow", "must be a list, is a mapping"),
        ("{cluster: [node-1]}", "firewall.cluster[0]", "not an address or a network"),
        ("{cluster: [10.0.0.0/33]}", "firewall.cluster[0]", "not an address or a network"),
        ("{cluster: ['10.0.0.0/8 }']}", "firewall.cluster[0]", "not an address or a network"),
        ("{cluster: [0.0.0.0/0]}", "firewall.cluster[0]", "includes every address"),
        ("{cluster: ['::/0']}", "firewall.cluster[0]", "includes every address"),
        ("{cluster: []}", "firewall.cluster", "names no machine"),
        ("{nodes_only: [registry.example.org]}", "firewall.nodes_only[0]", "not an address or a network"),
        (f"{{nodes_only: {['10.0.0.1'] * 257}}}", "firewall.nodes_only", "more than 256 entries"),
    ],
)
def test_mistakes(text: str, path: str, message: str) -> None:
    assert (ERROR, path, message) in findings_of(text)


def test_ports_are_listed_for_nothing_where_all_is_open() -> None:
    assert findings_of("{allow: [80]}") == [("warning", "firewall.allow", "all is open that units publish")]


def test_two_parts_may_not_differ() -> None:
    one, other = config_of("firewall: strict\n"), config_of("firewall: open\n")
    assert plan.make(plan.combine([one, one])).files[0].path == FIREWALL
    with pytest.raises(PlanError, match="two parts"):
        plan.make(plan.combine([one, other]))


def test_the_settings_of_etcd_are_known() -> None:
    """Its ports where others reach them, the members by address, and what serves nodes."""
    found = doors.rules(
        config_of(
            "coreos:\n"
            "  etcd2:\n"
            "    discovery: http://10.0.2.100:8087/token\n"
            "    listen_client_urls: http://10.1.0.1:4001,http://127.0.0.1:9999\n"
            "    listen_peer_urls: https://[fd00::1]:7001\n"
            "    listen_metrics_urls: http://0.0.0.0:2381\n"
            "    initial_cluster: a=http://10.1.0.1:2380,b=http://10.2.0.1:2390,c=http://c.example:2380,d=https://[fd00::4]:2380\n"
            "  fleet: {etcd_servers: 'http://10.9.0.9:2479,http://localhost:2379', api_listen: 'https://10.1.0.1:4003'}\n"
            "  units:\n"
            "    - name: fleet.socket\n"
            "      drop_ins:\n"
            '        - {name: tcp.conf, content: "[Socket]\\nListenStream=49153\\nListenStream=/run/x\\nListenStream=0.0.0.0:49154\\n"}\n'
        )
    )
    assert found.doors == (2378, 2379, 2380, 2381, 2390, 4001, 4003, 7001, 49153, 49154)
    assert found.machines == ("10.1.0.1", "10.2.0.1", "fd00::4")
    assert found.endpoints == (Endpoint("10.0.2.100", 8087), Endpoint("10.9.0.9", 2479))
    assert ruleset.text(found)


def test_a_table_of_ones_own_stays() -> None:
    """write_files keeps it; the settings of etcd change nothing in it; the key beside it is an error."""
    own = f"write_files: [{{path: {FIREWALL}, content: mine}}]\ncoreos: {{etcd2: {{listen_peer_urls: 'http://10.1.0.1:7001'}}}}\n"
    assert table_of(own) == "mine"
    with pytest.raises(PlanError, match="already claimed"):
        table_of(own + "firewall: strict\n")


def test_the_packaged_template_keeps_containers_from_this_computers_services() -> None:
    table = table_of(render.render(render.default_template(), variables()).removeprefix("#cloud-config\n"))
    assert table is not None
    assert "10.77.0.1/32" in table
    assert "ip daddr 10.0.2.100 tcp dport 8087" in table


def variables() -> dict[str, object]:
    node = {
        "name": "node-1",
        "index": 1,
        "private_ipv4": "10.77.0.11",
        "public_ipv4": "10.77.0.11",
        "prefix_length": 24,
        "cluster_mac": "52:54:00:43:00:01",
    }
    return {
        "node": node,
        "ssh_authorized_keys": [],
        "discovery": "http://10.0.2.100:8087/t",
        "etcd": {"heartbeat_ms": 100, "election_ms": 1000},
        "fleet": {"agent_ttl": "30s", "metadata": {}},
        "services": {
            "address": "10.77.0.1",
            "domain": "cluster.internal",
            "metadata": "169.254.169.254",
            "registry": "r:5000",
        },
    }


scalars = st.one_of(
    st.text(max_size=12), st.integers(-9, 99999), st.ip_addresses(), st.sampled_from(["80/udp", "$private_ipv4/24"])
)


@given(st.dictionaries(st.sampled_from([*doors.KEYS]), st.lists(scalars.map(str), max_size=3)), st.text(max_size=40))
def test_whatever_it_says_the_table_is_one(values: dict[str, list[str]], url: str) -> None:
    """What passes has a table; nothing of the text gets into it but networks and ports."""
    import json

    text = json.dumps({"firewall": values, "coreos": {"etcd2": {"initial_cluster": url, "discovery": url}}})
    found = parse.parse("#cloud-config\n" + text)
    if not [one for one in found.findings if one.severity == ERROR]:
        table = doors.file(found.config)
        assert set(table) <= set(ruleset.text(Rules(strict=True))) | set("0123456789abcdefghijklmnopqrstuvwxyz:./-,")
