"""Completion scripts, read by a real bash: what it offers after some words."""

import subprocess
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.layout import clusters_root
from tests.cluster.commands import call

COMMANDS = ("cluster", "cluster-up", "cluster-down", "osbuild", "cloudconfig", "discovery", "fleetctl")


def script(shell: str, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(main, "completion", shell, command) == 0
    return capsys.readouterr().out


def offered(path: Path, function: str, *words: str) -> set[str]:
    """What bash offers for the last one of ``words``."""
    code = 'source "$1"; shift; function=$1; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $function; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", code, "-", path, function, *words], capture_output=True, text=True, check=True, timeout=20
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_ours_has_scripts_that_its_shell_can_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "completion"
    path.write_text(script("bash", command, capsys))
    subprocess.run(["bash", "-n", path], check=True, timeout=20)
    assert script("zsh", command, capsys).startswith(f"#compdef {command}\n")


def test_verbs_nodes_and_clusters_are_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("default/node-1", "default/node-2", "lab/node-7"):
        (clusters_root() / name).mkdir(parents=True)
        (clusters_root() / name).with_name("cluster.json").write_text('{"v": 99}')
    path = tmp_path / "completion"
    path.write_text(script("bash", "cluster", capsys))
    assert offered(path, "_shtab_cluster", "cluster", "st") == {"start", "stop", "status"}
    assert "disk-slow" in offered(path, "_shtab_cluster", "cluster", "fault", "disk")
    assert offered(path, "_shtab_cluster", "cluster", "fault", "disk-slow", "n") == {"node-1", "node-2"}
    assert offered(path, "_shtab_cluster", "cluster", "status", "--name", "") == {"default", "lab"}
    monkeypatch.setenv("FLOTILLA_CLUSTER", "lab")
    assert offered(path, "_shtab_cluster", "cluster", "ssh", "node") == {"node-7"}


def test_a_command_that_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "completion", "bash", "ls") == 2
    assert "'ls' is no command of ours" in capsys.readouterr().err
