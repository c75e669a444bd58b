"""The account database: base-passwd's masters, sysusers.d, our people; and every way in which a number can be wrong."""

from __future__ import annotations

import pytest

from builder.core.tree import Patch, Tree, directory, file
from builder.finish.accounts import FIXED_IDS, Account, accounts
from terminal import Failure

PASSWD = "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:*:0:\nsudo:*:27:\nshadow:*:42:\nnogroup:*:65534:\n"
CORE = Account("core", 1000, 1000, ("sudo", "docker"), "/home/core")


def tree_of(**sysusers: str) -> Tree:
    """Debian's masters, a skeleton of a home, and a sysusers.d file a keyword."""
    masters = [file("usr/share/base-passwd/passwd.master", PASSWD), file("usr/share/base-passwd/group.master", GROUP)]
    drop_ins = [file(f"usr/lib/sysusers.d/{name}.conf", text) for name, text in sysusers.items()]
    return Tree([*masters, *drop_ins, file("etc/skel/.bashrc", "umask 077\n")])


def content(patch: Patch, path: str) -> str:
    """The text that ``patch`` puts at ``path``."""
    return next(entry for entry in patch.put if entry.path == path).content.read().decode()


def test_the_whole_database() -> None:
    etcd = '# etcd\nu! etcd - "the key-value store" /var/lib/etcd\nu sshd -:nogroup - /run/sshd\nm etcd shadow\n'
    patch = accounts(tree_of(etcd=etcd), [CORE], ["docker"])
    assert content(patch, "etc/passwd").splitlines() == [
        "root:x:0:0:root:/root:/bin/bash",
        "etcd:x:993:993:the key-value store:/var/lib/etcd:/usr/sbin/nologin",
        "sshd:x:994:65534::/run/sshd:/usr/sbin/nologin",
        "core:x:1000:1000::/home/core:/bin/bash",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    assert content(patch, "etc/group").splitlines() == [
        "root:x:0:",
        "sudo:x:27:core",
        "shadow:x:42:etcd",
        "docker:x:986:core",
        "etcd:x:993:",
        "core:x:1000:",
        "nogroup:x:65534:",
    ]
    # no account has a password; an account declared with 'u!' has expired as well
    assert content(patch, "etc/shadow").splitlines() == [
        "root:*:::::::",
        "etcd:*::::::1:",
        "sshd:*:::::::",
        "core:*:::::::",
        "nobody:*:::::::",
    ]


def test_secrets_are_for_root_and_the_group_shadow_only() -> None:
    modes = {entry.path: (entry.mode, entry.uid, entry.gid) for entry in accounts(tree_of(), [], []).put}
    assert modes["etc/shadow"] == modes["etc/gshadow"] == (0o640, 0, 42)
    assert modes["etc/passwd"] == modes["etc/group"] == (0o644, 0, 0)


def test_a_home_is_made_from_skel_once() -> None:
    tree = tree_of()
    homes = {entry.path: (entry.uid, entry.gid, entry.mode) for entry in accounts(tree, [CORE], ["docker"]).put}
    assert homes["home/core"] == (1000, 1000, 0o750)
    assert homes["home/core/.bashrc"] == (1000, 1000, 0o644)
    tree.put(directory("home/core"))
    assert "home/core" not in {entry.path for entry in accounts(tree, [CORE], ["docker"]).put}


def test_what_base_passwd_has_wins_over_sysusers() -> None:
    patch = accounts(tree_of(basic="g sudo 28\nu root 0 - /elsewhere /bin/false\n"), [], [])
    assert "sudo:x:27:" in content(patch, "etc/group")
    assert "/elsewhere" not in content(patch, "etc/passwd")


def test_order_of_files_and_people_does_not_matter() -> None:
    one = accounts(tree_of(a="g kvm -\n", b="g clock -\n"), [CORE], ["docker", "fleet"])
    two = accounts(tree_of(a="g clock -\n", b="g kvm -\n"), [CORE], ["fleet", "docker"])
    assert one == two


def test_fixed_numbers_are_given_out_once() -> None:
    assert len(set(FIXED_IDS.values())) == len(FIXED_IDS)
    assert all(100 <= number < 1000 for number in FIXED_IDS.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u newcomer - -", "'newcomer' has no fixed number"),
        ("u thief 0 -", "'root' and 'thief' both have the number 0"),
        ("g thief 42", "'shadow' and 'thief' both have the number 42"),
        ("u lost 77:nowhere -", "'lost' wants the group 'nowhere'"),
        ("m root nowhere", "the group 'nowhere', which does not exist"),
        ('u broken - "unclosed', "not a sysusers.d line"),
        ("x what - -", "unknown sysusers.d type 'x'"),
    ],
)
def test_bad_lines_are_reported_with_their_place(line: str, message: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        accounts(tree_of(bad=f"# comment\n{line}\n"), [], [])
    assert caught.value.where == "/usr/lib/sysusers.d/bad.conf:2"


def test_a_tree_without_masters_names_the_package() -> None:
    with pytest.raises(Failure) as caught:
        accounts(Tree(), [], [])
    assert caught.value.hint == "add the package base-passwd"
