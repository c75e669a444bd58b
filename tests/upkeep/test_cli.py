"""The keeper on a disk whose things have sizes, and the command itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import Failure, UsageFailure
from upkeep.cli import Keeper, Limits, measured, run
from upkeep.journal import Event
from upkeep.space import Container, Fill, Holdings, Image
from upkeep.status import Status

RUNNING = Container("c1", "web", "i1", "running", 0)
ENDED = Container("c2", "job", "i2", "exited", 0)
USED, OF_ENDED, UNUSED = Image("i1", ("web:1",), 0), Image("i2", ("job:1",), 1), Image("i3", ("old:1", "old:2"), 2)


class Disk:
    """100 bytes, ``sizes`` of them taken by things of docker, ``other`` by something else.

    Docker refuses what ``refuses`` names.
    """

    def __init__(self, things: Mapping[Container | Image, int], other: int = 0, refuses: Sequence[str] = ()) -> None:
        self.things, self.other, self.refuses = dict(things), other, refuses
        self.events: list[tuple[Event, str]] = []
        self.is_silent = False

    def holdings(self) -> Holdings:
        if self.is_silent:
            raise Failure("docker does not answer")
        return Holdings(
            [each for each in self.things if isinstance(each, Container)],
            [each for each in self.things if isinstance(each, Image)],
        )

    def remove(self, what: Container | Image) -> bool:
        if what.id in self.refuses:
            raise Failure("docker refused: no space left on device")
        return self.things.pop(what, None) is not None

    def measure(self) -> list[Fill]:
        used = self.other + sum(self.things.values())
        return [Fill.of("/var", 1, 100, 100 - used, 100 - used)]

    def look(self, before: Status = Status(), now: float = 1000, limits: Limits = Limits(rest_s=0)) -> Status:  # noqa: B008
        keeper = Keeper(limits, self.measure, self, lambda event, words, _: self.events.append((event, words)))
        status, self.trouble = keeper.look(before, now)
        return status

    def reported(self) -> list[Event]:
        return [event for event, _ in self.events]


def test_it_stops_as_soon_as_there_is_room() -> None:
    disk = Disk({RUNNING: 10, ENDED: 20, USED: 20, OF_ENDED: 20, UNUSED: 20})
    status = disk.look()
    assert list(disk.things) == [RUNNING, USED, OF_ENDED, UNUSED]
    assert status.removed == {"container": 1}
    assert disk.reported() == [Event.FILLING, Event.REMOVED, Event.ROOM_AGAIN]
    assert disk.events[1][1].startswith("removed the container job: unused for at least 0 min")
    assert (status.above, status.stuck, set(status.idle)) == ((), False, {"i2", "i3"})


def test_below_the_threshold_nothing_goes() -> None:
    disk = Disk({RUNNING: 10, ENDED: 20, USED: 20, OF_ENDED: 20, UNUSED: 15})
    status = disk.look()
    assert (len(disk.things), status.removed, disk.events) == (5, {}, [])
    assert status.idle == {"c2": 1000, "i2": 1000, "i3": 1000}, "but it is known how long they have been idle"


def test_what_runs_stays_however_full_it_is_and_that_is_reported_once() -> None:
    disk = Disk({RUNNING: 50, USED: 45, UNUSED: 1})
    status = disk.look()
    assert list(disk.things) == [RUNNING, USED]
    assert status.stuck
    assert disk.reported() == [Event.FILLING, Event.REMOVED, Event.STUCK]
    status = disk.look(status)
    assert disk.reported()[3:] == []
    assert status.removed == {"image": 1}
    disk.things[RUNNING] = 5
    assert not disk.look(status).stuck
    assert disk.reported()[3:] == [Event.ROOM_AGAIN]


def test_what_was_used_a_moment_ago_goes_at_a_later_look() -> None:
    disk = Disk({UNUSED: 90})
    limits = Limits(rest_s=120)
    first = disk.look(now=1000, limits=limits)
    assert (list(disk.things), first.stuck, disk.reported()) == ([UNUSED], False, [Event.FILLING])
    second = disk.look(Status.parse(json.dumps(first.json())), now=1120, limits=limits)
    assert (list(disk.things), second.removed) == ([], {"image": 1})


def test_docker_s_refusal_does_not_keep_the_rest() -> None:
    disk = Disk({ENDED: 30, UNUSED: 60}, refuses=["c2"])
    disk.look()
    assert list(disk.things) == [ENDED]
    assert str(disk.trouble) == "docker refused: no space left on device"


def test_a_docker_that_is_silent_loses_no_state() -> None:
    disk = Disk({UNUSED: 90})
    disk.is_silent = True
    status = disk.look(Status(idle={"i3": 7}, removed={"image": 2}))
    assert (status.idle, status.removed, str(disk.trouble)) == ({"i3": 7}, {"image": 2}, "docker does not answer")


def test_without_docker_it_only_reports() -> None:
    events: list[Event] = []
    keeper = Keeper(Limits(), lambda: [Fill("/var", 100, 99)], None, lambda event, *_: events.append(event))
    status, trouble = keeper.look(Status(), 0)
    assert (status.above, trouble, events) == (("/var",), None, [Event.FILLING])


THINGS = st.dictionaries(st.sampled_from([RUNNING, ENDED, USED, OF_ENDED, UNUSED]), st.integers(0, 20))


@given(THINGS, st.integers(0, 30), st.sets(st.sampled_from(["c2", "i2", "i3"])))
def test_it_frees_enough_or_all_that_may_go(
    things: Mapping[Container | Image, int], other: int, refused: set[str]
) -> None:
    disk = Disk(things, min(other, 100 - sum(things.values())), tuple(refused))
    was_above = disk.measure()[0].percent > 85
    status = disk.look()
    assert {RUNNING} & things.keys() <= disk.things.keys()
    assert not was_above or disk.measure()[0].percent <= 80 or {each.id for each in disk.holdings().idle()} <= refused
    assert was_above or disk.things == dict(things)
    again = disk.look(status)
    assert (again.removed, again.above) == (status.removed, status.above), "a second look changes nothing"


def test_one_file_system_is_measured_once(tmp_path: Path) -> None:
    (found,) = measured((tmp_path, tmp_path / "docker"))
    assert found.path == str(tmp_path)
    (tmp_path / "docker").mkdir()
    assert [each.path for each in measured((tmp_path, tmp_path / "docker"))] == [str(tmp_path)]
    assert [each.path for each in measured((Path("/proc"), tmp_path))] == ["/proc", str(tmp_path)]


@pytest.mark.parametrize("words", [["--above", "70"], ["--above", "101"], ["--below", "-1"], ["--above", "nan"]])
def test_thresholds_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageFailure, match="from above"):
        run(words)
