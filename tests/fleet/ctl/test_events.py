"""``fleetctl events``: what it prints, and which times it takes."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.ctl import events
from fleet.ctl.client import Happened
from fleet.model.events import Event, Kind
from tests.fleet.ctl.conftest import A, B, Fleetctl, World

EPOCH = 1_800_000_000.0


def write(world: World, *what: Event, at: float = EPOCH) -> None:
    world.log.clock = lambda: at
    world.client.txn([], [world.log.put(what, f"fleetd {A}")])


def test_the_log(fleetctl: Fleetctl, world: World) -> None:
    write(world, Event(Kind.PLACED, "x.service", A, reason="least loaded"))
    write(world, Event(Kind.MOVED, "x.service", B, A), Event(Kind.LEFT, machine=A), at=EPOCH + 60)
    said = fleetctl("events")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "2027-01-15T08:00:00Z placed            x.service aaaaaaaa by fleetd aaaaaaaa: least loaded",
        "2027-01-15T08:01:00Z moved             x.service aaaaaaaa -> bbbbbbbb by fleetd aaaaaaaa",
        "2027-01-15T08:01:00Z machine-left      aaaaaaaa by fleetd aaaaaaaa",
    ]
    assert A in fleetctl("events", "--full").out
    assert len(fleetctl("events", "--unit", "x").out.splitlines()) == 2
    assert len(fleetctl("events", "--machine", "bbb").out.splitlines()) == 1
    assert len(fleetctl("events", "--since", "2027-01-15T08:00:30").out.splitlines()) == 2


def test_json(fleetctl: Fleetctl, world: World) -> None:
    write(world, Event(Kind.FAILED, "x.service", A, reason="it failed"))
    (line,) = fleetctl("events", "--json").out.splitlines()
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.000Z",
        "kind": "failed",
        "unit": "x.service",
        "machine": A,
        "former": "",
        "by": f"fleetd {A}",
        "reason": "it failed",
    }


def test_what_a_user_does_is_there(fleetctl: Fleetctl, unit_file: Callable[..., Path]) -> None:
    unit_file()
    for command in ("start", "stop", "destroy"):
        assert fleetctl(command, "hello.service").code == 0
    user = pwd.getpwuid(os.getuid()).pw_name
    rows = [json.loads(line) for line in fleetctl("events", "--json").out.splitlines()]
    assert [(each["kind"], each["unit"], each["by"]) for each in rows] == [
        (kind, "hello.service", user) for kind in ("submitted", "started", "stopped", "destroyed")
    ]


def test_control_characters_do_not_reach_the_terminal(fleetctl: Fleetctl, world: World) -> None:
    write(world, Event("a\x1b[31mb", "x.service", reason="\r\x9b"))
    assert not set(fleetctl("events").out) & {"\x1b", "\r", "\x9b"}


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("2d", 172800)])
def test_times_ago(text: str, ago: float) -> None:
    before = time.time()
    assert before - ago - 0.01 <= events._since(text) <= time.time() - ago + 0.01


def test_points_in_time() -> None:
    assert events._since("2027-01-15T08:00:00Z") == EPOCH
    assert events._since("2027-01-15 08:00") == EPOCH, "UTC, as it is printed"
    assert events._since("2027-01-15T10:00:00+02:00") == EPOCH


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-5m", "9e9d", "1" * 400 + "s"])
def test_other_times_are_refused(fleetctl: Fleetctl, text: str) -> None:
    said = fleetctl("events", f"--since={text}")
    assert said.code == 2
    assert "is no time" in said.err


def test_who_removed_it_and_from_where() -> None:
    removed = Happened("2027-01-15T08:00:00.000Z", "removed", "x.service", "", B, "local", "destroyed")
    assert (
        events.line(removed)
        == "2027-01-15T08:00:00Z removed           x.service bbbbbbbb -> nowhere by local: destroyed"
    )
