"""Mistakes in YAML are reported where they are, not where a parser gives up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.text import finding, yamlplace, yamltree

HEAD = "#cloud-config\n"
CASES = [
    # A missing colon: at the line that has none.
    ("hostname: a\nusers\nwrite_files:\n- path: /x\n", "3:1", "no ':'"),
    ("hostname: a\nusers\n", "3:1", "no ':'"),
    ("hostname\nusers: []\n", "2:1", "no ':'"),
    ("hostname\n", "2:1", "must be a mapping"),
    ("coreos:\n  units\n  - name: a\n", "3:3", "no ':'"),
    ("users:\n- name joe\n  shell: /bin/sh\n", "3:3", "no ':'"),
    ("users:\n  - name: b\n    shell /bin/sh\n    groups: [x]\n", "4:5", "no ':'"),
    ("hostname:a\nusers: []\n", "2:9", "no blank after ':'"),
    ("users:\n-name: x\n- name: y\n", "3:1", "no blank after '-'"),
    # A quote: where it is opened.
    ('hostname: "a\nusers: []\nwrite_files:\n- path: /x\n', "2:11", "never closed"),
    ("hostname: 'a\nusers: []\n", "2:11", "never closed"),
    ('hostname: "a\nusers: []\nwrite_files:\n- path: "/x"\n- path: "/y"\n', "2:11", "closed in line 5 only"),
    ("hostname: 'it's'\nusers: []\n", "2:15", "after the value has ended"),
    ('hostname: "a" b\n', "2:15", "after the value has ended"),
    # Brackets: where they are opened.
    ("users: [a, b\nhostname: x\n", "2:8", "'[' is opened here and never closed"),
    ("hostname: x\nusers: [a, b\n", "3:8", "'[' is opened here and never closed"),
    ("users: {a: b\nhostname: x\n", "2:8", "'{' is opened here and never closed"),
    ("users: {a: b,\n", "2:8", "'{' is opened here and never closed"),
    ("users: [{name: a, groups: [b]\nhostname: x\n", "2:9", "'{' is opened here and never closed"),
    ("users: [{name: a, groups: [b}]\n", "2:27", "closed by '}' at 2:29"),
    ("users: [a}\n", "2:8", "closed by '}' at 2:10"),
    ("users: [\n  a,\n  'b' c\n]\n", "4:7", "neither ',' nor ']'"),
    # Indentation: the line that is out of line.
    ("coreos:\n\tetcd2: x\n", "3:1", "a tab"),
    ("coreos:\n  etcd2:\n  \tname: x\n", "4:3", "a tab"),
    ("hostname: a\n  users: []\n", "3:3", "indented deeper"),
    ("coreos:\n    fleet: {}\n  etcd2: {}\n", "4:3", "fits no line above"),
    ("coreos:\n    units:\n  - name: a\n", "4:3", "an entry of a list among keys"),
    ("hostname: a\n- b\n", "3:1", "an entry of a list among keys"),
    ("- a\nhostname: b\n", "3:1", "fits no line above"),
    # Blocks: their first line that is no longer theirs.
    ("write_files:\n- path: /x\n  content: |\n  text\n  permissions: '0644'\n", "5:3", "deeper than its key"),
    ("write_files:\n- path: /x\n  content: |\n    text\n   less\n", "6:4", "fits no line above"),
    # Others.
    ("hostname: a: b\n", "2:12", "a second ':'"),
    ("hostname: @x\n", "2:11", "no value begins with"),
    ("hostname: `x`\n", "2:11", "no value begins with"),
    ("hostname: %x\n", "2:11", "no value begins with"),
    ("hostname: a\nusers: []\nhostname: b\n", "4:1", "stands here twice, first in line 2"),
    ("users:\n- name: a\n  name: b\n", "4:3", "stands here twice, first in line 3"),
    ("hostname: {{ name }}\n", "2:12", "a key must be a word"),
    ("hostname: a\n...\nb\n", "4:1", "expected <document start>"),
    ("hostname: a\x7f\n", "2:12", "control character"),
    ("hostname: a\ufffe\n", "2:12", "a character that YAML does not allow"),
    ("# \u2028\u2028\nhostname: a\nusers\n", "4:1", "no ':'"),
]


@pytest.mark.parametrize(("text", "place", "message"), CASES)
def test_a_mistake_is_where_it_is(text: str, place: str, message: str) -> None:
    found = finding.errors(validate.validate((HEAD + text).encode()))
    assert f"{found[0].line}:{found[0].column}" == place
    assert message in found[0].message


TEXT = st.text(alphabet=st.sampled_from(list("abc:-_[]{}|>&*!%@#,?'\" \n\t0~\\\r\u2028\u0085\ufeffé😀")), max_size=80)
BROKEN = st.tuples(st.sampled_from([case[0] for case in CASES]), st.integers(0, 60), TEXT).map(
    lambda made: made[0][: made[1]] + made[2] + made[0][made[1] :]
)


def within(text: str, line: int, column: int) -> bool:
    lines = text.split("\n")
    return 1 <= line <= len(lines) and 1 <= column <= len(lines[line - 1]) + 1


@given(TEXT | BROKEN)
@settings(max_examples=500)
def test_a_place_always_lies_within_the_text(text: str) -> None:
    for one in yamltree.read(text).findings:
        assert within(text, one.line, one.column)
        assert one.message


@pytest.mark.parametrize("break_", ["\x85", "\u2028", "\u2029", "\r"])
def test_lines_are_those_of_editors(break_: str) -> None:
    """YAML 1.1 breaks lines in more places than they do."""
    found = yamltree.read(f"a: 'b{break_}c'\nd: !x e\n").findings
    assert [(one.line, one.column) for one in found] == [(2, 4)]


@given(TEXT, st.integers(-3, 100))
def test_positions(text: str, offset: int) -> None:
    line, column = yamlplace.position(text, offset)
    assert within(text, line, column)
    if 0 <= offset < len(text):
        assert sum(len(row) + 1 for row in text.split("\n")[: line - 1]) + column - 1 == offset


@given(BROKEN)
@settings(max_examples=200)
def test_what_is_above_does_not_move_a_mistake(text: str) -> None:
    """The same mistake below lines that are right is the same mistake, so many lines further down."""
    first = [one for one in yamltree.read("a: b\n" + text).findings if "YAML:" in one.message][:1]
    second = [one for one in yamltree.read("# c\n\na: b\n" + text).findings if "YAML:" in one.message][:1]
    assert [(one.line + 2, one.column) for one in first] == [(one.line, one.column) for one in second]
