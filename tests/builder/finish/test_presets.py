"""Enabling units offline: the links that systemctl would make, and every way a list can be wrong."""

from __future__ import annotations

import pytest

from builder.core.tree import Patch, Tree, file, symlink
from builder.finish.presets import presets
from terminal import Failure

SYSTEM = "usr/lib/systemd/system/"
UNITS = {
    "ssh.service": "[Service]\nExecStart=/usr/sbin/sshd\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
    "networkd.service": "[Install]\nWantedBy=multi-user.target\nAlso=networkd.socket static.service gone.service\n",
    "networkd.socket": "[Install]\nRequiredBy=sockets.target\nUpheldBy=watch.target\n",
    "static.service": "[Service]\nExecStart=/bin/true\n",
    "getty@.service": "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
    "serial@.service": "[Install]\nWantedBy=%p-%i.target\n",
    "multi-user.target": "[Unit]\nDescription=many\n",
}


def tree_of(*more: str) -> Tree:
    """The units above; each of ``more`` is a path under /etc/systemd/system with a link of a package."""
    tree = Tree(file(SYSTEM + name, text) for name, text in UNITS.items())
    tree.add(symlink(SYSTEM + "networking.service", "networkd.service"))
    for path in more:
        tree.add(symlink("etc/systemd/system/" + path, "/usr/lib/systemd/system/x.service"))
    return tree


def links(patch: Patch) -> dict[str, str]:
    """The links under /etc/systemd/system, by path below it, but for the default target."""
    prefix = "etc/systemd/system/"
    found = {each.path.removeprefix(prefix): each.target for each in patch.put if each.path.startswith(prefix)}
    assert found.pop("default.target") == "/usr/lib/systemd/system/multi-user.target"
    return found


def test_wanted_required_upheld_also_and_alias() -> None:
    patch = presets(tree_of(), ["ssh.service", "networkd.service"])
    assert links(patch) == {
        "sshd.service": "/usr/lib/systemd/system/ssh.service",
        "multi-user.target.wants/ssh.service": "/usr/lib/systemd/system/ssh.service",
        "multi-user.target.wants/networkd.service": "/usr/lib/systemd/system/networkd.service",
        "sockets.target.requires/networkd.socket": "/usr/lib/systemd/system/networkd.socket",
        "watch.target.upholds/networkd.socket": "/usr/lib/systemd/system/networkd.socket",
    }
    assert patch.put[0].content.read().decode().splitlines()[1:] == [
        "enable networkd.service",
        "enable networkd.socket",
        "enable ssh.service",
        "disable *",
    ]


def test_templates() -> None:
    template = "/usr/lib/systemd/system/getty@.service"
    assert links(presets(tree_of(), ["getty@.service"])) == {"getty.target.wants/getty@tty1.service": template}
    assert links(presets(tree_of(), ["getty@tty7.service"])) == {"getty.target.wants/getty@tty7.service": template}
    assert links(presets(tree_of(), ["serial@x.service"])) == {
        "serial-x.target.wants/serial@x.service": "/usr/lib/systemd/system/serial@.service"
    }


def test_masks_and_aliases() -> None:
    patch = presets(tree_of(), [], ["timer.timer"], {"sshd2.service": "ssh.service"})
    assert links(patch) == {"timer.timer": "/dev/null"}
    assert symlink(SYSTEM + "sshd2.service", "ssh.service") in patch.put


def test_a_masked_unit_is_not_enabled_by_way_of_another() -> None:
    made = links(presets(tree_of(), ["networkd.service"], ["networkd.socket"]))
    assert made == {
        "multi-user.target.wants/networkd.service": "/usr/lib/systemd/system/networkd.service",
        "networkd.socket": "/dev/null",
    }


def test_what_packages_enabled_themselves_goes() -> None:
    patch = presets(tree_of("old.target.wants/x.service", "multi-user.target.wants/ssh.service"), ["ssh.service"])
    assert patch.remove == ("etc/systemd/system/old.target.wants/x.service",)


@pytest.mark.parametrize(
    ("enabled", "masked", "message", "hint"),
    [
        ("static.service", (), r"static\.service has no \[Install\] section", "started by others"),
        ("shh.service", (), r"/usr/lib/systemd/system/shh\.service does not exist", "did you mean ssh.service?"),
        ("serial@.service", (), "has no DefaultInstance", "list an instance"),
        ("networking.service", (), r"another name of networkd\.service", "under its own name"),
        ("../evil.service", (), "is not the name of a unit", "with its suffix"),
        ("ssh", (), "is not the name of a unit", "with its suffix"),
        ("ssh.service", ("ssh.service",), "enabled and masked", "list it once"),
    ],
)
def test_a_list_that_is_wrong(enabled: str, masked: tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        presets(tree_of(), [enabled], masked)
    assert hint in (caught.value.hint or "")


def test_the_default_target_and_what_is_behind_an_alias_must_exist() -> None:
    with pytest.raises(Failure, match=r"the default target graphical\.target does not exist"):
        presets(tree_of(), [], default_target="graphical.target")
    with pytest.raises(Failure, match=r"behind the alias a\.service"):
        presets(tree_of(), [], aliases={"a.service": "nothing.service"})
