"""The record of what was done to a cluster, and faults that heal."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.client.fault import Fault
from cluster.model.timeline import Event, Timeline, read
from terminal import Failure


def test_what_was_written_is_read_in_order(tmp_path: Path) -> None:
    ticks = iter([1.5, 2.5])
    timeline = Timeline(tmp_path / "timeline.jsonl", lambda: next(ticks))
    timeline.record("fault", "cut node-1 -> node-2", [1, 2], id=7)
    timeline.record("mark", "half way")
    assert read(tmp_path / "timeline.jsonl") == [
        Event(1.5, "fault", "cut node-1 -> node-2", (1, 2), 7),
        Event(2.5, "mark", "half way"),
    ]


def test_there_may_be_no_file_or_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    assert read(path) == []
    Timeline(path).record("mark", "one")
    with path.open("a") as file:
        file.write('{"t": 1')
    assert [event.what for event in read(path)] == ["one"]


@pytest.mark.parametrize(
    "line", ["[" * 5000, "{}", "1", '{"t": Infinity, "kind": "mark", "what": "x"}', '{"t": 1, "kind": 2, "what": "x"}']
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "timeline.jsonl"
    Timeline(path).record("mark", "one")
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(Failure, match="this is no timeline") as failure:
        read(path)
    assert failure.value.where == f"{path} line 2"


def test_what_there_is_no_room_for_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    path.symlink_to("/dev/full")
    timeline = Timeline(path)
    timeline.record("power", "one")
    timeline.record("power", "two")
    path.unlink()
    timeline.record("power", "three")
    assert [event.what for event in read(path)] == ["one", "two", "three"]


def test_a_fault_heals_once_and_when_its_block_ends() -> None:
    healed: list[int] = []
    with Fault("pause node-2", lambda: healed.append(1)) as fault:
        assert str(fault) == "pause node-2"
        assert not fault.healed
    fault.heal()
    assert healed == [1]


def test_a_healing_that_fails_can_be_tried_again() -> None:
    answers = iter([OSError("busy"), None])

    def heal() -> None:
        if (error := next(answers)) is not None:
            raise error

    fault = Fault("x", heal)
    with pytest.raises(OSError, match="busy"):
        fault.heal()
    fault.heal()
    assert fault.healed
