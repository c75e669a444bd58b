"""A node under a folder: what an apply leaves there, and what it leaves alone when something is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import pytest

from cloudconfig.node import apply as apply_module
from cloudconfig.node import datasource, status
from cloudconfig.node.apply import authorized_keys
from cloudconfig.node.datasource import Seed
from cloudconfig.node.request import WARNINGS_MAX
from cloudconfig.node.status import Status
from cloudconfig.text import addresses
from terminal import Failure
from tests.cloudconfig.node import SeedFields

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl joe"
OWN = (os.geteuid(), os.getegid())
KEYS = f"#cloud-config\nhostname: n1\nssh_authorized_keys: ['{KEY}']\n"


class Recorder:
    """A machine that records its commands; ``refuse`` is a word whose commands fail."""

    def __init__(self, refuse: str = "") -> None:
        self.ran: list[str] = []
        self.secrets: list[str] = []
        self.hostname = ""
        self.refuse = refuse
        self.cards: dict[str, str] = {}

    def addresses(self, names: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
        return addresses.wait(names, known, lambda: self.cards, wait_s=0)

    def set_hostname(self, name: str) -> None:
        self.hostname = name

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        if self.refuse and self.refuse in argv:
            raise Failure(f"{argv[0]}: exit 1: refused")
        self.ran.append(" ".join(argv))
        self.secrets.append(secret)


class Node:
    """A root folder with accounts, and applies into it.

    root and core are whoever runs the test, so that no test needs root.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = Recorder()
        uid, gid = OWN
        self.write("etc/passwd", f"root:x:{uid}:{gid}::/root:/bin/sh\ncore:x:{uid}:{gid}::/home/core:/bin/bash\n")
        self.write("etc/group", f"root:x:{gid}:\ndocker:x:{gid}:core\n")
        self.write("etc/shadow", "core:*:1::::::\n")
        (path / "var/home/core").mkdir(parents=True)
        (path / "home").symlink_to("var/home")
        (path / "run").mkdir()
        (path / "bin").mkdir()
        for shell in ("sh", "bash"):
            (path / "bin" / shell).symlink_to("/usr/bin/dash")

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def reboot(self) -> None:
        """/run forgets, and so do we what was run."""
        for folder, folders, files in os.walk(self.path / "run", topdown=False):
            for name in files:
                (Path(folder) / name).unlink()
            for name in folders:
                (Path(folder) / name).rmdir()
        self.machine = Recorder()

    def apply(self, text: str | bytes, **seed: Unpack[SeedFields]) -> Status:
        data = text if isinstance(text, bytes) else text.encode()
        found = Seed("test", data, **seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasource, "fetch", lambda _name, *, online: found)
            outcome = apply_module.apply("test", str(self.path), self.machine)
        assert status.read(self.path / "run/cloudconfig/status.json") == outcome
        return outcome

    def snapshot(self) -> dict[str, str]:
        """Files and links outside /run."""
        return {
            str(path.relative_to(self.path)): str(path.readlink()) if path.is_symlink() else path.read_text()
            for path in sorted(self.path.rglob("*"))
            if (path.is_symlink() or path.is_file()) and not path.is_relative_to(self.path / "run")
        }


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


WHOLE = f"""\
#cloud-config
hostname: n1
manage_etc_hosts: localhost
ssh_authorized_keys: ['{KEY}']
write_files:
- {{path: /etc/app/config, content: "x\\n", permissions: 0600}}
- {{path: /home/core/hello, content: hi, owner: core}}
coreos:
  etcd2: {{name: n1, discovery: 'http://10.0.2.100/abc'}}
  fleet: {{metadata: disk=ssd}}
  units:
  - {{name: 10-cluster.network, content: "[Match]\\n"}}
  - {{name: a.service, command: start, enable: true, content: "[Install]\\nWantedBy=multi-user.target\\n"}}
  - {{name: etcd2.service, command: start}}
"""


def test_the_whole(node: Node) -> None:
    outcome = node.apply(WHOLE, instance_id="i-1")
    assert outcome.errors == ()
    assert (outcome.result, outcome.datasource, outcome.instance_id, len(outcome.plan)) == ("done", "test", "i-1", 64)
    assert node.machine.hostname == "n1"
    assert node.read("etc/hostname") == "n1\n"
    assert "127.0.1.1 n1" in node.read("etc/hosts")
    assert KEY in node.read("var/home/core/.ssh/authorized_keys")
    assert (node.path / "var/home/core/.ssh").stat().st_mode & 0o777 == 0o700
    assert (node.path / "var/home/core/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert (node.path / "etc/app/config").stat().st_mode & 0o777 == 0o600
    assert 'Environment="ETCD_NAME=n1"' in node.read("run/systemd/system/etcd.service.d/20-cloudinit.conf")
    assert (node.path / "run/cloudconfig/etcd.env").stat().st_mode & 0o777 == 0o600
    assert (node.path / "etc/systemd/system/multi-user.target.wants/a.service").readlink() == Path(
        "/etc/systemd/system/a.service"
    )
    assert node.machine.ran == [
        "systemctl daemon-reload",
        "systemctl --no-block start a.service",
        "systemctl --no-block start etcd.service",
    ]
    assert (node.path / "run/cloudconfig/status.json").stat().st_mode & 0o777 == 0o644
    assert (node.path / "var/lib/cloudconfig/plan.json").stat().st_mode & 0o777 == 0o600
    assert "discovery" not in json.dumps(outcome)
    assert len(outcome.changed) == 12


def test_what_the_network_has_is_left_to_a_unit_that_is_queued(node: Node) -> None:
    outcome = apply_module.apply("ec2", str(node.path), node.machine, online=False)
    assert (outcome.result, outcome.good) == ("deferred", True)
    assert outcome.lines() == ["ec2: as soon as there is a network"]
    assert node.machine.ran == ["systemctl --no-block start cloudconfig-online.service"]
    assert status.read(node.path / "run/cloudconfig/status.json") is None  # it has not ended


def test_again_changes_nothing(node: Node) -> None:
    node.apply(WHOLE)
    before = {path: path.lstat().st_mtime_ns for path in node.path.rglob("*") if path.name != "status.json"}
    node.machine = Recorder()
    outcome = node.apply(WHOLE)
    assert (outcome.result, outcome.changed) == ("done", ())
    assert node.machine.ran == ["systemctl --no-block start a.service", "systemctl --no-block start etcd.service"]
    after = {path: path.lstat().st_mtime_ns for path in node.path.rglob("*") if path.name != "status.json"}
    assert {path for path in after if after[path] != before.get(path)} <= {node.path / "run/cloudconfig"}


def test_after_a_reboot_only_what_run_forgot_is_written(node: Node) -> None:
    node.apply(WHOLE)
    node.reboot()
    outcome = node.apply(WHOLE)
    assert outcome.changed == (
        "/run/cloudconfig/etcd.env",
        "/run/systemd/system/etcd.service.d/20-cloudinit.conf",
        "/run/systemd/system/fleet.service.d/20-cloudinit.conf",
    )
    assert node.machine.ran[0] == "systemctl daemon-reload"


@pytest.mark.parametrize(
    ("ruin", "error"),
    [
        ("coreos: [\n", "not valid YAML"),
        ("write_files: [{path: /usr/x}]\n", "read-only"),
        ("hostname: twice\n", "stands here twice"),
        ("write_files: [{path: /etc/a}, {path: /etc/a}]\n", "already claimed"),
        ("write_files: [{path: /etc/a}, {path: /etc/b, owner: no-one-here}]\n", "no account is called no-one-here"),
        ("write_files: [{path: /etc/a}, {path: /etc/passwd/x}]\n", "not for write_files"),
        ("write_files: [{path: /etc/a}, {path: /etc/folder}]\n", "is a folder"),
        ("write_files: [{path: /etc/a}, {path: /etc/out/x}]\n", "leads out of the root"),
        ("write_files: [{path: /etc/a}]\nusers: [{name: joe, shell: /bin/zsh}]\n", "there is no such shell"),
        (
            "write_files: [{path: /etc/a}]\ncoreos: {units: [{name: no.service, enable: true}]}\n",
            "the image has no unit",
        ),
    ],
)
def test_keys_and_name_are_applied_whatever_else_is_broken(node: Node, ruin: str, error: str) -> None:
    """And of the rest nothing is."""
    (node.path / "etc/folder").mkdir()
    (node.path / "etc/out").symlink_to("../../..")
    before = node.snapshot()
    outcome = node.apply(KEYS + ruin)
    assert outcome.result == "degraded"
    assert error in outcome.errors[0].message
    assert node.machine.hostname == "n1"
    changed = {name for name, text in node.snapshot().items() if before.get(name) != text}
    assert changed == {"etc/hostname", "var/home/core/.ssh/authorized_keys"}
    assert node.machine.ran == []


def test_a_missing_header_does_not_lock_out(node: Node) -> None:
    outcome = node.apply(KEYS.replace("#cloud-config\n", ""))
    assert outcome.result == "degraded"
    assert KEY in node.read("var/home/core/.ssh/authorized_keys")


def test_keys_of_meta_data_are_applied_with_a_broken_config(node: Node) -> None:
    outcome = node.apply("#cloud-config\n[", keys=(KEY,), hostname="from-meta-data")
    assert (outcome.result, node.machine.hostname) == ("degraded", "from-meta-data")
    assert KEY in node.read("var/home/core/.ssh/authorized_keys")


def test_broken_meta_data_is_reported_and_left_out(node: Node) -> None:
    outcome = node.apply("", keys=("garbage",), hostname="two words")
    assert [trouble.path for trouble in outcome.errors] == ["meta-data local-hostname", "meta-data public-keys"]
    assert (outcome.result, node.machine.hostname) == ("degraded", "")


def test_broken_user_data_does_not_take_old_keys_away(node: Node) -> None:
    node.apply(KEYS)
    assert node.apply(b"\xff\xfe\x00").result == "failed"
    assert KEY in node.read("var/home/core/.ssh/authorized_keys")
    assert node.apply("#cloud-config\n").result == "done"
    assert not node.read("var/home/core/.ssh/authorized_keys").strip()


def test_what_a_former_plan_wrote_is_taken_away(node: Node) -> None:
    """Unless it was changed meanwhile; and what was there before comes back."""
    node.write("etc/issue", "of the image\n")
    (node.path / "etc/issue").chmod(0o640)
    (node.path / "etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    before = node.snapshot()
    node.apply("""\
#cloud-config
write_files:
- {path: /etc/issue, content: ours}
- {path: /etc/localtime, content: ours}
- {path: /etc/gone, content: ours}
- {path: /etc/edited, content: ours}
coreos: {units: [{name: m.service, mask: true}]}
""")
    node.write("etc/edited", "by hand")
    outcome = node.apply("#cloud-config\n")
    assert outcome.changed == ("/etc/gone", "/etc/issue", "/etc/localtime", "/etc/systemd/system/m.service")
    assert node.machine.ran == ["systemctl daemon-reload"] * 2
    after = node.snapshot()
    assert after.pop("etc/edited") == "by hand"
    after.pop("var/lib/cloudconfig/plan.json")
    assert after == before
    assert (node.path / "etc/issue").stat().st_mode & 0o777 == 0o640


def test_append(node: Node) -> None:
    """After what the image has, once, however often it is applied; gone when it leaves user-data."""
    node.write("etc/hosts.allow", "of the image\n")
    (node.path / "etc/hosts.allow").chmod(0o640)
    text = """\
#cloud-config
write_files:
- {path: /etc/hosts.allow, append: true, content: "one\\n"}
- {path: /etc/hosts.allow, append: true, content: "two\\n"}
- {path: /etc/new, content: "a"}
- {path: /etc/new, append: true, content: "b", permissions: 600}
- {path: /etc/other, append: true, content: "x"}
"""
    for _ in range(2):
        assert node.apply(text).result == "done"
        assert node.read("etc/hosts.allow") == "of the image\none\ntwo\n"
        assert (node.path / "etc/hosts.allow").stat().st_mode & 0o777 == 0o640, "no other mode was requested"
        assert (node.read("etc/new"), (node.path / "etc/new").stat().st_mode & 0o777) == ("ab", 0o600)
        assert (node.read("etc/other"), (node.path / "etc/other").stat().st_mode & 0o777) == ("x", 0o644)
    node.apply(text.replace("two", "three"))
    assert node.read("etc/hosts.allow") == "of the image\none\nthree\n"
    node.apply("#cloud-config\n")
    assert node.read("etc/hosts.allow") == "of the image\n"
    assert not (node.path / "etc/other").exists()


def test_nothing_is_appended_to_what_is_no_file(node: Node) -> None:
    (node.path / "etc/link").symlink_to("hosts")
    outcome = node.apply("#cloud-config\nwrite_files: [{path: /etc/link, append: true, content: x}]\n")
    assert [error.path for error in outcome.errors] == ["/etc/link"]
    assert (node.path / "etc/link").is_symlink()


def test_a_damaged_record_takes_nothing_away(node: Node) -> None:
    node.apply(WHOLE)
    for damage in ("{", "[]", '{"v": 2}', '{"v": 1, "entries": 3}'):
        node.write("var/lib/cloudconfig/plan.json", damage)
        assert node.apply("#cloud-config\n").result == "done"
        assert node.read("etc/app/config") == "x\n"


def test_a_crash_at_any_rename_is_repaired_by_the_next_apply(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cut after k renames, for every k: afterwards the tree is as if nothing had happened."""
    whole = WHOLE.replace(
        "coreos:\n",
        """\
- {path: /etc/issue, content: ours}
- {path: /etc/motd, content: ours, append: true}
coreos:
""",
    )
    twin = Node(node.path / "twin")
    for name in ("etc/issue", "etc/motd"):
        twin.write(name, "of the image\n")
    twin.apply(whole)
    twin.apply("#cloud-config\n")
    real = os.rename
    for count in range(40):
        left = [count]

        def rename(
            source: str | Path,
            target: str | Path,
            *,
            src_dir_fd: int | None = None,
            dst_dir_fd: int | None = None,
            left: list[int] = left,
        ) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        node_k = Node(node.path / f"k{count}")
        for name in ("etc/issue", "etc/motd"):
            node_k.write(name, "of the image\n")
        crashed = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            try:
                node_k.apply(whole)
            except KeyboardInterrupt:
                crashed = True
        node_k.reboot()
        assert node_k.apply(whole).result == "done"
        assert node_k.read("etc/motd") == "of the image\nours"
        assert node_k.apply("#cloud-config\n").result == "done"
        assert node_k.snapshot() == twin.snapshot()
        if not crashed:
            return
    pytest.fail("never got through")


USERS = f"""\
#cloud-config
users:
- {{name: joe, passwd: "$y$j9T$salt$hash", groups: [docker], gecos: Joe, ssh_authorized_keys: ['{KEY}']}}
- {{name: core, groups: [docker, root], shell: /bin/sh, passwd: "*"}}
"""


def test_users(node: Node) -> None:
    outcome = node.apply(USERS)
    assert node.machine.ran == [
        "useradd --create-home --comment Joe --groups docker --shell /bin/bash joe",
        "chpasswd -e",
        "usermod -a -G root -s /bin/sh core",
    ]
    assert node.machine.secrets[1] == "joe:$y$j9T$salt$hash\n"
    # This useradd made no account, so there is no home for the keys: reported, and the rest is done.
    assert [trouble.message for trouble in outcome.errors] == ["no account is called joe"]
    assert outcome.result == "degraded"


def test_keys_of_a_user_who_left_the_plan_are_taken_away(node: Node) -> None:
    uid, gid = OWN
    node.write("etc/passwd", node.read("etc/passwd") + f"joe:x:{uid}:{gid}::/home/joe:/bin/sh\n")
    assert node.apply(USERS).errors == ()
    node.write("var/home/joe/.ssh/authorized_keys", "by hand\n" + node.read("var/home/joe/.ssh/authorized_keys"))
    node.apply("#cloud-config\n")
    assert node.read("var/home/joe/.ssh/authorized_keys") == "by hand\n"


def test_a_failing_command_is_reported_and_the_others_are_queued(node: Node) -> None:
    node.machine = Recorder(refuse="a.service")
    outcome = node.apply(WHOLE)
    assert outcome.result == "degraded"
    assert [trouble.message for trouble in outcome.errors] == ["systemctl: exit 1: refused"]
    assert node.machine.ran[-1] == "systemctl --no-block start etcd.service"


def test_a_failing_useradd_keeps_files_back(node: Node) -> None:
    node.machine = Recorder(refuse="useradd")
    outcome = node.apply(USERS + "write_files: [{path: /etc/a}]\n")
    assert [(trouble.path, outcome.result) for trouble in outcome.errors] == [("users[0]", "degraded")]
    assert not (node.path / "etc/a").exists()


def test_a_script_runs_once_for_an_instance(node: Node) -> None:
    script = "#!/bin/sh\necho hi\n"
    run = "systemd-run --no-block --collect --unit=cloudconfig-script /var/lib/cloudconfig/scripts/user-data-1"
    node.apply(script, instance_id="i-1")
    assert node.machine.ran == [run]
    assert (node.path / "var/lib/cloudconfig/scripts/user-data-1").stat().st_mode & 0o777 == 0o700
    node.apply(script, instance_id="i-1")
    assert node.machine.ran == [run]
    node.apply(script, instance_id="i-2")
    assert node.machine.ran == [run, run]


def test_networkd_is_reloaded_if_it_runs(node: Node) -> None:
    text = "#cloud-config\ncoreos: {units: [{name: 1.network, content: '[Match]'}]}\n"
    node.write("run/systemd/netif/state", "")
    node.apply(text)
    assert node.machine.ran == ["networkctl reload"]


def test_the_firewall_is_loaded_again_when_it_changed_and_runs(node: Node) -> None:
    """At boot it comes later, and reads what is there; and what user-data no longer says is taken back."""
    restart = "systemctl --no-block restart firewall.service"
    node.write("etc/flotilla/firewall.nft", "the image's")
    node.apply("#cloud-config\nfirewall: strict\n")
    assert node.machine.ran == []
    assert "allowed_tcp" in (node.path / "etc/flotilla/firewall.nft").read_text()
    (node.path / "run/firewall").mkdir()
    node.apply("#cloud-config\nfirewall: strict\n")
    assert node.machine.ran == []
    node.apply("#cloud-config\nfirewall: {mode: strict, allow: 80}\n")
    assert node.machine.ran == [restart]
    node.apply("#cloud-config\nhostname: a\n")
    assert node.machine.ran == [restart, restart]
    assert (node.path / "etc/flotilla/firewall.nft").read_text() == "the image's"


def test_a_user_cannot_have_another_file_written(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/.ssh is a user's: a link there is not followed, whoever made it, if it is not root's."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    if OWN[0] == 0:
        os.chown(node.path / "var/home/core", 4712, 4712)
    (node.path / "etc/target").mkdir()
    (node.path / "var/home/core/.ssh").symlink_to("../../../etc/target")
    if OWN[0] == 0:
        os.chown(node.path / "var/home/core/.ssh", 4712, 4712, follow_symlinks=False)
    outcome = node.apply(KEYS)
    assert "a symbolic link on the way is not root's" in [trouble.message for trouble in outcome.errors]
    assert list((node.path / "etc/target").iterdir()) == []


def test_no_datasource(node: Node) -> None:
    outcome = apply_module.apply("none", str(node.path), node.machine)
    assert (outcome.result, outcome.good, outcome.changed) == ("none", True, ())
    assert outcome.lines() == ["none: no datasource is named on the kernel command line"]


def test_several_datasources_of_which_none_is_there(node: Node) -> None:
    source = f"file:{node.path}/one,file:{node.path}/two"
    outcome = apply_module.apply(source, str(node.path), node.machine)
    assert (outcome.result, outcome.good, outcome.errors) == ("none", True, ())
    assert outcome.lines() == [f"none: no user-data is there; tried file:{node.path}/one, file:{node.path}/two"]
    assert status.read(node.path / "run/cloudconfig/status.json") == outcome


def test_a_missing_datasource_is_a_failure(node: Node) -> None:
    outcome = apply_module.apply("file:/no/such/file", str(node.path), node.machine)
    assert (outcome.result, outcome.good) == ("failed", False)
    assert status.read(node.path / "run/cloudconfig/status.json") == outcome


def test_what_is_ignored_is_said(node: Node) -> None:
    outcome = node.apply("#cloud-config\nrsyslog: {a: 1}\n" + "".join(f"key{n}: 1\n" for n in range(99)))
    assert (outcome.result, outcome.good, len(outcome.warnings)) == ("done", True, WARNINGS_MAX)
    assert outcome.lines()[1] == "warning: rsyslog: not supported on this image yet, ignored (line 2)"


def test_nothing_saved_is_a_failure(node: Node) -> None:
    outcome = node.apply("\x00")
    assert (outcome.result, outcome.changed) == ("failed", ())
    assert outcome.lines()[-1] == status.REPAIR


def test_the_owner_that_is_not_there_is_named(node: Node) -> None:
    (error,) = node.apply("#cloud-config\nwrite_files: [{path: /etc/x, owner: no-one-here}]\n").errors
    assert error == ("write_files[0].owner", "no account is called no-one-here")


def test_values_never_reach_the_status(node: Node) -> None:
    secret = "correct-horse-battery"
    text = f"""\
#cloud-config
ssh_authorized_keys: [{secret}]
users: [{{name: a, passwd: {secret}}}]
coreos: {{units: [{{name: a.service, content: {secret}}}], fleet: {{etcd_password: "{secret}\\u0001"}}}}
"""
    outcome = node.apply(text)
    assert len(outcome.errors) == 4
    assert secret not in outcome.as_json() + "\n".join(outcome.lines())


def test_own_lines_of_authorized_keys_stay() -> None:
    first = authorized_keys("mine\n", ("a", "b"))
    assert first.splitlines()[0] == "mine"
    assert first.splitlines()[2:4] == ["a", "b"]
    assert authorized_keys(first + "later\n", ("c",)).splitlines()[:2] == ["mine", "later"]
    assert authorized_keys(first, ()) == "mine\n"
    assert authorized_keys("", ()) == ""
