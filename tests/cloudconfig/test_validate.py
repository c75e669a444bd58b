"""What is judged about values: one bad input a line, and the place that is named."""

from __future__ import annotations

import pytest

from cloudconfig.check import validate
from cloudconfig.text import finding

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl joe@home"


def found(text: str) -> list[str]:
    return [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode())]


def file(path: str, rest: str = "") -> str:
    return f"write_files:\n- path: {path}\n{rest}"


def unit(name: str, rest: str = "") -> str:
    return f"coreos:\n  units:\n  - name: {name}\n{rest}"


BAD = {
    "hostname-blank": ("hostname: bad host!\n", "f:2:11: error: hostname: not a host name"),
    "hostname-label": (f"hostname: {'a' * 64}\n", "hostname: not a host name"),
    "hostname-long": (f"hostname: {'a.' * 40}b\n", "hostname: longer than 64"),
    "hostname-localhost": ("hostname: localhost\n", "hostname: localhost is"),
    "key-private": (
        "ssh_authorized_keys:\n- '-----BEGIN OPENSSH PRIVATE KEY-----'\n",
        "f:3:3: error: ssh_authorized_keys[0]: this is a private",
    ),
    "key-garbage": ("ssh_authorized_keys: [hello]\n", "ssh_authorized_keys[0]: not an SSH public key"),
    "key-cut": (f"ssh_authorized_keys: ['{KEY[:40]}']\n", "the SSH key is damaged"),
    "key-type": (
        f"ssh_authorized_keys: ['{KEY.replace('ssh-ed25519 ', 'ssh-rsa ')}']\n",
        "its data is not of its type",
    ),
    "key-two-lines": ('ssh_authorized_keys: ["ssh-rsa A\\nssh-rsa B"]\n', "an SSH key is one line"),
    "etc-hosts": ("manage_etc_hosts: ja\n", "manage_etc_hosts: is none of the known words"),
    "user-name": ("users: [{name: Bad User}]\n", "users[0].name: not an account name"),
    "user-twice": ("users: [{name: a}, {name: a}]\n", "users[1].name: the user stands here twice"),
    "user-passwd": ("users: [{name: a, passwd: hunter2}]\n", "users[0].passwd: not a password hash"),
    "user-group": ("users: [{name: a, groups: ['a b']}]\n", "users[0].groups[0]: not a group name"),
    "user-shell": ("users: [{name: a, shell: bash}]\n", "users[0].shell: not an absolute path"),
    "user-gecos": ("users: [{name: a, gecos: 'a:b'}]\n", "users[0].gecos: has a colon"),
    "user-home": ("users: [{name: a, homedir: /usr/a}]\n", "users[0].homedir: the node's root is read-only there"),
    "user-key": ("users: [{name: a, ssh_authorized_keys: [x]}]\n", "users[0].ssh_authorized_keys[0]: not an SSH"),
    "path-relative": (file("etc/x"), "f:3:9: error: write_files[0].path: not an absolute path"),
    "path-dots": (file("/etc/../root/x"), "write_files[0].path: has .. in it"),
    "path-unclean": (file("/etc//x"), "not a clean path"),
    "path-folder": (file("/etc/x/"), "not a clean path"),
    "path-root": (file("/"), "not a clean path"),
    "path-long": (file("/etc/" + "a" * 256), "too long for a path"),
    "path-usr": (file("/usr/bin/x"), "the node's root is read-only there\n    hint: writable are /etc"),
    "path-usrlocal": (file("/usrlocal/x"), "the node's root is read-only there"),
    "path-etc-itself": (file("/etc"), "the node's root is read-only there"),
    "path-passwd": (file("/etc/passwd"), "/etc/passwd is not for write_files\n    hint: use the key users"),
    "path-state": (file("/var/lib/cloudconfig/plan.json"), "/var/lib/cloudconfig is not for write_files"),
    "path-twice": (
        file("/etc/x") + "- path: /etc/x\n",
        "f:4:9: error: write_files[1].path: /etc/x is already claimed by write_files[0].path",
    ),
    "path-through-file": (
        file("/etc/x") + "- path: /etc/x/y\n",
        "goes through /etc/x, which write_files[0].path makes a file",
    ),
    "path-of-unit": (
        file("/etc/systemd/system/a.service") + unit("a.service", "    content: '[Service]'\n"),
        "already claimed",
    ),
    "path-of-hosts": ("manage_etc_hosts: localhost\n" + file("/etc/hosts"), "/etc/hosts is already claimed"),
    "append-run": (file("/run/x", "  append: true\n"), "write_files[0].append: /run is empty at boot"),
    "append-unit": (
        unit("a.service", "    content: '[Service]'\n") + file("/etc/systemd/system/a.service", "  append: true\n"),
        "already claimed",
    ),
    "write-after-append": (file("/etc/x", "  append: true\n") + "- path: /etc/x\n", "already claimed"),
    "owner": (file("/etc/x", "  owner: 'a b'\n"), "write_files[0].owner: not an owner"),
    "etcd-urls": (
        "coreos: {etcd2: {listen_client_urls: '1.2.3.4:80'}}\n",
        "coreos.etcd2.listen_client_urls: not a list of URLs",
    ),
    # coreos/bugs 1505: an address that was not there left http://:2380.
    "etcd-no-host": ("coreos: {etcd2: {listen_peer_urls: 'http://:2380'}}\n", "listen_peer_urls: not a list of URLs"),
    "etcd-variable": ("coreos: {etcd2: {advertise_client_urls: '$private_ipv4:2379'}}\n", "not a list of URLs"),
    "fleet-variable": ("coreos: {fleet: {public_ip: '${public_ipv4}x'}}\n", "public_ip: not an IP address"),
    "owner-unknown": (
        "write_files:\n- path: /etc/x\n  owner: joe\n",
        "f:4:10: error: write_files[0].owner: no account is called joe, here or in the image",
    ),
    "etcd-discovery": ("coreos: {etcd2: {discovery: nope}}\n", "coreos.etcd2.discovery: not a URL"),
    "etcd-token": ("coreos: {etcd2: {discovery: 'http://a/'}}\n", "a discovery URL ends in a token"),
    "etcd-both": ("coreos: {etcd2: {discovery: 'http://a/b', initial_cluster: 'a=http://b'}}\n", "exclude each other"),
    "etcd-times": ("coreos: {etcd2: {heartbeat_interval: 100, election_timeout: 400}}\n", "at least five times"),
    "etcd-newline": (
        'coreos: {etcd2: {name: "a\\nExecStart=/bin/sh"}}\n',
        "coreos.etcd2.name: has a control character",
    ),
    "fleet-ip": ("coreos: {fleet: {public_ip: 1.2.3}}\n", "coreos.fleet.public_ip: not an IP address"),
    "fleet-ttl": ("coreos: {fleet: {agent_ttl: 30}}\n", "coreos.fleet.agent_ttl: not a duration"),
    "fleet-metadata": ("coreos: {fleet: {metadata: disk}}\n", "coreos.fleet.metadata: not key=value"),
    "unit-traversal": (
        unit("../../../etc/cron.d/x.service"),
        "f:4:11: error: coreos.units[0].name: a unit name has a slash",
    ),
    "unit-suffix": (unit("redis"), "coreos.units[0].name: a unit name does not end in a type"),
    "unit-network-traversal": (unit("../x.network", "    content: x\n"), "a unit name has a slash"),
    "unit-template-start": (unit("a@.service", "    command: start\n"), "a template cannot be started"),
    "unit-mask": (unit("a.service", "    mask: true\n    command: start\n"), "a masked unit cannot"),
    "unit-text": (
        unit("a.service", "    content: |\n      [Service]\n      nonsense\n"),
        "f:7:1: error: coreos.units[0].content: not the text of a unit in line 2 of it",
    ),
    "unit-enable-wild": (
        unit("a.service", "    enable: true\n    content: |\n      [Install]\n      WantedBy=../x\n"),
        "its [Install] cannot be read",
    ),
    "drop-in-name": (
        unit("a.service", "    drop_ins: [{name: x, content: '[Service]'}]\n"),
        "drop_ins[0].name: a drop-in's name ends in .conf",
    ),
    "drop-in-traversal": (
        unit("a.service", "    drop_ins: [{name: ../x.conf, content: '[Service]'}]\n"),
        "not a file name for a drop-in",
    ),
    "drop-in-text": (
        unit("a.service", "    drop_ins: [{name: x.conf, content: 'nonsense'}]\n"),
        "drop_ins[0].content: not the text of a unit",
    ),
    "drop-in-empty": (unit("a.service", "    drop_ins: [{name: x.conf}]\n"), "a drop-in needs content"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    text, expected = BAD[name]
    assert any("error: " in one and expected in one for one in found(text)), found(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            unit("a.service", '    enable: true\n    content: "[Service]\\nExecStart=/bin/true"\n'),
            "f:5:13: warning: coreos.units[0].enable: the unit has no [Install]",
        ),
        (unit("a.network", "    command: start\n    content: '[Match]'\n"), "means nothing for a network file"),
        (unit("a.service"), "coreos.units[0]: the entry says nothing to do"),
        (
            file("/etc/x", "  permissions: 420\n"),
            "permissions: 420 is read as octal 0420\n    hint: decimal 420 is 0644",
        ),
        ("users: [{name: a, passwd: '$1$salt$hash'}]\n", "an MD5 hash is quickly broken"),
    ],
)
def test_warnings(text: str, expected: str) -> None:
    assert any(expected in one for one in found(text)), found(text)
    assert not finding.errors(validate.validate(("#cloud-config\n" + text).encode()))


def test_clean() -> None:
    text = f"""\
hostname: node-1.example
ssh_authorized_keys:
- {KEY}
- 'from="10.0.0.0/8",command="echo hi" {KEY}'
users: [default, {{name: joe, passwd: '$y$j9T$abc/def$xyz', groups: 'sudo, docker'}}, {{name: locked, passwd: '!'}}]
write_files:
- {{path: /home/joe/x, owner: 'joe:joe'}}
- {{path: /etc/y, owner: '1000:1000'}}
coreos:
  units:
  - {{name: a.service, content: "[Service]\\nExecStart=/bin/true\\n"}}
  - {{name: a.service, drop_ins: [{{name: 1.conf, content: '[Service]'}}]}}
  - {{name: 'b@.service', content: "[Service]\\nExecStart=/usr/bin/true\\n[Install]\\nWantedBy=multi-user.target\\nDefaultInstance=x\\n", enable: true}}
"""
    assert found(text) == []


def test_findings_come_in_the_order_of_the_text() -> None:
    lines = [
        one.line for one in validate.validate(b"#cloud-config\nmanage_etc_hosts: x\nhostname: a b\nusers: {}\nfoo: 1\n")
    ]
    assert lines == [2, 3, 4, 5]


def test_a_value_is_never_repeated() -> None:
    """A hash or a key in a message would end in a log."""
    secret = "correct-horse-battery"
    text = f"""\
ssh_authorized_keys: [{secret}]
users: [{{name: a, passwd: {secret}, ssh_authorized_keys: [{secret}]}}]
write_files: [{{path: /etc/x, encoding: b64, content: '{secret}!'}}]
coreos: {{etcd2: {{discovery: {secret}}}, fleet: {{etcd_servers: {secret}}}}}
"""
    printed = found(text)
    assert len(printed) == 6
    assert secret not in "\n".join(printed)


def test_parts_are_named() -> None:
    mime = (
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=X\n\n--X\n\n#cloud-config\nhostname: a\n"
        b"--X\n\n#cloud-config\nhostname: b c\n--X--\n"
    )
    (error,) = validate.validate(mime)
    assert error.render("f") == "f[part 2]:2:11: error: hostname: not a host name\n    hint: " + error.hint
    (conflict,) = validate.validate(mime.replace(b"b c", b"b"))
    assert conflict.message == "two parts say different things"


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"#cloud-config\n"])
def test_nothing_to_say(data: bytes) -> None:
    assert validate.validate(data) == ()


def test_not_user_data() -> None:
    (error,) = validate.validate(b"hostname: a\n")
    assert (error.severity, error.line, error.hint[:14]) == ("error", 1, "put '#cloud-co")
