"""Texts against the image: whatever a node would refuse is an error on the host, and no user is locked out without a
warning.
"""

from __future__ import annotations

import pytest

from cloudconfig.check import validate
from cloudconfig.text import finding

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl joe"


def found(text: str) -> list[str]:
    return [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode())]


@pytest.mark.parametrize(
    "text",
    [
        f"users: [{{name: core, groups: [wheel], ssh_authorized_keys: ['{KEY}']}}]\n",
        "users: [{name: ops, groups: [ops]}]\n",
        "users: [{name: ops, primary_group: ops}, {name: dev, groups: 'ops, docker'}]\n",
        "groups: [cloud-users, {admins: [core, ops]}]\nusers: [{name: ops}]\n",
        "manage_etc_hosts: true\n",
        "manage_etc_hosts: false\n",
        'coreos: {etcd2: {name: "%H"}}\n',
        'coreos: {etcd2: {advertise-client-urls: "http://$private_ipv4:2379,http://${public_ipv4}:4001"}}\n',
        "coreos: {fleet: {public-ip: $public_ipv4, metadata: 'ip=$private_ipv4'}}\n",
        "users: [{name: a, shell: /bin/bash}, {name: b, shell: /opt/sh}]\nwrite_files: [{path: /opt/sh, permissions: '0755'}]\n",
        "coreos: {units: [{name: docker.service, drop_ins: [{name: a.conf, content: '[Service]'}], command: restart}]}\n",
        "coreos: {units: [{name: getty@tty2.service, enable: true}, {name: locksmithd.service, mask: true}]}\n",
        'coreos: {units: [{name: a.service, command: start}]}\nwrite_files: [{path: /etc/systemd/system/a.service, content: "[Service]\\nExecStart=/usr/bin/true"}]\n',
        "coreos: {units: [{name: media-data.mount, command: start}, {name: ssh.service, command: restart}]}\n",
        "timezone: Etc/UTC\nlocale: C.UTF-8\npackages: [docker.io, [openssh-server, 1.0]]\n",
        "fs_setup: [{device: /dev/vdb, filesystem: ext4}]\nmounts: [[/dev/vdb, /mnt, ext4]]\nswap: {size: 512M}\n",
        "package_update: false\npackages: []\napt: {}\nsnap:\n",
        "users: [{name: core, groups: [docker], passwd: '!'}]\n",
    ],
)
def test_what_a_node_does_is_clean(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("users: [{name: core, shell: /bin/zsh}]\n", "f:2:29: error: users[0].shell: the image has no such shell"),
        ("users: [{name: a, shell: /etc/passwd}]\n", "users[0].shell: the image has no such shell"),
        ("groups: [{a: [no-one-here]}]\n", "groups[0].a: no account of that name"),
        (
            "chpasswd: {users: [{name: joe, password: '$6$salt$hash'}]}\n",
            "chpasswd.users[0].password: no account of that name",
        ),
        ("write_files: [{path: /etc/systemd}]\n", "f:2:22: error: write_files[0].path: is a folder of the image"),
        (
            "write_files: [{path: /etc/group-x/y}, {path: /etc/issue/x}]\n",
            "write_files[1].path: goes through /etc/issue",
        ),
        ("write_files: [{path: /etc/a, owner: 'core:nope'}]\n", "write_files[0].owner: no account is called nope"),
        ("write_files: [{path: /usr/x, source: {uri: 'http://a/b', sha256: " + "0" * 64 + "}}]\n", "read-only"),
        (
            "coreos: {units: [{name: nope.service, command: start}]}\n",
            "units[0].command: the image has no unit nope.service",
        ),
        ("coreos: {units: [{name: nope.timer, enable: true}]}\n", "units[0].enable: the image has no unit nope.timer"),
        ("coreos: {units: [{name: fstrim.timer, command: start}]}\n", "the image masks this unit"),
        ("timezone: Europe/Berlin\n", "f:2:11: error: timezone: the image knows UTC only"),
        (
            "write_files: [{path: /home/core/.ssh/authorized_keys, content: ssh-rsa}]\n",
            "content: not an SSH public key",
        ),
        ("locale: de_DE.UTF-8\n", "locale: the image has no such locale"),
        (
            "packages: [vim]\n",
            "packages[0]: not on this image, whose root is read-only\n    hint: run it in a container",
        ),
        ("apt: {sources: {}, preserve_sources_list: true}\n", "apt: not on this image, which installs nothing"),
        ("snap: {commands: [snap install x]}\n", "snap: not on this image\n    hint: run it in a container"),
        ("ssh_import_id: [gh:joe]\n", "ssh_import_id: a node asks no stranger's server"),
        ("users: [{name: a, ssh_import_id: gh:joe}]\n", "users[0].ssh_import_id: a node asks no stranger's server"),
        ("fs_setup: [{device: /dev/vdb, filesystem: xfs}]\n", "fs_setup[0]: the image has no mkfs.xfs"),
        ("mounts: [[vdb, /var/data, btrfs]]\n", "mounts[0]: the image's kernel has no module for btrfs"),
        ("mounts: [[vdb, /data, ext4]]\n", "mounts[0]: the node's root is read-only there, and has no such folder"),
    ],
)
def test_what_a_node_would_refuse_is_an_error(text: str, expected: str) -> None:
    assert any(expected in one and "error: " in one for one in found(text)), found(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("coreos: {units: [{name: ssh.service, mask: true}]}\n", "units[0].mask: locks you out: sshd"),
        ("coreos: {units: [{name: ssh.socket, mask: true}]}\n", "units[0].mask: locks you out: sshd"),
        ("coreos: {units: [{name: sshd.service, command: stop}]}\n", "units[0].command: locks you out: sshd"),
        ("coreos: {units: [{name: cloudconfig.service, mask: true}]}\n", "units[0].mask: locks you out: user-data"),
        (
            "coreos: {units: [{name: systemd-networkd.service, mask: true}]}\n",
            "units[0].mask: locks you out: the network",
        ),
        (
            'coreos: {units: [{name: ssh.service, content: "[Service]\\nExecStart=/usr/sbin/sshd"}]}\n',
            "units[0].content: replaces the image's unit",
        ),
        ("users: [{name: operator}]\n", "users[0].name: the image has a group of this name"),
        ("users: [{name: core, shell: /usr/sbin/nologin}]\n", "users[0].shell: locks core out"),
        (
            "users: [{name: ops, lock_passwd: true}]\nchpasswd: {list: ['ops:secret-word']}\n",
            "users[0].lock_passwd: has no effect",
        ),
        (
            "users: [{name: core, expiredate: '2030-01-01'}]\n",
            "users[0].expiredate: from that day on core is locked out",
        ),
        (
            f"ssh_authorized_keys: ['{KEY}']\nwrite_files: [{{path: /home/core/.ssh/authorized_keys, content: '{KEY}'}}]\n",
            "write_files[0].path: the keys in this file and those that ssh_authorized_keys gives to core are put together",
        ),
        (
            f"users: [{{name: a, ssh_authorized_keys: ['{KEY}']}}]\nwrite_files: [{{path: /var/home/a/.ssh/authorized_keys}}]\n",
            "those that ssh_authorized_keys gives to a are put together",
        ),
        ("package_upgrade: true\n", "package_upgrade: not on this image, which is updated as a whole\n    hint: boot"),
        (
            "coreos: {fleet: {etcd_password: 'a%Hb'}}\n",
            "etcd_password: systemd reads a % and a letter in it as a specifier",
        ),
        ("password: hunter2\n", "password: a password that whoever reads this text knows"),
    ],
)
def test_what_is_dangerous_is_a_warning(text: str, expected: str) -> None:
    assert any(expected in one and "warning: " in one for one in found(text)), found(text)
    assert not finding.errors(validate.validate(("#cloud-config\n" + text).encode()))


def mime(*texts: str) -> bytes:
    parts = "".join(f"--b\nContent-Type: text/cloud-config\n\n#cloud-config\n{text}\n" for text in texts)
    return f"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n{parts}--b--\n".encode()


def test_an_account_in_two_parts_is_an_error() -> None:
    (error,) = finding.errors(validate.validate(mime("users: [{name: a}]", "users: [{name: b}, {name: a}]")))
    assert (error.path, error.message) == ("users[1].name", "the account stands in two parts")


def test_parts_know_of_each_other() -> None:
    one = "users: [{name: joe}]\ngroups: [staff2]"
    other = "write_files: [{path: /etc/a, owner: 'joe:staff2'}]\nchpasswd: {list: ['joe:$6$salt$hash']}"
    assert validate.validate(mime(one, other)) == ()
