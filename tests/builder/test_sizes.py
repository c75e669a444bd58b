"""The page of sizes as a file: it can fetch nothing, names stay names, and it is the same page again.

What it shows: test_pages.py.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.about import sizes
from builder.core.page import page
from builder.core.tree import Entry, Inline, Kind, Tree
from builder.debian.deb import Package
from builder.debian.tools import Tools
from tests.builder.smallworld import World

VOID = {"meta", "link", "input"}


class Parsed(HTMLParser):
    """Every tag and attribute, the text of every cell, and the data for the script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.data: Any = None
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= given.keys()
        if tag not in VOID:
            self._open.append((tag, given))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, given = self._open[-1] if self._open else ("", {})
        if given.get("id") == "data":
            self.data = json.loads(data)
        elif tag in ("td", "th"):
            self.cells[-1] += data


def package(name: str, section: str = "", version: str = "1.0") -> Package:
    control = f"Package: {name}\nVersion: {version}\n" + (f"Section: {section}\n" if section else "")
    return Package(name, control, {}, (), (), Path())


def tree(*files: tuple[str, str, int]) -> Tree:
    """A tree of files: owner, path, size."""
    return Tree(Entry(path, Kind.FILE, content=Inline(b"x" * size), owner=owner) for owner, path, size in files)


def paths(folder: list[Any], above: str = "") -> dict[str, tuple[int, int]]:
    """Size and owner's number of the page's files, by path."""
    found: dict[str, tuple[int, int]] = {}
    for name, inside, *owner in folder:
        path = f"{above}{name}"
        found |= paths(inside, f"{path}/") if isinstance(inside, list) else {path: (inside, owner[0])}
    return found


def test_the_page_of_a_build(tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    assert world.image("--quiet") == 0
    document = json.loads((world.output / "manifest.json").read_text())
    assert sizes.NAME in [artifact["name"] for artifact in document["artifacts"]]
    parsed = Parsed((world.output / sizes.NAME).read_text("utf-8"))
    assert parsed.data["total"] == sum(owner["bytes"] for owner in document["owners"])
    assert [owner[0] for owner in parsed.data["owners"]] == [owner["owner"] for owner in document["owners"]]
    listed = [json.loads(line) for line in (world.output / "files.jsonl").read_text().splitlines()]
    assert {f"/{path}": size for path, (size, _) in paths(parsed.data["files"]).items()} == {
        each["path"]: each["size"] for each in listed if each.get("size")
    }
    assert document["owners"][0]["owner"] in parsed.cells
    assert "root.img" in parsed.cells


def test_nothing_can_be_fetched_and_only_our_script_runs() -> None:
    text = sizes.render("node", [], tree(("a", "usr/bin/a", 10)), [("root.img", 5)])
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 2  # the data and the program
    assert not {"img", "iframe", "object", "form"} & set(parsed.tags)
    assert not {"src", "srcset", "action", "background", "style", "onclick"} & parsed.attributes
    assert re.findall(r'href="([^"]*)"', text) == ["data:,"]
    assert not re.search(r"https?:|url\(|@import", text)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/=]{44}'; script-src 'sha256-[\w+/=]{44}'", policy
    )


HOSTILE = '</script><script>alert(1)</script><b x="'


def test_names_cannot_become_markup() -> None:
    what = tree((HOSTILE, f"usr/{HOSTILE.replace('/', '')}/f", 10))
    text = sizes.render(HOSTILE, [package(HOSTILE, version=HOSTILE)], what, [(HOSTILE, 5)])
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 2
    assert "b" not in parsed.tags
    assert parsed.data["owners"][0][0] == HOSTILE


@given(st.text(max_size=20))
def test_any_data_comes_through(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert Parsed(page("sizes", text, "", {"text": text})).data == {"text": text}


@pytest.mark.parametrize(
    ("owner", "section", "kind"),
    [
        ("flotilla", "", "ours"),
        ("libc6", "libs", "libraries"),
        ("linux-image", "kernel", "kernel"),
        ("firmware", "non-free-firmware/kernel", "kernel"),
        ("etcd", "net", "network"),
        ("systemd", "admin", "system"),
        ("python3", "python", "languages"),
        ("sed", "utils", "tools"),
        ("game", "games", "other"),
        ("odd", "", "other"),
    ],
)
def test_kinds_of_owners(owner: str, section: str, kind: str) -> None:
    assert sizes.kind(owner, section) == kind
    assert kind in sizes.KINDS


def test_the_ten_largest_are_a_table_and_all_are_there_without_scripts() -> None:
    what = tree(*((f"p{number:02}", f"f/{number}", 2000 - number) for number in range(30)))
    parsed = Parsed(sizes.render("node", [package("p00", "libs", "9.9")], what, []))
    names = [cell for cell in parsed.cells if re.fullmatch(r"p\d\d", cell)]
    assert names == [f"p{number:02}" for number in [*range(10), *range(30)]]
    at = parsed.cells.index("p00")
    assert parsed.cells[at : at + 5] == ["p00", "9.9", "libraries", "2.0 kB", "3.4 %"]


def test_an_empty_tree_has_a_page() -> None:
    assert Parsed(sizes.render("nothing", [], Tree(), [])).data["files"] == []


def test_the_same_tree_gives_the_same_page() -> None:
    files = [("a", "usr/a", 3), ("b", "usr/b", 3), ("c", "etc/c", 3)]
    assert sizes.render("n", [], tree(*files), []) == sizes.render("n", [], tree(*reversed(files)), [])
