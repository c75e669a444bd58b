"""The table of where the time went: its parts are the whole, with one worker and with many."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.recording import Recording, Report
from tests.runner.timetable import (
    BETWEEN,
    HABITS,
    IMAGE_FIXTURES,
    IMAGES,
    SECOND,
    SETUP,
    START,
    TOTAL,
    Row,
    lines,
    rows,
)
from tests.runner.verdict import Run

ROOT = Path(__file__).parents[2]


def by_phase(reports: list[Report], second: int = 0, now: float = 200.0) -> dict[str, Row]:
    """scripts/setup from 90 to 100, pytest from there."""
    first = Run(Recording(tuple(reports)), 0, begin=100.0, seconds=80.0)
    return {row.phase: row for row in rows(first, [Run(Recording(), 0, seconds=5.0)] * second, 90.0, now)}


def test_who_took_what() -> None:
    table = by_phase(
        [
            Report("tests/test_habits.py::test_types", "call", "passed", 102.0, 10.0),
            Report("tests/test_wheel.py::test_it", "call", "passed", 112.0, 1.0),
            Report("tests/etcd/test_client.py::test_it", "setup", "passed", 113.0, 2.0),
            Report("tests/etcd/test_client.py::test_it", "call", "passed", 115.0, 1.0),
            Report("tests/etcd/test_client.py::test_it", "teardown", "passed", 116.0, 1.0),
            Report("tests/fleet/api/test_x.py::test_it", "call", "passed", 118.0, 1.0),
            Report("vm-tests/test_story.py::test_it", "setup", "passed", 120.0, 30.0, {"image": 4.0, "redis_archive": 6.0, "cluster": 20.0}),
            Report("vm-tests/test_story.py::test_it", "call", "failed", 150.0, 5.0),
            Report("vm-tests/chaos/test_chaos.py::test_it", "call", "passed", 155.0, 7.0),
        ],
        second=2,
    )  # fmt: skip
    assert table == {
        SETUP: Row(SETUP, 0, 0.0, 0.0, 10.0),
        START: Row(START, 0, 0.0, 0.0, 2.0),
        HABITS: Row(HABITS, 1, 0.0, 10.0, 10.0),
        "tests/*.py": Row("tests/*.py", 1, 0.0, 1.0, 1.0),
        "tests/etcd": Row("tests/etcd", 1, 3.0, 1.0, 4.0),
        "tests/fleet": Row("tests/fleet", 1, 0.0, 1.0, 1.0),
        IMAGES: Row(IMAGES, 0, 10.0, 0.0, 10.0),
        "vm-tests/chaos/test_chaos.py": Row("vm-tests/chaos/test_chaos.py", 1, 0.0, 7.0, 7.0),
        "vm-tests/test_story.py": Row("vm-tests/test_story.py", 1, 20.0, 5.0, 25.0),
        SECOND: Row(SECOND, 2, 0.0, 0.0, 10.0),
        BETWEEN: Row(BETWEEN, 0, 0.0, 0.0, 30.0),
        TOTAL: Row(TOTAL, 6, 33.0, 25.0, 110.0),
    }
    text = lines(list(table.values()))
    assert len({len(line) for line in text[:-1]}) == 1
    assert text[0].split() == ["where", "the", "time", "went", "tests", "set-up", "s", "bodies", "s", "wall", "s"]
    assert text[3].endswith("      1         -      10.0    10.0")
    assert text[-1] == "vm-tests: 20.0 s to boot, restore and end what they run on, 12.0 s of tests"


def test_two_workers_are_busy_for_more_than_the_wall_has() -> None:
    table = by_phase(
        [
            Report("tests/a/test_a.py::test_it", "call", "passed", 100.0, 10.0),
            Report("tests/b/test_b.py::test_it", "call", "passed", 104.0, 4.0),
        ]
    )
    assert (table["tests/a"].bodies_s, table["tests/a"].wall_s) == (10.0, 8.0)
    assert (table["tests/b"].bodies_s, table["tests/b"].wall_s) == (4.0, 2.0)
    assert table[TOTAL].wall_s == 110.0


def test_a_test_whose_worker_died_counts_and_has_no_time() -> None:
    dead = Report("tests/b/test_b.py::test_it", "???", "failed", 0.0, 0.0)
    table = by_phase([Report("tests/a/test_a.py::test_it", "call", "passed", 110.0, 10.0), dead])
    assert (table[START].wall_s, table["tests/a"].wall_s, table[TOTAL].wall_s) == (10.0, 10.0, 110.0)
    assert table["tests/b"] == Row("tests/b", 1, 0.0, 0.0, 0.0)


def test_of_a_run_without_tests_all_is_pytests() -> None:
    table = by_phase([])
    assert table[START].wall_s == 80.0
    assert table[TOTAL].wall_s == 110.0


reports = st.builds(
    Report,
    st.sampled_from(["tests/a/x.py::t", "tests/b/x.py::t", "vm-tests/x.py::t", "x.py::t", "tests/test_habits.py::t"]),
    st.sampled_from(["setup", "call", "teardown"]),
    st.just("passed"),
    st.integers(100, 170).map(float),
    st.integers(0, 10).map(float),
    st.dictionaries(st.sampled_from(["image", "other"]), st.integers(0, 12).map(float)),
)


@given(st.lists(reports, max_size=12))
def test_the_parts_are_the_whole(some: list[Report]) -> None:
    table = by_phase(some)
    total = table.pop(TOTAL)
    assert total.wall_s == pytest.approx(110.0)
    assert sum(row.wall_s for row in table.values()) == pytest.approx(110.0)
    assert all(row.wall_s >= 0 for row in table.values())
    assert total.fixtures_s + total.bodies_s == pytest.approx(sum(report.seconds for report in some))
    assert total.tests == len({report.nodeid for report in some})


def test_the_fixtures_that_build_are_those_that_the_table_knows() -> None:
    """All of vm-tests/ that call the builder themselves; ``desk`` builds a box and then boots a computer, which takes
    longer.
    """
    found = set()
    for path in (ROOT / "vm-tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "fixture" in ast.unparse(each) for each in node.decorator_list
            ):
                called = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
                if called & {"build_image", "build_container"}:
                    found.add(node.name)
    assert found == IMAGE_FIXTURES | {"desk"}
