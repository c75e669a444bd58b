"""PAM stacks from profiles: the jumps of pam-auth-update(8), the order, and what would lock people out."""

from __future__ import annotations

import pytest

from builder.core.tree import Tree, file
from builder.finish.pam import STACKS, pam, parse_profile
from terminal import Failure

TEMPLATE = """\
# about {name}
# here are the per-package modules (the "Primary" block)
$primary
# here's the fallback if no module succeeds
{word}	requisite			pam_deny.so
{word}	required			pam_permit.so
# and here are more per-package modules (the "Additional" block)
$additional
# end of pam-auth-update config
"""
UNIX = """\
Name: Unix authentication
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so
Session-Type: Additional
Session:
	required	pam_unix.so
"""
KEYS = """\
Name: Keys
Default: yes
Priority: 300
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_keys.so
	[success=end default=ignore]	pam_more_keys.so
"""
LOGIND = """\
Name: Sessions
Default: yes
Session-Interactive-Only: yes
Session-Type: Additional
Session:
	optional	pam_systemd.so
"""
HOMES = (
    "Name: Homes\nDefault: no\nPriority: 999\nSession-Type: Additional\nSession:\n	required	pam_mkhomedir.so\n"
)


def tree_of(**profiles: str) -> Tree:
    """The five templates, some modules, and a profile a keyword."""
    names = ("deny", "permit", "unix", "systemd", "keys", "more_keys")
    return Tree(
        [
            *(file(f"usr/share/pam/{name}", TEMPLATE.format(name=name, word=word)) for name, _, word in STACKS),
            *(file(f"usr/lib/x86_64-linux-gnu/security/pam_{name}.so", "") for name in names),
            *(file(f"usr/share/pam-configs/{name}", text) for name, text in profiles.items()),
        ]
    )


def rendered(tree: Tree, name: str) -> list[str]:
    """The lines of /etc/pam.d/common-``name`` without comments."""
    entry = next(entry for entry in pam(tree).put if entry.path == f"etc/pam.d/common-{name}")
    return [line for line in entry.content.read().decode().splitlines() if not line.startswith("#")]


def test_one_module_jumps_over_the_denial() -> None:
    assert rendered(tree_of(unix=UNIX), "auth") == [
        "auth\t[success=1 default=ignore]\tpam_unix.so",
        "auth\trequisite\t\t\tpam_deny.so",
        "auth\trequired\t\t\tpam_permit.so",
    ]


def test_jumps_count_the_lines_that_follow_and_only_the_first_profile_is_initial() -> None:
    assert rendered(tree_of(unix=UNIX, keys=KEYS), "auth")[:3] == [
        "auth\t[success=3 default=ignore]\tpam_keys.so",
        "auth\t[success=2 default=ignore]\tpam_more_keys.so",
        "auth\t[success=1 default=ignore]\tpam_unix.so try_first_pass",
    ]


def test_an_empty_primary_block_permits_by_a_jump() -> None:
    assert rendered(tree_of(unix=UNIX), "account")[0] == "account\t[default=1]\t\t\tpam_permit.so"


def test_interactive_profiles_stay_out_of_the_other_stack_and_those_off_by_default_out_of_both() -> None:
    tree = tree_of(unix=UNIX, systemd=LOGIND, mkhomedir=HOMES)
    assert rendered(tree, "session")[-2:] == ["session\trequired\tpam_unix.so", "session\toptional\tpam_systemd.so"]
    assert rendered(tree, "session-noninteractive")[-1] == "session\trequired\tpam_unix.so"


def test_a_module_that_is_missing_would_lock_people_out() -> None:
    with pytest.raises(Failure, match=r"needs pam_mkhomedir\.so") as caught:
        pam(tree_of(homes=HOMES.replace("Default: no", "Default: yes")))
    assert caught.value.where == "/etc/pam.d/common-session"


def test_broken_files() -> None:
    with pytest.raises(Failure, match="expected 'Field: value'") as caught:
        parse_profile("usr/share/pam-configs/x", "Name: x\nnonsense\n")
    assert caught.value.where == "/usr/share/pam-configs/x:2"
    with pytest.raises(Failure, match="continuation line before any field"):
        parse_profile("x", "\tpam_unix.so\n")
    with pytest.raises(Failure, match="without the marks"):
        pam(Tree([file(f"usr/share/pam/{name}", "auth required pam_unix.so\n") for name, _, _ in STACKS]))
    with pytest.raises(Failure, match="template is missing"):
        pam(Tree())
