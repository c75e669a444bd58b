"""A cloud-config, written out: one golden plan, the rules of where things go, and quoting that cannot be broken out of."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.plan import plan
from cloudconfig.plan.plan import Facts, Link, Plan, PlanError
from cloudconfig.text import parse
from cloudconfig.text.schema import CloudConfig

GOLDEN = Path(__file__).parent / "golden"


def planned(text: str, facts: Facts | None = None) -> Plan:
    found = parse.parse("#cloud-config\n" + text)
    assert not [one for one in found.findings if one.severity == "error"]
    return plan.make(found.config, facts)


def test_golden() -> None:
    """The whole plan of a config that uses everything; a screen long, so read it when it changes."""
    made = plan.make(parse.parse((GOLDEN / "everything.yaml").read_text()).config, Facts(hostname="ignored"))
    assert (
        json.dumps(json.loads(made.as_json()), indent=1, sort_keys=True) + "\n"
        == (GOLDEN / "everything.json").read_text()
    )
    assert made.as_json() == json.dumps(json.loads(made.as_json()), sort_keys=True, separators=(",", ":"))


def test_the_same_config_has_the_same_name_and_another_has_another() -> None:
    first = planned("write_files: [{path: /etc/a, content: x}, {path: /etc/b}]\n")
    turned = planned("write_files: [{path: /etc/b}, {path: /etc/a, content: x}]\n")
    other = planned("write_files: [{path: /etc/a, content: y}, {path: /etc/b}]\n")
    assert first.sha256() == turned.sha256() != other.sha256()


CERTIFICATE = "{path: /etc/flotilla/trust/etcd-client.crt, content: x}"


def test_certificates_make_etcdctl_need_no_flag() -> None:
    files = {file.path: file for file in planned(f"write_files: [{CERTIFICATE}]\n").files}
    login, units = files["/etc/environment"], files["/etc/systemd/system.conf.d/20-etcdctl.conf"]
    assert login.merge == "environment", "what others wrote there stays"
    names = dict(line.split("=") for line in login.content.decode().splitlines())
    assert names == {
        "ETCDCTL_CACERT": "/etc/flotilla/trust/etcd-clients-ca.crt",
        "ETCDCTL_CERT": "/etc/flotilla/trust/etcd-client.crt",
        "ETCDCTL_KEY": "/etc/flotilla/trust/etcd-client.key",
    }
    assert units.content.decode() == f"[Manager]\nDefaultEnvironment={' '.join(login.content.decode().split())}\n"
    assert not planned("write_files: [{path: /etc/flotilla/trust/fleet-ca.crt, content: x}]\n").files[1:]


def test_what_a_text_says_of_its_environment_goes_before() -> None:
    own = "{path: /etc/environment, content: ETCDCTL_KEY=/mine}"
    conf = "{path: /etc/systemd/system.conf.d/20-etcdctl.conf, content: mine}"
    files = {file.path: file for file in planned(f"write_files: [{CERTIFICATE}, {own}, {conf}]\n").files}
    lines = files["/etc/environment"].content.decode().splitlines()
    assert lines[-1] == "ETCDCTL_KEY=/mine", "the last one of a name counts"
    assert len(lines) == 4
    assert files["/etc/systemd/system.conf.d/20-etcdctl.conf"].content == b"mine"


@pytest.mark.parametrize(
    ("name", "runtime", "path"),
    [
        ("a.service", False, "/etc/systemd/system/a.service"),
        ("a.service", True, "/run/systemd/system/a.service"),
        ("1.network", False, "/etc/systemd/network/1.network"),
        ("1.netdev", False, "/etc/systemd/network/1.netdev"),
        ("1.link", True, "/run/systemd/network/1.link"),
        ("etcd2.service", False, "/etc/systemd/system/etcd.service"),
        ("fleetd.service", False, "/etc/systemd/system/fleet.service"),
    ],
)
def test_where_units_go(name: str, runtime: bool, path: str) -> None:
    made = planned(f"coreos: {{units: [{{name: {name}, content: x, runtime: {runtime}}}]}}\n")
    assert [file.path for file in made.files] == [path]


def test_both_names_of_etcd_are_one_unit() -> None:
    made = planned(
        "coreos: {etcd: {name: a}, units: [{name: etcd2.service, command: start}, {name: fleetd.service, command: start}]}\n"
    )
    assert [file.path for file in made.files] == ["/run/systemd/system/etcd.service.d/20-cloudinit.conf"]
    assert made.commands == (("start", "etcd.service"), ("start", "fleet.service"))


SECRET = "cana%H-ry$A"


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("fleet: {etcd_password: VALUE}", "FLEET_ETCD_PASSWORD"),
        ("fleet: {etcd-password: VALUE}", "FLEET_ETCD_PASSWORD"),
        ("fleet: {etcd_servers: 'http://root:VALUE@10.0.0.1:2379'}", "FLEET_ETCD_SERVERS"),
        ("fleet: {etcd_servers: 'http://10.0.0.1:2379,http://VALUE@10.0.0.2:2379'}", "FLEET_ETCD_SERVERS"),
        ("etcd2: {discovery: 'http://10.0.0.1/VALUE'}", "ETCD_DISCOVERY"),
        ("etcd: {discovery: 'http://10.0.0.1/VALUE'}", "ETCD_DISCOVERY"),
        ("etcd2: {discovery_proxy: 'http://10.0.0.1/VALUE'}", "ETCD_DISCOVERY_PROXY"),
        ("etcd2: {initial_cluster_token: VALUE}", "ETCD_INITIAL_CLUSTER_TOKEN"),
    ],
)
def test_systemd_shows_no_secret(section: str, name: str) -> None:
    """Whoever is on the node may ask it for a unit's Environment, so secrets are in a file, and as they are: nothing
    in them is a specifier.
    """
    files = {file.path: file for file in planned(f"coreos: {{{section.replace('VALUE', SECRET)}}}\n").files}
    service = name.partition("_")[0].lower()
    secrets = files.pop(f"/run/cloudconfig/{service}.env")
    drop_in = files[f"/run/systemd/system/{service}.service.d/20-cloudinit.conf"]
    assert (secrets.mode, secrets.owner) == (0o600, "root:root")
    assert not any(b"cana" in file.content for file in files.values())
    assert "cana%H-ry\\$A" in secrets.content.decode()
    assert secrets.content.decode().startswith(f'{name}="')
    assert drop_in.mode == 0o600
    assert drop_in.content.decode() == f"[Service]\nEnvironmentFile={secrets.path}\n"


def test_settings_that_are_no_secret_stay_where_drop_ins_can_change_them() -> None:
    made = planned("coreos: {fleet: {etcd_servers: 'http://10.0.0.1:2379', metadata: 'mail=me@example.org'}}\n")
    (file,) = (file for file in made.files if "fleet" in file.path)
    assert file.content.decode().splitlines() == [
        "[Service]",
        'Environment="FLEET_ETCD_SERVERS=http://10.0.0.1:2379"',
        'Environment="FLEET_METADATA=mail=me@example.org"',
    ]
    assert file.mode == 0o600


def test_enable_makes_the_links_of_install() -> None:
    content = "[Install]\\nWantedBy=a.target b.target\\nRequiredBy=c.target\\nAlias=%p-alias.service\\nWantedBy=\\nWantedBy=d.target\\n"
    made = planned(f'coreos: {{units: [{{name: x.service, enable: true, content: "{content}"}}]}}\n')
    folder = "/etc/systemd/system"
    assert [link.path for link in made.links] == [
        f"{folder}/c.target.requires/x.service",
        f"{folder}/d.target.wants/x.service",
        f"{folder}/x-alias.service",
    ]
    assert {link.target for link in made.links} == {f"{folder}/x.service"}


def test_enable_of_templates() -> None:
    content = "[Install]\\nWantedBy=a.target\\n"
    made = planned(f"""\
coreos:
  units:
  - {{name: "x@.service", content: "{content}DefaultInstance=one\\n", enable: true}}
  - {{name: "x@two.service", enable: true}}
""")
    target = "/etc/systemd/system/x@.service"
    assert [(link.path.rpartition("/")[2], link.target) for link in made.links] == [
        ("x@one.service", target),
        ("x@two.service", target),
    ]


def test_enable_of_a_unit_of_the_image() -> None:
    units = {"docker.service": "[Install]\nWantedBy=multi-user.target\n"}
    made = planned("coreos: {units: [{name: docker.service, enable: true}]}\n", Facts(installed=units.get))
    assert made.links == (
        Link(
            "/etc/systemd/system/multi-user.target.wants/docker.service",
            "/usr/lib/systemd/system/docker.service",
            "coreos.units[0].enable",
        ),
    )
    with pytest.raises(PlanError, match=r"coreos.units\[0\].enable: the image has no unit dokcer.service"):
        planned("coreos: {units: [{name: dokcer.service, enable: true}]}\n", Facts(installed=units.get))


def test_mask() -> None:
    made = planned("coreos: {units: [{name: a.service, mask: true}]}\n")
    assert made.links == (Link("/etc/systemd/system/a.service", "/dev/null", "coreos.units[0].mask"),)


def test_hosts_keep_loopback() -> None:
    assert plan.hosts("n1.example").decode().splitlines() == [
        "127.0.0.1 localhost",
        "127.0.1.1 n1.example n1",
        "::1 localhost ip6-localhost ip6-loopback",
    ]
    assert b"127.0.1.1" not in plan.hosts("")


def test_keys_of_core_and_of_users_are_joined() -> None:
    made = planned("ssh_authorized_keys: [a, b]\nusers: [{name: core, ssh_authorized_keys: [b, c]}, {name: d}]\n")
    assert made.keys == (("core", ("a", "b", "c")),)


def test_parts_are_joined_and_contradictions_refused() -> None:
    def config(text: str) -> CloudConfig:
        return parse.parse(text).config

    joined = plan.combine([config("hostname: a\nssh_authorized_keys: [x]\n"), config("ssh_authorized_keys: [y]\n")])
    assert (joined.hostname, joined.ssh_authorized_keys) == ("a", ("x", "y"))
    assert plan.combine([]) == CloudConfig()
    for one, two in (
        ("hostname: a", "hostname: b"),
        ("coreos: {fleet: {metadata: a=1}}", "coreos: {fleet: {metadata: a=2}}"),
    ):
        with pytest.raises(PlanError, match="two parts say different things"):
            plan.combine([config(one), config(two)])


def unquote(line: str) -> str:
    """What systemd makes of Environment="...": systemd.syntax(7) quoting, then specifiers, which stay for the reader's
    own eyes.
    """
    match = re.fullmatch(r'Environment="((?:[^"\\]|\\.)*)"', line)
    assert match, "systemd would see more than one assignment"
    plain = re.sub(r"\\(.)", r"\1", match[1])
    assert all(letter in plan.SPECIFIERS + "%" for letter in re.findall(r"%(.?)", plain)), "systemd would drop the line"
    return plain.replace("%%", "%")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("%H", "%H"),  # CoreOS's texts name etcd's member so
        ("%m-%H", "%m-%H"),
        ("100%", "100%%"),
        ("50% off", "50%% off"),
        ("http://a/%2Fx", "http://a/%%2Fx"),
        ("%%H", "%%H"),
        ("%%%", "%%%%"),
    ],
)
def test_specifiers_pass_and_other_percent_signs_are_doubled(value: str, written: str) -> None:
    assert f'"A={written}"' in plan.environment([("A", value)])


@given(st.text() | st.text('%Hz\\"$'))
def test_no_value_breaks_out_of_its_line(value: str) -> None:
    try:
        text = plan.environment([("A", value)]).encode().decode()
    except PlanError as error:
        assert any(ord(char) < 0x20 or ord(char) == 0x7F for char in value)
        assert value not in error.message or len(value) == 1
        return
    except UnicodeEncodeError:
        assert any(0xD800 <= ord(char) < 0xE000 for char in value)
        return
    line, end = text.split("\n")
    assert end == ""
    assert unquote(line) == "A=" + value.replace("%%", "%")


@settings(max_examples=10)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])) | st.text("%H\\\"$`' ~*#"), max_size=20)
)
def test_a_shell_reads_the_file_as_systemd_does(values: list[str]) -> None:
    """What systemd.exec(5) says of double quotes in such files is what shells do with them."""
    text = plan.environment_file((f"V{number}", value) for number, value in enumerate(values))
    assert text.count("\n") == len(values)
    script = text + "".join(f'printf "%s\\0" "$V{number}"\n' for number in range(len(values)))
    said = subprocess.run(["/bin/sh"], input=script.encode(), capture_output=True, check=True).stdout
    assert said.decode().split("\0") == [*values, ""]


def test_a_file_of_settings_has_one_line_for_each() -> None:
    with pytest.raises(PlanError, match="control character"):
        plan.environment_file([("A", "a\nB=c")])
