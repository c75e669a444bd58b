"""Why a unit is not as requested, from systemd's properties and the journal's entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.agent.journal import last_lines, said
from fleet.agent.sight import LOG_LINES, LOG_WIDTH, Explanation, Seen, is_refusal, look, why
from fleet.agent.steps import SystemdState
from tests.fleet.world import FakeSystemd

FAILED = SystemdState("loaded", "failed", "failed")
DEAD = SystemdState("loaded", "inactive", "dead")
RUNS = SystemdState("loaded", "active", "running")


def command(path: str, code: int, status: int, *, is_ignored: bool = False) -> tuple[object, ...]:
    return (path, [path], is_ignored, 1, 2, 3, 4, 99, code, status)


@pytest.mark.parametrize(
    ("properties", "state", "result", "note"),
    [
        (
            {"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 203, "ExecStart": [command("/nope", 1, 203)]},
            FAILED,
            "done",
            "it failed (exit-code): ExecStart=/nope exited with 203/EXEC",
        ),
        (
            {"Result": "exit-code", "ExecStartPre": [command("/ok", 1, 0), command("/bad", 1, 7)], "ExecMainCode": 0},
            FAILED,
            "failed",
            "it failed (exit-code): ExecStartPre=/bad exited with 7",
        ),
        (
            {"Result": "oom-kill", "ExecMainCode": 2, "ExecMainStatus": 9},
            FAILED,
            "",
            "it failed (oom-kill): its main process was killed by SIGKILL",
        ),
        (
            {"Result": "core-dump", "ExecMainCode": 3, "ExecMainStatus": 99},
            FAILED,
            "",
            "it failed (core-dump): its main process was killed by signal 99",
        ),
        (
            {"Result": "timeout", "ExecStartPre": [command("/x", 1, 1, is_ignored=True)]},
            FAILED,
            "failed",
            "it failed (timeout)",
        ),
        ({}, FAILED, "failed", "it failed (unknown)"),
        (
            {"Asserts": [("AssertPathExists", False, False, "/", 1), ("AssertPathExists", False, True, "/nope", -1)]},
            DEAD,
            "assert",
            "systemd refused to start it: AssertPathExists=!/nope does not hold",
        ),
        ({}, DEAD, "assert", "systemd refused to start it: an assertion of its unit file does not hold"),
        ({}, DEAD, "failed", "systemd refused to start it: it did not even try, see its log"),
        ({}, DEAD, "timeout", "systemd refused to start it: its start job waited too long"),
        ({}, DEAD, "canceled", "another job cancelled its start"),
        (
            {"ConditionResult": False, "Conditions": [("ConditionPathExists", True, False, "/x", -1)]},
            DEAD,
            "done",
            "it was skipped: ConditionPathExists=|/x does not hold",
        ),
        ({"ConditionResult": True, "Result": "success"}, DEAD, "done", ""),
        ({"Result": "success"}, RUNS, "done", ""),
    ],
)
def test_why(properties: dict[str, object], state: SystemdState, result: str, note: str) -> None:
    assert why(properties, state, result) == note


@pytest.mark.parametrize(
    ("result", "state", "refused"),
    [
        ("dependency", DEAD, True),
        ("failed", DEAD, True),
        ("failed", FAILED, False),
        ("failed", SystemdState("loaded", "activating", "auto-restart"), False),
        ("canceled", DEAD, False),
        ("done", DEAD, False),
        ("skipped", RUNS, False),
    ],
)
def test_what_was_not_started_and_what_failed(result: str, state: SystemdState, refused: bool) -> None:
    assert is_refusal(result, state) is refused


def test_a_look_explains_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    systemd = FakeSystemd(tmp_path)
    systemd.active["runs.service"] = True
    systemd.ended |= {"known.service": FAILED, "fails.service": FAILED, "y.service": FAILED}
    systemd.properties_of["fails.service"] = {"Result": "exit-code", "InvocationID": [0xAB, 0xCD]}
    systemd.properties_of["needs.service"] = {"Requires": ["y.service", "runs.service"], "InvocationID": [1]}
    names = ["runs.service", "known.service", "fails.service", "needs.service", "idle.service"]
    seen = look(names, systemd, {"runs.service": "done", "needs.service": "dependency"}, {"known.service"})
    assert isinstance(seen, Seen)
    assert seen.explanations == {
        "fails.service": Explanation("it failed (exit-code)", tuple(f"abcd: line {each}" for each in range(15, 20))),
        "needs.service": Explanation(
            "systemd refused to start it: a unit that it needs did not start: y.service is failed",
            tuple(f"systemd: line {each}" for each in range(15, 20)),
        ),
    }
    assert seen.ended == {"runs.service": "done", "needs.service": "dependency"}


def test_long_lines_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = FakeSystemd(tmp_path)
    systemd.ended["x.service"] = FAILED
    monkeypatch.setattr(systemd, "journal", lambda *_: ["x" * 10_000] * 100)
    log = look(["x.service"], systemd, {}).explanations["x.service"].log
    assert [len(line) for line in log] == [LOG_WIDTH] * LOG_LINES


def entries(*fields: Mapping[str, object]) -> bytes:
    return b"\n".join(json.dumps(each).encode() for each in fields)


def test_the_units_own_words_come_first() -> None:
    mine = {"MESSAGE": "out of \x1b[31mcheese\nand wine", "_PID": "77"}
    systemds = {"MESSAGE": "Failed with result 'exit-code'.", "_PID": "1"}
    assert said(entries(systemds, mine, systemds)) == ["out of ?[31mcheese", "and wine"]
    assert said(entries(systemds)) == ["Failed with result 'exit-code'."]
    assert said(entries({"MESSAGE": [0xFF, 0x61]}, {"MESSAGE": None}, {"MESSAGE": [1000]})) == ["\ufffda"]


def test_a_line_that_names_no_run_belongs_to_it_by_its_time() -> None:
    """A process that ends at once is gone when the journal looks for its run."""
    run = {"_SYSTEMD_INVOCATION_ID": "ab", "__REALTIME_TIMESTAMP": "1"}
    late = {"__REALTIME_TIMESTAMP": "5000001"}
    found = said(
        entries(
            {"MESSAGE": "of this run", **run},
            {"MESSAGE": "of another", **run, "_SYSTEMD_INVOCATION_ID": "cd"},
            {"MESSAGE": "of no run, before", **run, "_SYSTEMD_INVOCATION_ID": ""},
            {"MESSAGE": "of no run", **late},
            {"MESSAGE": "when?", "__REALTIME_TIMESTAMP": "soon"},
        ),
        "ab",
        5_000_000,
    )
    assert found == ["of this run", "of no run"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["MESSAGE", "_PID", "__REALTIME_TIMESTAMP"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(st.lists(st.binary(max_size=40) | _json.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_whatever_the_journal_says_is_lines_that_can_be_shown(lines: list[Any]) -> None:
    for line in [*said(b"\n".join(lines)), *said(b"\n".join(lines), "ab", 1)]:
        assert line.replace("\t", "").isprintable()


def test_a_machine_without_a_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert last_lines("x.service", "00" * 16, 0) == []
