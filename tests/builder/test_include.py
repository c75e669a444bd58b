"""A definition on top of another: what merges how, what is refused and where, and that a build notices every file of
both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import run
from builder.core import data
from builder.core.document import Node
from builder.debian import apt
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools
from builder.definition import definition, include
from builder.definition.include import Named, Whole
from builder.lock.resolve import Request
from terminal import Failure, command
from tests.builder.conftest import Archive, Signer
from tests.builder.smallworld import EPOCH, World

Out = pytest.CaptureFixture[str]

# --- merging is pure ---------------------------------------------------------------------------------------------------

KEYS = st.sampled_from("abc")
TEXTS = st.sampled_from(["x", "y", "z"])


def node(value: object, where: str = "file:1:1") -> Node:
    if isinstance(value, dict):
        return Node({key: node(item, where) for key, item in value.items()}, where)
    return Node(tuple(node(item, where) for item in value), where) if isinstance(value, list) else Node(value, where)


def merged(base: object, over: object, rules: include.Rules | None = None) -> object:
    return include.merge(node(base), node(over), rules or {}).plain()


# Documents of one shape, so that any two can be merged: texts, a list and a mapping, each of which may be missing.
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS,
        "list": st.lists(TEXTS, unique=True),
        "map": st.dictionaries(KEYS, TEXTS),
        "section": st.fixed_dictionaries({}, optional={"text": TEXTS, "list": st.lists(TEXTS, unique=True)}),
    },
)


def tuples(value: object) -> object:
    return node(value).plain()


@given(DOCUMENTS)
def test_nothing_added_changes_nothing(document: dict[str, object]) -> None:
    assert merged(document, {}) == merged({}, document) == merged(document, document) == tuples(document)


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_a_chain_may_be_merged_from_either_end(first: object, second: object, third: object) -> None:
    left = include.merge(include.merge(node(first), node(second), {}), node(third), {})
    right = include.merge(node(first), include.merge(node(second), node(third), {}), {})
    assert left.plain() == right.plain()


@given(st.lists(TEXTS, unique=True), st.lists(TEXTS))
def test_lists_keep_their_order_and_have_nothing_twice(base: list[str], over: list[str]) -> None:
    both = merged(base, over)
    assert isinstance(both, tuple)
    assert both[: len(base)] == tuple(base)
    assert len(set(both)) == len(both)
    assert set(both) == {*base, *over}
    new = [text for text in dict.fromkeys(over) if text not in base]
    assert both[len(base) :] == tuple(new)


@given(st.dictionaries(KEYS, TEXTS), st.dictionaries(KEYS, TEXTS))
def test_in_a_mapping_the_upper_value_wins(base: dict[str, str], over: dict[str, str]) -> None:
    assert merged(base, over) == base | over


@given(st.one_of(DOCUMENTS, st.lists(TEXTS), TEXTS, st.none()))
def test_null_replaces_and_is_replaced(value: object) -> None:
    assert merged({"a": value}, {"a": None}) == {"a": None}
    assert merged({"a": None}, {"a": value}) == {"a": tuples(value)}


@given(DOCUMENTS, DOCUMENTS)
def test_every_part_keeps_its_place(base: object, over: dict[str, object]) -> None:
    both = include.merge(node(base, "base"), node(over, "over"), {})
    for key in over:
        assert both.find([key]) == "over"
    for place, item in enumerate((both.mapping or {}).get("list", node([])).items or ()):
        ours = isinstance(base, dict) and item.value in base.get("list", ())
        assert both.find(["list", place]) == ("base" if ours else "over")


def test_the_words_of_a_command_are_replaced() -> None:
    rules: include.Rules = {("root", "fast"): Whole.WHOLE}
    assert merged({"root": {"fast": ["-b", "64K"]}}, {"root": {"fast": ["-b"]}}, rules) == {"root": {"fast": ("-b",)}}


def test_a_named_thing_is_there_once() -> None:
    rules: include.Rules = {("all",): Named("name")}
    one, two = {"name": "a", "uid": 1}, {"name": "b", "uid": 2}
    assert merged({"all": [one]}, {"all": [one, two]}, rules) == {"all": (one, two)}
    with pytest.raises(Failure, match='"a" is there already') as caught:
        merged({"all": [one]}, {"all": [{"name": "a", "uid": 3}]}, rules)
    assert "the first is at file:1:1" in (caught.value.hint or "")
    with pytest.raises(Failure):
        merged({"all": ["a"]}, {"all": [one]}, rules)


def test_the_model_says_which_lists_are_special() -> None:
    assert definition.RULES[("root", "release")] is Whole.WHOLE
    assert definition.RULES[("container", "cmd")] is Whole.WHOLE
    assert definition.RULES[("packages",)] == Named("name")
    assert ("presets", "enable") not in definition.RULES


# --- files ---------------------------------------------------------------------------------------------------------------

BASE = """\
version: 1
name: base
suites: [{suite: test}]
packages: [base, {name: etcd, from: other}]
accounts:
  - {name: core, uid: 1000, home: /home/core}
overlay: files
links: {a: b, c: d}
container: {repository: test/base, cmd: [one, two]}
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_ours_is_included_by_its_name(tmp_path: Path) -> None:
    ours = definition.load(data.image() / "node.yaml")
    mine = write(
        tmp_path / "mine.yaml", "include: node\nname: mine\npackages: [tmux]\noverlay: mine\nroot: {fast: [-x]}\n"
    )
    both = definition.load(mine)
    assert both.wants() == [*ours.wants(), ("tmux", None)]
    assert both.overlays() == (data.image() / "overlay", tmp_path / "mine")
    assert (both.name, both.kernel, both.include) == ("mine", ours.kernel, None)
    assert both.root is not None
    assert both.root.fast == ("-x",)
    assert definition.load(write(tmp_path / "r.yaml", "include: redis\n")).container is not None


def test_paths_are_relative_to_the_file_that_says_them(tmp_path: Path) -> None:
    write(tmp_path / "base/base.yaml", BASE)
    write(tmp_path / "middle/middle.yaml", "include: ../base/base.yaml\noverlay: [one, ../two]\nlinks: {c: x, e: f}\n")
    both = definition.load(write(tmp_path / "mine.yaml", "include: middle/middle.yaml\ncontainer: {cmd: [three]}\n"))
    names = [path.resolve().relative_to(tmp_path).as_posix() for path in both.overlays()]
    assert names == ["base/files", "middle/one", "two"]
    assert both.links == {"a": "b", "c": "x", "e": "f"}
    assert both.container is not None
    assert (both.container.repository, both.container.cmd) == ("test/base", ("three",))


def test_null_takes_a_section_out(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    both = definition.load(write(tmp_path / "mine.yaml", "include: ./base.yaml\ncontainer: null\noverlay: null\n"))
    assert both.container is None
    assert both.overlays() == ()


@pytest.mark.parametrize(
    ("mine", "place", "says", "hint"),
    [
        ("name: mine\ninclude: nod\n", "mine.yaml:2:1", "no definition of ours named 'nod'", "did you mean 'node'?"),
        ("include: q\n", "mine.yaml:1:1", "no definition of ours named 'q'", "a file of yours: ./q.yaml"),
        ("include: ../none.yaml\n", "mine.yaml:1:1", "no file '../none.yaml'", "relative to the file"),
        ("include: .\n", "mine.yaml:1:1", "no file '.'", "relative to the file"),
        ("include: [base]\n", "mine.yaml:1:1", "a list cannot be included", "name one"),
        ("include: ./mine.yaml\n", "mine.yaml:1:1", "include each other: ", ""),
        ("include: ./base.yaml\nlinks: [a]\n", "mine.yaml:2:1", "links: a list cannot be merged with a mapping", "base.yaml:8:1"),
        ("include: ./base.yaml\npackages: tmux\n", "mine.yaml:2:1", "packages: a single value cannot", "base.yaml:4:1"),
        ("include: ./base.yaml\npackages: [x, etcd]\n", "mine.yaml:2:15", '"etcd" is there already', "base.yaml:4:18"),
        ("include: ./base.yaml\naccounts: [{name: core, uid: 9, home: /}]\n", "mine.yaml:2:12", '"core" is there', "base.yaml:6:5"),
        ("include: ./base.yaml\npakages: [x]\n", "mine.yaml:2:1", "unknown key 'pakages'", "packages"),
        ("include: ./base.yaml\naccounts: [{name: x, uid: 0, home: /}]\n", "mine.yaml:2:22", "accounts.1.uid", ""),
        ("include: ./base.yaml\npackages: null\n", "mine.yaml:2:1", "packages", ""),
        ("include: ./base.yaml\n1: x\n", "mine.yaml:1:1", "a key is text, which 1 is not", "quotes"),
        ("include: ./broken.yaml\n", "broken.yaml:3:1", "not YAML", ""),
        ("include: ./wrong.yaml\n", "wrong.yaml:7:1", "unknown key 'overlaid'", "did you mean 'overlay'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_own_file(tmp_path: Path, mine: str, place: str, says: str, hint: str) -> None:
    write(tmp_path / "base.yaml", BASE)
    write(tmp_path / "broken.yaml", "version: 1\nname: [\n")
    write(tmp_path / "wrong.yaml", BASE.replace("overlay:", "overlaid:"))
    with pytest.raises(Failure) as caught:
        definition.load(write(tmp_path / "mine.yaml", mine))
    assert f"{tmp_path}/{place}" in str(caught.value)
    assert says in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_circle_is_reported_with_its_way(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "include: ./b.yaml\n")
    write(tmp_path / "b.yaml", "include: sub/../a.yaml\n")
    (tmp_path / "sub").mkdir()
    with pytest.raises(Failure) as caught:
        definition.load(tmp_path / "a.yaml")
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert str(caught.value) == f"{b}:1:1: definitions that include each other: {a} -> {b} -> {a}"


# --- builds --------------------------------------------------------------------------------------------------------------

MINE = "include: ../image/small.yaml\nname: mine\noverlay: files\ncontainer: {tag: mine}\n"


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    world = World(tmp_path, closure)
    write(tmp_path / "mine/files/etc/motd", "mine\n")
    mine = write(tmp_path / "mine/mine.yaml", MINE)
    lock = Lock(
        "amd64", EPOCH, Request.of(definition.load(mine)).fingerprint, (), (world.locked["base"], world.locked["tool"])
    )
    write(mine.with_suffix(".lock"), lock.dump())
    return world


def build(world: World) -> int:
    return command("osbuild", run, world.arguments("container", world.root / "mine/mine.yaml", "--quiet"))


def edit_included_overlay(world: World) -> None:
    (world.overlay / "etc/issue").write_text("another world\n")


def edit_own_overlay(world: World) -> None:
    (world.root / "mine/files/etc/issue").write_text("mine\n")


def edit_included(world: World) -> None:
    world.small.write_text(world.small.read_text().replace("0700 daemon", "0750 daemon"))


def edit_own(world: World) -> None:
    write(world.root / "mine/mine.yaml", MINE + "links: {a: b}\n")


@pytest.mark.parametrize("change", [edit_included_overlay, edit_own_overlay, edit_included, edit_own])
def test_a_change_in_any_file_is_noticed(change: Callable[[World], None], world: World, capsys: Out) -> None:
    assert build(world) == 0
    assert build(world) == 0
    change(world)
    assert build(world) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"built {world.output}", f"{world.output} is up to date", f"built {world.output}"]


def test_the_users_overlay_wins(world: World) -> None:
    assert build(world) == 0
    before = (world.output / "mine.tar").read_bytes()
    assert b"a small world\n" in before
    assert b"mine\n" in before
    edit_own_overlay(world)
    assert build(world) == 0
    assert b"a small world\n" not in (world.output / "mine.tar").read_bytes()


def test_a_package_that_the_included_one_adds_asks_for_a_new_lock(world: World, capsys: Out) -> None:
    world.small.write_text(world.small.read_text().replace("[base, tool]", "[base, tool, more]"))
    assert build(world) == 1
    mine = world.root / "mine/mine.yaml"
    assert f"hint: run 'osbuild lock {mine}'" in capsys.readouterr().err


def test_the_lock_lies_beside_the_users_file_and_answers_both(
    world: World, archive: Archive, signer: Signer, programs: apt.Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tool", "more"):
        archive.add("one", name)
    archive.write(signer)
    base = BASE.replace("suite: test", "suite: one").replace("[base, {name: etcd, from: other}]", "[tool]")
    write(world.root / "locked/base.yaml", base)
    mine = write(world.root / "locked/mine.yaml", "include: ./base.yaml\npackages: [more]\n")
    monkeypatch.setattr(Tools, "apt", lambda _: programs)
    words = ["lock", mine, "--store", world.store, "--mirror", f"file://{archive.root.parent}", "--quiet"]
    assert command("osbuild", run, [str(word) for word in words]) == 0
    lock = Lock.load(mine.with_suffix(".lock"))
    assert [package.name for package in lock.packages] == ["more", "tool"]
    assert lock.request == Request.of(definition.load(mine)).fingerprint
    assert not (world.root / "locked/base.lock").exists()
