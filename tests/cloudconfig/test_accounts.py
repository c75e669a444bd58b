"""Accounts, groups and passwords by the real programs, on the files of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudconfig.node import accounts, crypt
from tests.cloudconfig.node import KEY, ShadowNode

HASH = "$6$saltsalt$" + "a" * 86


@pytest.fixture
def node(tmp_path: Path) -> ShadowNode:
    return ShadowNode(tmp_path)


def config(text: str) -> str:
    return "#cloud-config\n" + text


def test_core_in_a_group_that_is_not_there_gets_in(node: ShadowNode) -> None:
    """The row of the table that left a node without a login."""
    outcome = node.apply(config(f"users: [{{name: core, groups: [wheel], ssh_authorized_keys: ['{KEY}']}}]\n"))
    assert (outcome.result, outcome.errors) == ("done", ())
    assert node.accounts().groups["wheel"][1] == {"core"}
    assert KEY in (node.path / "home/core/.ssh/authorized_keys").read_text()
    again = node.apply(config(f"users: [{{name: core, groups: [wheel], ssh_authorized_keys: ['{KEY}']}}]\n"))
    assert (again.result, again.changed, node.machine.ran) == ("done", (), [])


@pytest.mark.parametrize(
    ("entry", "gid_of", "members"),
    [
        ("{name: ops, no_create_home: true, groups: [ops]}", "ops", {}),
        ("{name: ops, no_create_home: true, primary_group: ops}", "ops", {}),
        (
            "{name: ops, no_create_home: true, groups: [ops, wheel, sudo]}",
            "ops",
            {"wheel": {"ops"}, "sudo": {"core", "ops"}},
        ),
        ("{name: ops, no_create_home: true, primary_group: staff2}", "staff2", {}),
        ("{name: operator, no_create_home: true}", "operator", {}),
        ("{name: operator, no_create_home: true, groups: 'operator, wheel'}", "operator", {"wheel": {"operator"}}),
        (
            "{name: ops, no_create_home: true, no_user_group: true, primary_group: sudo, groups: [ops]}",
            "sudo",
            {"ops": {"ops"}},
        ),
    ],
)
def test_a_new_account_and_its_groups(node: ShadowNode, entry: str, gid_of: str, members: dict[str, set[str]]) -> None:
    outcome = node.apply(config(f"users: [{entry}]\nwrite_files: [{{path: /etc/a}}]\n"))
    assert (outcome.result, outcome.errors) == ("done", ())
    name = "operator" if "operator" in entry else "ops"
    found = node.accounts()
    assert found.users[name].gid == found.groups[gid_of][0]
    for group, wanted in members.items():
        assert found.groups[group][1] == wanted
    assert (node.path / "etc/a").exists()
    node.apply(config(f"users: [{entry}]\nwrite_files: [{{path: /etc/a}}]\n"))
    assert node.machine.ran == []


def test_a_group_that_another_is_in_first(node: ShadowNode) -> None:
    text = config("users: [{name: a, groups: [ops], no_create_home: true}, {name: ops, no_create_home: true}]\n")
    assert node.apply(text).errors == ()
    found = node.accounts()
    assert found.groups["ops"] == (found.users["ops"].gid, frozenset({"a"}))


def test_top_level_groups(node: ShadowNode) -> None:
    text = config("groups: [cloud-users, {admins: [core, joe]}]\nusers: [{name: joe, no_create_home: true}]\n")
    assert node.apply(text).errors == ()
    found = node.accounts()
    assert found.groups["cloud-users"][1] == frozenset()
    assert found.groups["admins"][1] == {"core", "joe"}
    node.apply(text)
    assert node.machine.ran == []


def test_what_an_account_is_made_with(node: ShadowNode) -> None:
    text = """\
users:
- name: joe
  uid: 4711
  gecos: Joe
  no_create_home: true
  expiredate: '2031-01-01'
  inactive: 5
  homedir: /home/other
"""
    assert node.apply(config(text)).errors == ()
    entry = node.accounts().users["joe"]
    assert (entry.uid, entry.home, entry.shell) == (4711, "/home/other", "/bin/bash")
    assert node.shadow("joe")[6:8] == ["5", str(accounts.days("2031-01-01"))]
    node.apply(config(text))
    assert node.machine.ran == []
    node.apply(config(text.replace("2031", "2032")))
    assert node.shadow("joe")[7] == str(accounts.days("2032-01-01"))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (f"passwd: '{HASH}'", HASH),  # CoreOS's meaning: it lets in, whatever cloud-init's default is
        (f"hashed_passwd: '{HASH}'", HASH),
        (f"passwd: '{HASH}', lock_passwd: false", HASH),
        (f"passwd: '{HASH}', lock_passwd: true", f"!{HASH}"),
        ("lock_passwd: true", "*"),  # what matches nothing needs no lock
    ],
)
def test_passwords_of_users(node: ShadowNode, entry: str, expected: str) -> None:
    text = config(f"users: [{{name: core, {entry}}}]\n")
    assert node.apply(text).errors == ()
    assert node.shadow("core")[1] == expected
    node.apply(text)
    assert node.machine.ran == []


@pytest.mark.parametrize("entry", ["lock_passwd: true", f"passwd: '{HASH}'", f"passwd: '{HASH}', lock_passwd: true"])
def test_the_password_of_chpasswd_counts(node: ShadowNode, entry: str) -> None:
    other = HASH[:-1] + "."
    text = config(f"users: [{{name: core, {entry}}}]\nchpasswd: {{expire: false, list: ['core:{other}']}}\n")
    for _boot in range(2):
        assert node.apply(text).errors == ()
        assert node.shadow("core")[1] == other
    assert node.machine.ran == []


def test_an_account_is_locked(node: ShadowNode) -> None:
    node.apply(config(f"users: [{{name: core, passwd: '{HASH}'}}]\n"))
    node.apply(config("users: [{name: core, lock_passwd: true}]\n"))
    assert node.shadow("core")[1] == f"!{HASH}"


@pytest.mark.parametrize(
    "text",
    [
        "chpasswd: {expire: false, users: [{name: core, password: correct-horse, type: text}]}\n",
        "chpasswd: {expire: false, list: 'core:correct-horse'}\n",
        "chpasswd:\n  expire: false\n  list: |\n    core:correct-horse\n",
        "chpasswd: {expire: false, list: ['core:correct-horse']}\n",
        "password: correct-horse\nchpasswd: {expire: false}\n",
        "users: [{name: core, plain_text_passwd: correct-horse}]\n",
    ],
)
def test_plain_passwords_are_set_once_and_printed_nowhere(node: ShadowNode, text: str) -> None:
    outcome = node.apply(config(text))
    assert outcome.errors == ()
    assert crypt.same("correct-horse", node.shadow("core")[1])
    assert not crypt.same("wrong", node.shadow("core")[1])
    assert node.machine.ran == ["chpasswd"]
    assert "correct-horse" not in outcome.as_json() + " ".join(outcome.lines())
    assert "correct-horse" not in (node.path / "var/lib/cloudconfig/plan.json").read_text()
    node.apply(config(text))
    assert node.machine.ran == []


def test_a_hash_by_chpasswd_and_the_change_at_the_first_login(node: ShadowNode) -> None:
    text = config(f"chpasswd: {{users: [{{name: core, password: '{HASH}'}}]}}\n")
    assert node.apply(text).errors == ()
    assert node.shadow("core")[1:3] == [HASH, "0"]
    node.apply(text)
    assert node.machine.ran == [], "a password that was changed does not expire again"


def test_what_useradd_refuses_keeps_files_back_and_names_the_place(node: ShadowNode) -> None:
    outcome = node.apply(config("users: [{name: joe, uid: 1000}]\nwrite_files: [{path: /etc/a}]\n"))
    assert (outcome.result, [error.path for error in outcome.errors]) == ("degraded", ["users[0]"])
    assert not (node.path / "etc/a").exists()


def test_keys_beside_a_file_that_is_theirs(node: ShadowNode) -> None:
    """write_files over authorized_keys: both are there, however often it is applied."""
    text = config(f"""\
ssh_authorized_keys: ['{KEY}']
write_files:
- {{path: /home/core/.ssh/authorized_keys, content: "# mine\\n{KEY.replace("joe", "of-the-file")}\\n", permissions: '0666', owner: root}}
""")
    assert node.apply(text, keys=(KEY.replace("joe", "meta"),)).errors == ()
    path = node.path / "home/core/.ssh/authorized_keys"
    assert [line.split()[-1] for line in path.read_text().splitlines() if line.startswith("ssh-")] == [
        "joe",
        "of-the-file",
        "meta",
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    again = node.apply(text, keys=(KEY.replace("joe", "meta"),))
    assert again.changed == ()
    node.apply(config(f"ssh_authorized_keys: ['{KEY}']\n"))
    assert KEY in path.read_text()
    assert "of-the-file" not in path.read_text()


def test_keys_of_core_are_found_in_ruins(node: ShadowNode) -> None:
    outcome = node.apply(
        config(f"users:\n- name: core\n  ssh_authorized_keys: ['{KEY}']\nfqdn: n1.example.org\ncoreos: [\n")
    )
    assert outcome.result == "degraded"
    assert KEY in (node.path / "home/core/.ssh/authorized_keys").read_text()
    assert (node.path / "etc/hostname").read_text() == "n1\n"


def test_an_account_in_two_parts(node: ShadowNode) -> None:
    parts = "".join(
        f"--b\nContent-Type: text/cloud-config\n\n#cloud-config\nusers: [{{name: a{more}}}]\n"
        for more in ("", ", gecos: x")
    )
    outcome = node.apply(f"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n{parts}--b--\n")
    assert [error.message for error in outcome.errors] == ["the account stands in two parts"]
    assert node.machine.ran == []


def test_sudo(node: ShadowNode) -> None:
    text = config(
        "users: [{name: core, sudo: ['ALL=(ALL) NOPASSWD:ALL', 'ALL=(root) /usr/bin/id']}, {name: operator, no_create_home: true, sudo: false}]\n"
    )
    assert node.apply(text).errors == ()
    path = node.path / "etc/sudoers.d/90-cloudconfig-core"
    assert path.read_text() == "core ALL=(ALL) NOPASSWD:ALL\ncore ALL=(root) /usr/bin/id\n"
    assert path.stat().st_mode & 0o777 == 0o440
    assert [each.name for each in (node.path / "etc/sudoers.d").iterdir()] == [path.name]
    node.apply(config(""))
    assert not path.exists()
