"""The page of sizes: areas are bytes, nothing is fetched, and it is the same page again."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import sizes
from builder.lockfile import Lock
from builder.sizes import Box, folders, squarify
from builder.tools import Tools
from builder.tree import Entry, Inline, Kind, Tree
from tests.builder.smallworld import EPOCH, World

LOCK = Lock("amd64", EPOCH, "c" * 64, (), ())
VOID = {"meta"}


class Parsed(HTMLParser):
    """The divisions of the map: (owner, bytes, share of the whole area), each under its class; and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.areas: dict[str, list[tuple[str, int, float]]] = {"owner": [], "folder": []}
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._open: list[tuple[str, str, float]] = [("", "", 1.0)]
        self.feed(text)
        self.close()
        assert self._open == [("", "", 1.0)], "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes |= given.keys()
        _, owner, area = self._open[-1]
        if given.get("class") in self.areas:
            place = {
                key: float(value) for key, value in re.findall(r"(left|top|width|height):([\d.]+)%", given["style"])
            }
            assert place["left"] + place["width"] <= 100.001
            assert place["top"] + place["height"] <= 100.001
            owner, area = given.get("data-owner", owner), area * place["width"] * place["height"] / 10_000
            self.areas[given["class"]].append((owner, int(given["data-bytes"]), area))
        if tag not in VOID:
            self._open.append((tag, owner, area))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag


def tree(*files: tuple[str, str, int]) -> Tree:
    """A tree of files: owner, path, size."""
    return Tree(Entry(path, Kind.FILE, content=Inline(b"x" * size), owner=owner) for owner, path, size in files)


def assert_proportional(areas: list[tuple[str, int, float]], total: int) -> None:
    for owner, size, area in areas:
        assert area == pytest.approx(size / total, rel=0.01, abs=1e-5), owner
    assert sum(area for _, _, area in areas) == pytest.approx(1, abs=1e-3)


def test_the_page_of_a_build(tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    assert world.image("--quiet") == 0
    text = (world.output / sizes.NAME).read_text("utf-8")
    told = json.loads((world.output / "manifest.json").read_text())
    assert sizes.NAME in [artifact["name"] for artifact in told["artifacts"]]
    page = Parsed(text)
    total = sum(owner["bytes"] for owner in told["owners"])
    assert_proportional(page.areas["owner"], total)
    assert_proportional(page.areas["folder"], total)
    largest = told["owners"][0]
    assert page.areas["owner"][0][:2] == (largest["owner"], largest["bytes"])
    assert f"<td>{largest['owner']}</td><td>1.0</td><td>" in text
    assert "<td>root.img</td>" in text


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = sizes.page("node", LOCK, tree(("a", "usr/bin/a", 10)), [("root.img", 5)])
    page = Parsed(text)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form", "a"})
    assert page.attributes.isdisjoint({"src", "href", "srcset", "action", "background"})
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in text


def test_names_cannot_become_markup() -> None:
    hostile = 'x"><script>alert(1)</script>'
    text = sizes.page(hostile, LOCK, tree((hostile, f"usr/{hostile}/f", 10)), [(hostile, 5)])
    assert "script" not in Parsed(text).tags


def test_areas_are_bytes_by_owner_and_then_by_folder() -> None:
    what = tree(
        ("big", "usr/bin/one", 60_000),
        ("big", "usr/lib/two", 30_000),
        ("big", "usr/lib/deep/down/three", 4),
        ("other", "etc/four", 10_000),
        *(("many", f"srv/{number}/f", 1) for number in range(50)),
    )
    page = Parsed(sizes.page("node", LOCK, what, []))
    assert [area[:2] for area in page.areas["owner"]] == [("big", 90_004), ("other", 10_000), ("many", 50)]
    # Folders too small to be seen are part of the folder above them.
    assert [area[:2] for area in page.areas["folder"]] == [
        ("big", 60_000),
        ("big", 30_004),
        ("other", 10_000),
        ("many", 50),
    ]
    assert_proportional(page.areas["folder"], 100_054)


def test_owners_too_small_to_be_seen_are_one() -> None:
    what = tree(("big", "a", 100_000), *((f"small-{number}", f"b/{number}", 2) for number in range(60)))
    text = sizes.page("node", LOCK, what, [])
    assert [area[:2] for area in Parsed(text).areas["owner"]] == [("big", 100_000), ("60 smaller owners", 120)]
    assert "<td>21 more</td>" in text  # of the 61 owners, 40 have a row


def test_an_empty_tree_has_a_page() -> None:
    assert Parsed(sizes.page("nothing", LOCK, Tree(), [])).areas == {"owner": [], "folder": []}


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.integers(1, 5000), st.integers(1, 5000))
def test_boxes_fill_the_whole_and_do_not_overlap(weights: list[int], width: int, height: int) -> None:
    weights.sort(reverse=True)
    whole = Box(10.0, 20.0, float(width), float(height))
    boxes = squarify(weights, whole)
    for weight, box in zip(weights, boxes, strict=True):
        assert math.isclose(box.width * box.height, width * height * weight / sum(weights), rel_tol=1e-3)
    slack = 1e-6 * max(width, height)
    for number, one in enumerate(boxes):
        assert one.left >= 10 - slack
        assert one.top >= 20 - slack
        assert one.left + one.width <= 10 + width + slack
        assert one.top + one.height <= 20 + height + slack
        for two in boxes[:number]:
            across = min(one.left + one.width, two.left + two.width) - max(one.left, two.left)
            down = min(one.top + one.height, two.top + two.height) - max(one.top, two.top)
            assert min(across, down) <= slack


def test_boxes_are_near_to_squares() -> None:
    """The example of the paper."""
    boxes = squarify([6, 6, 4, 3, 2, 2, 1], Box(0, 0, 6, 4))
    assert [(box.width, box.height) for box in boxes[:2]] == [(3, 2), (3, 2)]
    assert max(max(box.width / box.height, box.height / box.width) for box in boxes) < 3


@given(
    st.dictionaries(st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map("/".join), st.integers(1, 100)),
    st.integers(0, 200),
)
def test_folders_lose_no_byte(files: dict[str, int], smallest: int) -> None:
    shares = folders(files.items(), smallest)
    assert sum(share.bytes for share in shares.values()) == sum(files.values())
    assert sorted(path for share in shares.values() for _, path in share.files) == sorted(files)
    assert all(share.bytes >= smallest for folder, share in shares.items() if folder)
    for folder, share in shares.items():
        assert all(path.startswith(f"{folder}/" if folder else "") for _, path in share.files)
