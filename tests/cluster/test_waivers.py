"""A waiver has a pattern, a reason and a last day; a bad or old one is an error that says where it stands."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from cluster.testing.scan import scan
from cluster.testing.waivers import load, unwaived, waiver
from terminal import UsageFailure

TODAY = dt.date(2026, 11, 23)
(OOM,) = scan(["Out of memory: Killed process 9 (stress)"], node="node-2", source="console")


@pytest.mark.parametrize(
    ("pattern", "test", "covers"),
    [
        ("Killed process", "", True),
        (r"^oom on node-2: Out of memory: Killed process \d+ \(stress\)$", "", True),
        ("oom on node-1", "", False),
        ("Killed process", "test_memory", True),
        ("Killed process", "test_other", False),
    ],
)
def test_what_it_covers(pattern: str, test: str, covers: bool) -> None:
    given = waiver(pattern, "issue 41", "2027-01-31", "here", test)
    assert unwaived([OOM], [given], "tests/test_memory.py::test_memory[1]") == ([] if covers else [OOM])


def test_it_ends() -> None:
    given = waiver("x", "issue 41: they are on it", "2026-11-23", "waivers.yaml:3")
    given.require_valid(TODAY)
    with pytest.raises(UsageFailure, match=r"ended on 2026-11-23 .*they are on it") as caught:
        given.require_valid(TODAY + dt.timedelta(days=1))
    assert caught.value.where == "waivers.yaml:3"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(
        "# known\n- pattern: 'Killed process'\n  reason: issue 41\n  until: 2027-01-31\n"
        "- {pattern: panic, reason: 'issue 42', until: '2027-02-01', test: test_x}\n"
    )
    first, second = load(path)
    assert (first.until, second.until) == (dt.date(2027, 1, 31), dt.date(2027, 2, 1))
    assert (first.where, second.where) == (f"{path}:2", f"{path}:5")
    assert unwaived([OOM], [first, second], "any") == []
    path.write_text("# none yet\n")
    assert load(path) == []


@pytest.mark.parametrize(
    ("text", "where", "complaint"),
    [
        ("- reason: r\n  until: 2027-01-31\n", ":1", "needs a pattern"),
        ("- pattern: x\n  until: 2027-01-31\n", ":1", "needs a reason"),
        ("- pattern: x\n  reason: r\n", ":1", "needs the last day"),
        ("\n- {pattern: x, reason: r, until: soon}\n", ":2", "'soon' is no day"),
        ("- {pattern: '(', reason: r, until: 2027-01-31}\n", ":1", "no regular expression"),
        ("- {pattern: x, reason: r, until: 2027-01-31, tset: y}\n", ":1", "has no tset"),
        ("- x\n", ":1", "is a mapping"),
        ("pattern: x\n", "", "are a list"),
        ("- [\n", "", "are no YAML"),
        ("\x00", "", "are no YAML"),
    ],
)
def test_mistakes_are_reported(text: str, where: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(text)
    with pytest.raises(UsageFailure, match=complaint) as caught:
        load(path)
    assert caught.value.where == f"{path}{where}"


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="cannot be read"):
        load(tmp_path / "none.yaml")
