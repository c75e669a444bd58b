"""[Install] sections: how lists add up, and the links that enabling makes."""

from __future__ import annotations

import pytest

from unitfile.install import Install
from unitfile.name import UnitName, UnitNameError
from unitfile.text import UnitFile


def read(text: str) -> Install:
    return Install.of(UnitFile.parse(text))


def test_install_sections_add_up_and_can_be_emptied() -> None:
    text = "[Unit]\nWantedBy=no\n[Install]\n# WantedBy=no\nWantedBy=a b\nWantedBy=c \\\n d\nAlias=x\nAlias=\n"
    assert read(text) == Install(wanted_by=("a", "b", "c", "d"))
    assert not read("[Service]\nExecStart=x\n")


@pytest.mark.parametrize(
    ("name", "links"),
    [
        (
            "a.service",
            {
                "/e/b.service": "/u/a.service",
                "/e/m.target.wants/a.service": "/u/a.service",
                "/e/r.target.requires/a.service": "/u/a.service",
                "/e/h.target.upholds/a.service": "/u/a.service",
            },
        ),
        (
            "a@1.service",
            {
                "/e/b1.service": "/u/a.service",
                "/e/m.target.wants/a@1.service": "/u/a.service",
                "/e/r.target.requires/a@1.service": "/u/a.service",
                "/e/h.target.upholds/a@1.service": "/u/a.service",
            },
        ),
    ],
)
def test_links(name: str, links: dict[str, str]) -> None:
    text = "[Install]\nWantedBy=m.target\nRequiredBy=r.target\nUpheldBy=h.target\nAlias=b%i.service\n"
    assert dict(read(text).links(UnitName.parse(name), "/e", "/u/a.service")) == links


def test_a_template_is_enabled_by_its_default_instance() -> None:
    template = UnitName.parse("getty@.service")
    wanted = "[Install]\nWantedBy=getty.target\n"
    assert read(wanted).links(template, "/e", "/u") == ()
    assert read(wanted).instance(template) is None
    made = read(wanted + "DefaultInstance=tty1\n").links(template, "/e", "/u")
    assert made == (("/e/getty.target.wants/getty@tty1.service", "/u"),)


@pytest.mark.parametrize("line", ["WantedBy=../x.target", "Alias=x", "RequiredBy=a/b.service", "WantedBy=%i"])
def test_names_that_are_none_are_refused(line: str) -> None:
    with pytest.raises(UnitNameError):
        read(f"[Install]\n{line}\n").links(UnitName.parse("a.service"), "/e", "/u")
