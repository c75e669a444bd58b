"""Events reach the journal as systemd's protocol has them, whatever is in a name."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upkeep.journal import Event, datagram, report


@given(st.text(), st.text())
def test_no_name_adds_a_line(message: str, name: str) -> None:
    lines = datagram(Event.REMOVED, message, {"ROOM_NAME": name}, 5).decode().splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "MESSAGE",
        "MESSAGE_ID",
        "PRIORITY",
        "SYSLOG_IDENTIFIER",
        "ROOM_NAME",
    ]


def test_an_event_is_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        report(Event.FILLING, "/var is 91 % full", {"ROOM_PERCENT": "91"}, path=path)
        said = journal.recv(1 << 16).decode()
    assert f"MESSAGE=/var is 91 % full\nMESSAGE_ID={Event.FILLING.value}\nPRIORITY=4\n" in said
    assert said.endswith("ROOM_PERCENT=91\n")


def test_without_a_journal_it_is_reported_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(Event.STUCK, "/var is\n full", path=str(tmp_path / "none"))
    assert capsys.readouterr().err == "/var is  full\n"


def test_each_event_has_an_id_of_its_own() -> None:
    assert len({uuid.UUID(hex=event.value) for event in Event}) == len(Event)
