"""Copies that scripts make, sshd_config, and the list of shells."""

from __future__ import annotations

import pytest

from builder.core.tree import Kind, Tree, file
from builder.finish.defaults import JOURNALD, defaults
from builder.finish.statoverride import statoverride
from terminal import Failure

SSHD = "Include /etc/ssh/sshd_config.d/*.conf\n#PasswordAuthentication yes\nUsePAM yes\n#HostKey /etc/ssh/ssh_host_rsa_key\n"


def text(tree: Tree, path: str) -> str:
    """What is at ``path`` once the step is applied to (a copy of) ``tree``."""
    done = tree.copy()
    done.apply(defaults(done))
    return done.read(path).decode()


def test_sshd_takes_keys_only() -> None:
    lines = text(Tree([file("usr/share/openssh/sshd_config", SSHD)]), "etc/ssh/sshd_config").splitlines()
    assert lines[:4] == [
        "Include /etc/ssh/sshd_config.d/*.conf",
        "PasswordAuthentication no",
        "UsePAM yes",
        "HostKey /etc/ssh/ssh_host_ed25519_key",
    ]
    assert "PermitRootLogin no" in lines


def test_what_is_there_already_stays() -> None:
    tree = Tree([file("usr/share/openssh/sshd_config", SSHD), file("usr/share/base-files/profile", "debian")])
    tree.add(file("etc/ssh/sshd_config", "ours"))
    tree.add(file("etc/profile", "ours"))
    tree.add(file("etc/motd", "ours"))
    assert [text(tree, path) for path in ("etc/ssh/sshd_config", "etc/profile", "etc/motd")] == ["ours"] * 3


def test_copies_and_empty_files() -> None:
    tree = Tree([file("usr/share/base-files/profile", "P"), file("usr/share/base-files/dot.bashrc", "B")])
    assert text(tree, "etc/profile") == "P"
    assert text(tree, "root/.bashrc") == "B"
    made = {entry.path: entry for entry in defaults(tree).put}
    assert made["etc/security/opasswd"].mode == 0o600
    assert made["etc/mtab"].target == "../proc/self/mounts"
    assert made["etc/opt"].kind is Kind.DIRECTORY


def test_login_records_get_their_group_from_statoverride() -> None:
    tree = Tree(
        [
            file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            file("etc/group", "root:x:0:\nutmp:x:43:\nsystemd-journal:x:9:\n"),
        ]
    )
    tree.add(file(JOURNALD, "", 0o755))
    tree.apply(defaults(tree))
    tree.apply(statoverride(tree))
    seen = {path: (tree[path].mode, tree[path].gid) for path in ("var/log/wtmp", "var/log/btmp", "var/log/journal")}
    assert seen == {"var/log/wtmp": (0o664, 43), "var/log/btmp": (0o660, 43), "var/log/journal": (0o2755, 9)}


def test_shells_in_both_spellings_once() -> None:
    tree = Tree([file("usr/share/debianutils/shells", "# /etc/shells\n/bin/sh\n")])
    tree.add(file("usr/share/debianutils/shells.d/bash", "/bin/bash\n/usr/bin/bash\n"))
    assert text(tree, "etc/shells").splitlines() == ["# /etc/shells", "/bin/sh", "/bin/bash", "/usr/bin/bash"]


def test_a_keyword_that_is_none() -> None:
    with pytest.raises(Failure, match="no keyword of sshd_config"):
        defaults(Tree([file("usr/share/openssh/sshd_config", SSHD)]), {"Port 22\nPermit": "yes"})
