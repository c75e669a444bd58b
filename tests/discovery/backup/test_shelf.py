"""Names of backups, and the state of them, from any text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.backup.shelf import Backup, Shelf, require_whole
from discovery.backup.state import Last, State
from terminal import Failure

BACKUPS = st.builds(
    Backup,
    taken=st.integers(0, 4_000_000_000),
    revision=st.integers(0, 2**63 - 1),
    keys=st.integers(0, 2**63 - 1),
    raft_index=st.integers(0, 2**64 - 1),
    hash=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**40),
)


@given(BACKUPS)
def test_a_name_says_all(backup: Backup) -> None:
    assert Backup.parse(backup.name, backup.size) == backup
    assert "/" not in backup.name


@given(st.one_of(st.text(), st.from_regex(r"[0-9]{8}T[0-9]{6}Z-r[0-9]+-k[0-9]+-i[0-9]+-h[0-9a-f]{8}\.db")))
def test_any_name_is_a_backups_or_none(name: str) -> None:
    found = Backup.parse(name, 1)
    assert found is None or found.name == name


@given(BACKUPS, st.text())
def test_a_state_comes_back(backup: Backup, trouble: str) -> None:
    state = State(Last.of(backup), 5, 6, trouble, 7, 8)
    assert State.parse(json.dumps(state.json())) == state


@given(st.text())
def test_any_text_is_a_state_or_none(text: str) -> None:
    assert State.parse(text) is None


@pytest.mark.parametrize("text", ["{}", '{"v": 2}', '{"v": 1, "last": 5}', '{"v": 1, "more": 5}', "[]", "null"])
def test_what_is_no_state(text: str) -> None:
    assert State.parse(text) is None


def test_a_shelf_that_is_not_there_is_empty(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "none")
    assert shelf.backups() == []
    assert State.on(shelf) == State()
    assert not shelf.path.exists()


def test_what_an_earlier_run_left_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    with shelf.holding():
        staged = shelf.stage([b"1"])
        shelf.scratch.mkdir()
        kept = shelf.path.with_name("kept")
        staged.rename(kept)
    kept.rename(staged)
    shelf.scratch.mkdir()
    with shelf.holding():
        assert list(shelf.path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 32, 512, 543])
def test_no_file_is_a_snapshot_by_its_length(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(Failure, match="cut off"):
        require_whole(tmp_path / "file")


def test_metrics_leave_out_what_is_not_known() -> None:
    assert "last_success" not in State().metrics()
    assert "flotilla_etcd_backup_failed 0\n" in State().metrics()
    text = State(Last(5, 6, 7, 8, 9, 10), trouble="no").metrics()
    assert "flotilla_etcd_backup_last_success_timestamp_seconds 5\n" in text
    assert "flotilla_etcd_backup_failed 1\n" in text
    assert len(text.splitlines()) % 3 == 0
