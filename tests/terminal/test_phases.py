"""Progress reads well in a log and on a terminal."""

import io
import os
import pty
import re
import select
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from terminal import Phases
from tests.eventually import WITHIN_S

SECONDS = re.compile(r"\(\d+\.\d s\)")


def steady(text: str) -> str:
    """``text`` without what differs from run to run."""
    return SECONDS.sub("(T)", text)


def test_a_log_says_what_began_and_what_ended() -> None:
    log = io.StringIO()
    phases = Phases(log)
    with phases.phase("outer"):
        phases.detail("not in a log")
        with phases.phase("inner"):
            phases.line("said")
    assert steady(log.getvalue()) == "... outer\n... inner\nsaid\nok  inner (T)\nok  outer (T)\n"
    assert list(phases.seconds) == ["inner", "outer"]


def test_a_failed_phase_says_so_and_lets_the_error_through() -> None:
    log = io.StringIO()
    phases = Phases(log)
    with pytest.raises(ZeroDivisionError), phases.phase("division"):
        raise ZeroDivisionError
    assert steady(log.getvalue()) == "... division\n!!  division (T)\n"
    assert phases.seconds["division"] >= 0


def test_quiet_is_quiet() -> None:
    log = io.StringIO()
    with Phases(log, quiet=True).phase("x"):
        pass
    assert log.getvalue() == ""


def read_all(leader: int) -> Iterator[bytes]:
    """What the other end wrote before it was closed: it comes in pieces, and Linux ends it with an error."""
    with suppress(OSError):
        while piece := os.read(leader, 65536):
            yield piece


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, awaited: bytes = b"") -> str:
    """What a terminal receives from a phase with a detail that is longer than the terminal is wide, and that lasts
    until ``awaited`` is there.
    """
    monkeypatch.setenv("COLUMNS", "40")
    leader, follower = pty.openpty()
    received = b""
    try:
        with os.fdopen(follower, "w") as terminal:
            phases = Phases(terminal)
            with phases.phase("fetch"):
                phases.detail("a [package]\n" + "x" * 100)
                while awaited not in received:
                    assert select.select([leader], [], [], WITHIN_S)[0], "the live line was never painted"
                    received += os.read(leader, 65536)
                if not awaited:
                    time.sleep(0.35)  # in which a live line would be painted thrice
                phases.line("stays")
        return (received + b"".join(read_all(leader))).decode()
    finally:
        os.close(leader)


def test_a_terminal_has_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    written = on_a_terminal(monkeypatch, b"(0 s): a [package] xxx")
    assert "(0 s): a [package] xxx" in written
    frames = [frame for frame in written.split("\r\x1b[K") if frame]
    live = [frame for frame in frames if not frame.endswith("\n")]
    assert live, "the live line was never painted"
    assert max(len(frame) for frame in live) <= 39, "a wrapped line could not be erased"
    assert [steady(frame).rstrip() for frame in frames if frame.endswith("\n")] == ["stays", "ok  fetch (T)"]


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_no_control_characters_where_no_person_reads(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in on_a_terminal(monkeypatch)
