"""Waiting for units and for anything else: an end as soon as hope is gone, and an error that says what was seen last."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast

import pytest

from cluster.client import unit as units
from cluster.client.eventually import NeverHappened, eventually
from cluster.client.node import Node
from cluster.client.unit import Unit, UnitFailed, parse, state_of
from terminal import Failure

JOURNAL = "web.sh[77]: no such port"


class Scripted:
    """A node whose systemd gives the answers of a list, the last one for ever; "?" is a node that cannot be reached."""

    name, factor = "node-1", 2.0

    def __init__(self, answers: Iterable[str]) -> None:
        self.answers = list(answers)
        self.commands: list[str] = []

    def ask(self, command: str, timeout: float | None = None) -> str:
        self.commands.append(command)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "?":
            raise Failure("the node cannot be reached by ssh", where=self.name)
        active, sub, *rest = answer.split()
        job = rest[0] if rest else ""
        return f"LoadState=loaded\nActiveState={active}\nSubState={sub}\nResult=exit-code\nJob={job}\nNRestarts=3\n"

    def journal(self, unit: str | None = None, *, lines: int | None = None, since: str | None = None) -> str:
        assert (unit, lines) == ("web.service", units.JOURNAL_LINES)
        return JOURNAL


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "POLL_S", 0.001)


def web(*answers: str) -> Unit:
    return Unit(cast("Any", Scripted(answers)), "web.service")


class TestWaitActive:
    """``node.unit(name).wait_active()``."""

    @pytest.mark.parametrize(
        "answers",
        [
            ["active running"],
            ["reloading reload"],
            ["inactive dead 41", "activating start 41", "active running"],
            ["?", "activating auto-restart", "active exited"],
        ],
    )
    def test_it_returns(self, answers: list[str]) -> None:
        assert web(*answers).wait_active().active in ("active", "reloading")

    @pytest.mark.parametrize(
        ("answers", "why"),
        [
            (["failed failed"], "it has failed: exit-code"),
            (["activating start 41", "failed failed"], "it has failed: exit-code"),
            (["inactive dead"], "it is inactive, and no job is queued"),
            (["activating start 41", "inactive dead"], "it is inactive, and no job is queued"),
        ],
    )
    def test_it_gives_up_at_once_with_the_journal(self, answers: list[str], why: str) -> None:
        begin = time.monotonic()
        with pytest.raises(UnitFailed, match=why) as caught:
            web(*answers).wait_active(within=60)
        assert time.monotonic() - begin < 30
        assert JOURNAL in str(caught.value)
        assert "restarted 3 times" in str(caught.value)
        assert caught.value.where == "node-1"

    def test_a_unit_that_does_not_exist(self) -> None:
        assert (
            state_of(parse("LoadState=not-found\nActiveState=inactive\n")).hopeless == "it cannot be loaded: not-found"
        )

    def test_its_patience_is_scaled_and_ends(self) -> None:
        with pytest.raises(UnitFailed, match="not active within 0 s; it is activating"):
            web("activating start 41").wait_active(within=0.01)
        with pytest.raises(UnitFailed, match=r"out of sight .*cannot be reached"):
            web("?").wait_active(within=0.01)

    def test_it_asks_for_what_it_needs(self) -> None:
        unit = web("active running")
        assert unit.state().restarts == 3
        (command,) = cast("Scripted", unit.node).commands
        assert command.startswith("systemctl show --property=LoadState --property=ActiveState")
        assert command.endswith(" -- web.service")


def test_properties_may_have_many_lines() -> None:
    text = "Id=a\nExecStart={ path=/bin/a ; argv[]=/bin/a x=y }\nExecStart={ path=/bin/b }\nEnvironment=A=1\n  more\nEmpty=\n"
    assert parse(text) == {
        "Id": "a",
        "ExecStart": "{ path=/bin/a ; argv[]=/bin/a x=y }\n{ path=/bin/b }",
        "Environment": "A=1\n  more",
        "Empty": "",
    }


class TestEventually:
    """``cluster.eventually`` and ``node.poll``."""

    def test_the_first_true_answer(self) -> None:
        answers = iter([0, "", None, "yes", "later"])
        assert eventually(lambda: next(answers), 10, pause_s=0) == "yes"

    def test_what_it_raises_is_not_yet(self) -> None:
        tries = 0

        def predicate() -> bool:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise [AssertionError("not three"), Failure("off"), KeyError("leader")][tries - 1]
            return True

        assert eventually(predicate, 10, pause_s=0)

    def test_the_last_answer_is_reported(self) -> None:
        with pytest.raises(NeverHappened, match=r"^three members: not within 0 s \(1 tries\); last answer: \[\]$"):
            eventually(list, 0, what="three members")

    def test_the_last_trouble_is_reported_and_is_the_cause(self) -> None:
        trouble = Failure("the node cannot be reached by ssh", where="node-1")

        def predicate() -> bool:
            raise trouble

        with pytest.raises(NeverHappened, match=r"predicate: .*last trouble: Failure: node-1: the node") as caught:
            eventually(predicate, 0.01, pause_s=0.001)
        assert caught.value.__cause__ is trouble

    def test_a_mistake_of_the_asker_is_not_waited_out(self) -> None:
        with pytest.raises(TypeError):
            eventually(lambda: len(cast("Any", 3)), 60)

    def test_a_long_answer_is_cut(self) -> None:
        with pytest.raises(NeverHappened, match="9002 characters") as caught:

            def predicate() -> bool:
                raise AssertionError("x" * 9002)

            eventually(predicate, 0)
        assert len(str(caught.value)) < 3000


def test_a_node_has_them() -> None:
    assert {"poll", "get", "journal", "unit", "ask"} <= set(dir(Node))
