"""Settings of cloud-init that become files: what stands in them, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.node import merging
from cloudconfig.text import logins, parse
from terminal import Failure
from tests.cloudconfig.node import ShadowNode

PEM = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQQ==\n-----END CERTIFICATE-----"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----"


@pytest.fixture
def node(tmp_path: Path) -> ShadowNode:
    return ShadowNode(tmp_path)


def applied(node: ShadowNode, text: str) -> ShadowNode:
    outcome = node.apply("#cloud-config\n" + text)
    assert (outcome.result, outcome.errors) == ("done", ())
    return node


def read(node: ShadowNode, path: str) -> str:
    return (node.path / path).read_text()


def yaml_block(text: str, indent: int) -> str:
    return "|\n" + "".join(" " * indent + line + "\n" for line in text.splitlines())


def test_time_and_language(node: ShadowNode) -> None:
    applied(node, "timezone: Etc/UTC\nlocale: C.UTF-8\nntp: {servers: [10.0.0.1], pools: [pool.example.org]}\n")
    assert (node.path / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Etc/UTC")
    assert read(node, "etc/locale.conf") == "LANG=C.UTF-8\n"
    assert read(node, "etc/systemd/timesyncd.conf.d/50-cloudconfig.conf") == "[Time]\nNTP=10.0.0.1 pool.example.org\n"
    applied(node, "ntp: {enabled: false}\n")
    assert not (node.path / "etc/localtime").is_symlink()
    assert (node.path / "etc/systemd/system/systemd-timesyncd.service").readlink() == Path("/dev/null")


def test_certificates_come_after_those_of_the_image(node: ShadowNode) -> None:
    bundle = node.path / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("of the image\n")
    for _ in range(2):
        applied(node, f"ca-certs:\n  trusted:\n  - {yaml_block(PEM, 4)}")
        assert bundle.read_text() == f"of the image\n{PEM}\n"
    applied(node, f"ca_certs:\n  remove-defaults: true\n  trusted:\n  - {yaml_block(PEM, 4)}")
    assert bundle.read_text() == f"{PEM}\n"
    applied(node, "")
    assert bundle.read_text() == "of the image\n"


def test_host_keys(node: ShadowNode) -> None:
    text = f"ssh_keys:\n  rsa_private: {yaml_block(PRIVATE, 4)}  rsa_public: ssh-rsa AAAA\n  rsa_certificate: ssh-rsa-cert-v01@openssh.com AAAA\n"
    applied(node, text)
    assert read(node, "etc/ssh/ssh_host_rsa_key") == PRIVATE + "\n"
    assert (node.path / "etc/ssh/ssh_host_rsa_key").stat().st_mode & 0o777 == 0o600
    assert read(node, "etc/ssh/ssh_host_rsa_key.pub") == "ssh-rsa AAAA\n"
    assert read(node, "etc/ssh/sshd_config.d/05-cloudconfig-keys.conf") == (
        "HostKey /etc/ssh/ssh_host_rsa_key\nHostCertificate /etc/ssh/ssh_host_rsa_key-cert.pub\n"
    )


def test_passwords_over_ssh(node: ShadowNode) -> None:
    applied(node, "ssh_pwauth: true\n")
    assert "PasswordAuthentication yes" in read(node, "etc/ssh/sshd_config.d/05-cloudconfig-passwords.conf")
    applied(node, "ssh_pwauth: unchanged\n")
    assert not (node.path / "etc/ssh/sshd_config.d/05-cloudconfig-passwords.conf").exists()


def test_registries_of_docker(node: ShadowNode) -> None:
    daemon = node.path / "etc/docker/daemon.json"
    daemon.parent.mkdir()
    daemon.write_text('{"live-restore": true, "registry-mirrors": ["https://old"]}')
    text = "docker: {registry_mirrors: ['https://mirror.example.org'], insecure_registries: ['10.0.0.1:5000'], credentials: [{registry: 'https://registry.example.org/v1/', username: me, password: 'p:w'}]}\n"
    applied(node, text)
    assert json.loads(daemon.read_text()) == {
        "live-restore": True,
        "registry-mirrors": ["https://mirror.example.org"],
        "insecure-registries": ["10.0.0.1:5000"],
    }
    for home in ("root", "home/core"):
        path = node.path / home / ".docker/config.json"
        auth = json.loads(path.read_text())["auths"]["https://registry.example.org/v1/"]["auth"]
        assert (base64.b64decode(auth), path.stat().st_mode & 0o777) == (b"me:p:w", 0o600)
    assert applied(node, text).apply("#cloud-config\n" + text).changed == ()
    applied(node, "")
    assert json.loads(daemon.read_text()) == {"live-restore": True, "registry-mirrors": ["https://old"]}
    assert not (node.path / "root/.docker/config.json").exists()


def test_a_daemon_json_that_is_none_is_not_lost(node: ShadowNode) -> None:
    (node.path / "etc/docker").mkdir()
    (node.path / "etc/docker/daemon.json").write_text("{")
    outcome = node.apply("#cloud-config\ndocker: {registry_mirrors: ['https://m']}\n")
    assert (outcome.result, outcome.errors[0].path) == ("degraded", "/etc/docker/daemon.json")
    assert read(node, "etc/docker/daemon.json") == "{"


@pytest.mark.parametrize(
    ("text", "hostname", "line"),
    [
        ("hostname: a\n", "a", "127.0.1.1 a"),
        ("fqdn: b.example.org\n", "b", "127.0.1.1 b.example.org b"),
        ("hostname: a\nfqdn: b.example.org\n", "a", "127.0.1.1 b.example.org a"),
        (
            "hostname: a\nfqdn: b.example.org\nprefer_fqdn_over_hostname: true\n",
            "b.example.org",
            "127.0.1.1 b.example.org b",
        ),
        ("hostname: a.example.org\n", "a.example.org", "127.0.1.1 a.example.org a"),
    ],
)
@pytest.mark.parametrize("word", ["true", "localhost", "template"])
def test_names(node: ShadowNode, text: str, hostname: str, line: str, word: str) -> None:
    applied(node, f"{text}manage_etc_hosts: {word}\n")
    assert read(node, "etc/hostname") == f"{hostname}\n"
    assert line in read(node, "etc/hosts").splitlines()


def test_hosts_that_are_not_managed(node: ShadowNode) -> None:
    applied(node, "hostname: a\nmanage_etc_hosts: false\n")
    assert not (node.path / "etc/hosts").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timezone: ../../etc/passwd\n", "timezone: not the name of a time zone"),
        ('locale: "C\\nPATH=x"\n', "locale: not the name of a locale"),
        ("ntp: {ntp_client: chrony}\n", "ntp.ntp_client: this image has systemd-timesyncd only"),
        ("ntp: {servers: ['a b']}\n", "ntp.servers[0]: not a name or address"),
        ("ntp: {allow: [10.0.0.0/8]}\n", "ntp.allow: systemd-timesyncd asks servers, it is none"),
        ("ca_certs: {trusted: [abc]}\n", "ca_certs.trusted[0]: not certificates in PEM"),
        (f"ca_certs:\n  trusted:\n  - {yaml_block(PEM[:-3], 4)}", "ca_certs.trusted[0]: not certificates in PEM"),
        ("ssh_keys: {ed25519_public: x}\n", "ssh_keys.ed25519_private: the private key is missing"),
        ("ssh_keys: {ed25519_private: x}\n", "ssh_keys.ed25519_private: not a private key in PEM"),
        ("docker: {registry_mirrors: [mirror]}\n", "docker.registry_mirrors[0]: not a registry"),
        ("docker: {credentials: [{registry: r, username: a}]}\n", "docker.credentials[0]: has no password"),
        ("docker: {credentials: [{registry: r, username: 'a:b', password: c}]}\n", "username: has a colon in it"),
        ("users: [{name: a, sudo: 'ALL=(ALL) NOPASSWD:'}]\n", "users[0].sudo: not a rule of sudoers"),
        ("users: [{name: a, sudo: ['ALL=(ALL) ALL', ALL]}]\n", "users[0].sudo[1]: not a rule of sudoers"),
        ('users: [{name: a, sudo: "ALL=(ALL) ALL\\nroot ALL=(ALL) ALL"}]\n', "users[0].sudo: not a rule of sudoers"),
        ("users: [{name: a, expiredate: tomorrow}]\n", "users[0].expiredate: not a day"),
        ("users: [{name: a, uid: 0}]\n", "users[0].uid: not a number for an account"),
        ("groups: [A B]\n", "groups[0]: not a group name"),
        ("chpasswd: {list: 'core'}\n", "chpasswd.list: a line is name:password"),
        ("chpasswd: {list: 'core:RANDOM'}\n", "chpasswd.list: a random password would have to be shown"),
        ("chpasswd: {users: [{name: core, password: x}]}\n", "chpasswd.users[0].password: not a password hash"),
        (
            'chpasswd: {users: [{name: core, type: text, password: "x\\nroot:y"}]}\n',
            "password: has a control character",
        ),
        ("fqdn: a b\n", "fqdn: not a host name"),
    ],
)
def test_bad(text: str, expected: str) -> None:
    found = [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode())]
    assert any("error" in one and expected in one for one in found), found


@pytest.mark.parametrize(
    "rule",
    [
        "ALL=(ALL) NOPASSWD:ALL",
        "ALL=(ALL) ALL",
        "ALL=(ALL:ALL) NOPASSWD: ALL",
        "ALL = NOPASSWD: /usr/bin/id, /bin/ls -l",
        "ALL=(root) !/bin/su",
        "host1=SETENV:ALL",
        "ALL=(ALL) NOPASSWD: sudoedit /etc/a",
    ],
)
def test_rules_of_sudo(rule: str) -> None:
    assert logins.rule_problem(rule) == ""


@given(st.text("ALL=()/ab,:!\\ \n#%NOPASSWD", max_size=60))
def test_a_rule_is_one_line_of_one_user(rule: str) -> None:
    if not logins.rule_problem(rule):
        assert "\n" not in rule
        assert "#" not in rule
        assert not rule.endswith("\\")


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.text(max_size=3), inner)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=4),
)
def test_merging_json_keeps_what_is_not_said(old: dict[str, object], new: dict[str, object]) -> None:
    merged = json.loads(merging.merge("json", json.dumps(old).encode(), json.dumps(new).encode()))
    assert merged == {**old, **new}


def test_merging_the_environment() -> None:
    old = b"# c\nexport A=1\nB=2\nA=3\n\n"
    assert merging.merge("environment", old, b"A=9\nC=7\n") == b"# c\nA=9\nB=2\n\nC=7\n"
    with pytest.raises(Failure):
        merging.merge("json", b"[]", b"{}")


def test_growpart_is_done_anyway() -> None:
    assert parse.parse("#cloud-config\ngrowpart: {mode: auto, devices: [/]}\n").findings == ()
    (finding,) = parse.parse("#cloud-config\ngrowpart: {mode: 'off'}\n").findings
    assert finding.message == "the state partition takes all of its disk in any case"
