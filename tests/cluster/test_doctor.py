"""What ``cluster doctor`` says of a computer that lacks something."""

import json
import re
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.lifecycle import preflight
from cluster.lifecycle.doctor import Finding, examine
from cluster.model.layout import Layout, clusters_root
from tests.cluster.commands import call


def found(name: str) -> Finding:
    (finding,) = [finding for finding in examine().findings if finding.name == name]
    return finding


def test_a_computer_without_kvm_is_fit_with_a_reason(standin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "doctor") == 0
    out = capsys.readouterr().out
    assert re.search(r"^good  QEMU +10\.0, ", out, re.MULTILINE)
    assert "KVM does not work here" in out
    assert "what to do:\n  accelerator: nodes are emulated" in out
    assert call(main, "doctor", "--json") == 0
    parsed = json.loads(capsys.readouterr().out)
    assert (parsed["accelerator"], parsed["version"]) == ("tcg", "10.0")
    assert {finding["name"] for finding in parsed["findings"]} >= {
        "QEMU",
        "accelerator",
        "memory",
        "disk",
        "left behind",
    }


def test_a_computer_that_cannot_run_nodes(
    standin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_VERSION", "7.2.22")
    assert call(main, "doctor") == 1
    assert "bad   accelerator" in capsys.readouterr().out
    monkeypatch.setenv("FLOTILLA_QEMU", "/nowhere/qemu")
    assert call(main, "doctor") == 1
    assert "QEMU: ./scripts/setup installs QEMU 10" in capsys.readouterr().out


def test_too_little_memory_is_reported_with_numbers(standin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_memory_mib", lambda: 3000)
    assert found("memory") == Finding(
        "memory", "fair", "3000 MiB are free: 2 nodes of 1024 MiB", "--memory 650 for 3 nodes"
    )
    monkeypatch.setattr(preflight, "free_memory_mib", lambda: 1000)
    assert found("memory").state == "bad"


def test_what_is_left_behind_is_reported(standin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clusters_root() / "old").mkdir(parents=True)
    (clusters_root() / "old/cluster.json").write_text('{"v": 99}')
    Layout.of("torso").state.mkdir()
    assert call(main, "doctor") == 0
    out = capsys.readouterr().out
    assert "a cluster that was hardly begun: cleaned up just now" in out
    assert "cluster old: cluster down --name old" in out
    assert found("left behind").found == "nothing"
