"""The queries to a node after a failure, answered by a real shell with stand-ins for systemd's and etcd's programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.client.node import Node
from cluster.model.run import RunResult
from cluster.report.evidence import commit, look
from terminal import Failure

PROGRAMS = {
    "systemctl": "echo 'web.service loaded failed failed Says hello'\necho 'db.service loaded failed failed A store'\n",
    "journalctl": 'for last; do :; done\necho "words of $last"\n',
    "etcdctl": 'case "$*" in *status*) echo "| 10.77.0.11 | IS LEADER true |" ;; *member*) echo "| m1 |" ;; *) echo "alarm:NOSPACE" ;; esac\n',
}


class Queried:
    """A node whose root shell is this computer's, with :data:`PROGRAMS`."""

    name, factor = "node-1", 1.0

    def __init__(self, folder: Path) -> None:
        self.path = folder
        for name, text in PROGRAMS.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}")
            (folder / name).chmod(0o755)

    def root(self, command: str, timeout: float | None = None) -> RunResult:
        environment = {"PATH": f"{self.path}:{os.defpath}"}
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
        return RunResult(done.returncode, done.stdout, done.stderr)

    def console_tail(self, lines: int) -> str:
        return f"the last {lines} lines"


@pytest.fixture
def node(tmp_path: Path) -> Queried:
    return Queried(tmp_path)


def test_units_with_their_journals_and_etcd(node: Queried) -> None:
    found = look(cast("Node", node), "running")
    assert found.units.splitlines() == [
        "web.service loaded failed failed Says hello",
        "db.service loaded failed failed A store",
        "-- journal of web.service",
        "words of --unit=web.service",
        "-- journal of db.service",
        "words of --unit=db.service",
    ]
    assert found.etcd.splitlines() == ["| 10.77.0.11 | IS LEADER true |", "| m1 |", "alarm:NOSPACE"]
    section = found.section()
    assert section.startswith(
        "machine: running\n--- console, last lines ---\nthe last 30 lines\n--- failed units ---\nweb.service"
    )
    assert section.endswith("alarm:NOSPACE")


def test_a_node_that_is_off_or_silent_still_has_a_console(node: Queried, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> Any:
        raise Failure("no root shell within 10 s", where="node-1")

    monkeypatch.setattr(node, "root", silent)
    off = look(cast("Node", node), "off (signal 9)")
    assert (off.console, off.units, off.etcd) == ("the last 30 lines", "", "")
    assert "it does not answer: node-1: no root shell" in look(cast("Node", node), "running").units


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert commit(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "--quiet"], ["add", "file"], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True)
    clean = commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{clean}+"
