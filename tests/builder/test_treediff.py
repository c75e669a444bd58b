"""What differs, what of it was accepted, and what is accepted for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.check import tree_difference
from builder.check.tree_difference import Accepted, Attribute, Difference, Facts, differences, judge
from builder.core.tree import Entry, Kind, Tree, directory, file, symlink
from builder.finish.writable import SKELETON
from terminal import Failure

PATHS = st.lists(st.sampled_from(["etc", "usr", "a b", "[x]", "é", "*"]), min_size=1, max_size=3).map("/".join)
FACTS = st.builds(
    Facts,
    kind=st.sampled_from(["file", "dir", "symlink"]),
    mode=st.sampled_from([0o644, 0o4755]),
    owner=st.sampled_from(["root:root", "root:shadow"]),
    target=st.sampled_from(["", "elsewhere"]),
    content=st.sampled_from(["", "one\n", "two\n"]),
    capability=st.sampled_from(["", "0100000200200000"]),
)
SIDES = st.dictionaries(PATHS, FACTS, max_size=6)


def accepted(*paths: str, differs: tuple[str, ...] = ("only-theirs",)) -> Accepted:
    """An entry."""
    return Accepted(paths=paths, differs=tuple(map(Attribute, differs)), reason="it is so")


@given(SIDES, SIDES)
def test_nothing_differs_from_itself_and_both_directions_say_the_same(
    ours: dict[str, Facts], theirs: dict[str, Facts]
) -> None:
    assert differences(ours, ours) == ()
    there, back = differences(ours, theirs), differences(theirs, ours)
    assert [(each.path, each.ours, each.theirs) for each in there] == [
        (each.path, each.theirs, each.ours) for each in back
    ]
    for path in {each.path for each in there}:
        assert ours.get(path) != theirs.get(path)


@given(SIDES, SIDES, st.randoms())
def test_what_is_accepted_one_by_one_leaves_nothing_and_one_less_leaves_that(
    ours: dict[str, Facts], theirs: dict[str, Facts], chance: object
) -> None:
    found = differences(ours, theirs)
    entries = [accepted(each.path.replace("[", "[[]").replace("*", "[*]"), differs=(each.attribute,)) for each in found]
    judged = judge(found, entries)
    assert judged.unexplained == ()
    # An entry also holds for what lies below, and then takes it from that one's own.
    assert sum(judged.counts) == len(found)
    for number, entry in enumerate(entries):
        rest = judge(found, entries[:number] + entries[number + 1 :])
        assert set(rest.unexplained) <= {found[number]}, entry


def test_each_attribute_is_reported_on_its_own() -> None:
    ours = {"usr/bin/ping": Facts("file", 0o755, "root:root", content="a"), "dev/null": Facts("char", target="1:3")}
    theirs = {
        "usr/bin/ping": Facts("file", 0o4755, "root:adm", content="b", capability="01"),
        "dev/null": Facts("file"),
    }
    assert [str(each) for each in differences(ours, theirs)] == [
        "dev/null: kind, ours char 0755 root:root -> 1:3, theirs file 0755 root:root",
        "usr/bin/ping: mode, ours 0755, theirs 4755",
        "usr/bin/ping: owner, ours root:root, theirs root:adm",
        "usr/bin/ping: content, ours a, theirs b",
        "usr/bin/ping: capability, ours -, theirs 01",
    ]


def test_configuration_is_shown_as_a_diff_from_theirs() -> None:
    (found,) = differences({"etc/x": Facts("file", content="a\nb\n")}, {"etc/x": Facts("file", content="a\nc\n")})
    assert str(found).splitlines()[-2:] == ["    -c", "    +b"]


def test_an_entry_holds_for_all_below_and_only_for_what_it_names() -> None:
    found = [Difference(path, Attribute.ONLY_THEIRS, "", "file") for path in ("etc/a", "etc/a/b", "etc/ab")]
    found.append(Difference("etc/a", Attribute.MODE, "0644", "0600"))
    judged = judge(found, [accepted("etc/a")])
    assert [(each.path, each.attribute) for each in judged.unexplained] == [
        ("etc/ab", "only-theirs"),
        ("etc/a", "mode"),
    ]
    assert judged.counts == (2,)


def test_parts_of_entries_that_nothing_needs_are_stale() -> None:
    found = [Difference("etc/a", Attribute.ONLY_THEIRS, "", "file")]
    entries = [accepted("etc/*", "opt/*", differs=("only-theirs", "mode")), accepted("etc/a")]
    assert judge(found, entries).stale == (
        "accepted[0] (it is so): nothing differs under opt/*",
        "accepted[0] (it is so): nothing is mode",
        "accepted[1] (it is so): nothing differs under etc/a",
        "accepted[1] (it is so): nothing is only-theirs",
    )


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("version: 2\naccepted: []\n", "version", ":1:1"),
        ("version: 1\naccepted:\n  - paths: [x]\n    differs: [mode]\n", "accepted.0.reason: field required", ":3:5"),
        ("version: 1\naccepted:\n  - {paths: [x], differs: [size], reason: y}\n", "accepted.0.differs.0", ":3:"),
        ("version: 1\naccepted:\n  - {paths: [], differs: [mode], reason: y}\n", "accepted.0.paths", ":3:"),
        ("version: 1\naccepted:\n  - {paths: [x], differs: [mode], reason: ''}\n", "accepted.0.reason", ":3:"),
        ("version: 1\naccepted: [", "not YAML", ":2:"),
    ],
)
def test_a_reviewed_file_that_is_none(tmp_path: Path, text: str, message: str, place: str) -> None:
    path = tmp_path / "differences.yaml"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        tree_difference.load(path)
    assert message in str(caught.value)
    assert f"differences.yaml{place}" in str(caught.value.where)


def test_our_side_is_as_a_node_sees_it() -> None:
    tree = Tree([file("etc/passwd", "root:x:0:0::/root:/bin/sh\ncore:x:1000:1000::/home/core:/bin/bash\n")])
    tree.add(file("etc/group", "root:x:0:\nother:x:0:\ncore:x:1000:\n"))
    tree.add(Entry(f"{SKELETON}/home/core", Kind.DIRECTORY, 0o750, 1000, 1000))
    tree.add(file(f"{SKELETON}/log/wtmp", "", 0o664, gid=43))
    tree.add(symlink("home", "var/home"))
    tree.add(directory("var"))
    tree.add(Entry("usr/bin/ping", Kind.FILE, 0o755, xattrs={"security.capability": b"\1", "user.x": b"y"}))
    side = tree_difference.of_tree(tree)
    assert side["home/core"] == Facts("dir", 0o750, "core:core")
    assert side["home"].kind == "dir"
    assert side["var/log/wtmp"].owner == "root:43"
    assert side["usr/bin/ping"].capability == "01"
    assert not any(path.startswith(SKELETON) for path in side)


def test_account_databases_line_by_line() -> None:
    side = {
        "etc/passwd": Facts("file", content="root:x:0:0:root:/root:/bin/sh\nsshd:x:994:994::/run/sshd:/bin/false\n"),
        "etc/group": Facts("file", content="root:x:0:\nsshd:x:994:core\n"),
        "etc/shadow": Facts("file", 0o640, content="root:*:20000:0:99999:7:::\n"),
        "etc/gshadow": Facts("file", 0o640, content="root:*::\n"),
    }
    lines = {path: facts.content for path, facts in tree_difference.by_line(side).items() if facts.kind == "line"}
    assert lines == {
        "etc/passwd:root": "x:0:root:root:/root:/bin/sh",
        "etc/passwd:sshd": "x:-:sshd::/run/sshd:/bin/false",
        "etc/group:root": "x:0:",
        "etc/group:sshd": "x:-:core",
        "etc/shadow:root": "*:-:0:99999:7:::",
        "etc/gshadow:root": "*::",
    }


def test_only_configuration_is_kept_as_text() -> None:
    assert tree_difference.content("etc/hosts", b"a\n") == "a\n"
    assert len(tree_difference.content("etc/ld.so.cache", b"a\0")) == 64
    assert len(tree_difference.content("usr/bin/x", b"a\n")) == 64
