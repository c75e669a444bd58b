"""Completion scripts, read by a real bash and a real zsh: what they offer after some words."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.model.layout import clusters_root
from tests.cluster.commands import call

COMMANDS = ("cluster", "cluster-up", "cluster-down", "osbuild", "cloudconfig", "discovery", "fleetctl")


def script(shell: str, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(main, "completion", shell, command) == 0
    return capsys.readouterr().out


def offered(path: Path, function: str, *words: str) -> set[str]:
    """What bash offers for the last one of ``words``."""
    code = 'source "$1"; shift; function=$1; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $function; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", code, "-", path, function, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def shown_by_zsh(folder: Path, home: Path, line: str, *words: str) -> str:
    """What an interactive zsh, which finds its functions in ``folder``, shows when the tabulator is pressed twice
    behind ``line``; as soon as ``words`` are all there.
    """
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "HOME": str(home), "PS1": "> "}
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    )
    os.close(its)

    def said(*awaited: str) -> str:
        text, end = "", time.monotonic() + 60
        while not all(word in text for word in awaited):
            assert time.monotonic() < end, text
            if select.select([ours], [], [], 0.1)[0]:
                text += os.read(ours, 1 << 16).decode(errors="replace")
        return text

    try:
        # The list stays on the screen, however long it is. What is typed before the prompt is there is not completed.
        options = "setopt no_always_last_prompt; LISTMAX=1000; stty cols 200; PS1='ready''> '"
        os.write(ours, f"fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; {options}\n".encode())
        said("ready> ")
        os.write(ours, f"{line}\t\t".encode())
        return said(*words)
    finally:
        zsh.kill()
        zsh.wait()
        os.close(ours)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_ours_has_scripts_that_its_shell_can_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "completion"
    path.write_text(script("bash", command, capsys))
    subprocess.run(["bash", "-n", path], check=True, timeout=60)
    path.write_text(script("zsh", command, capsys))
    assert path.read_text().startswith(f"#compdef {command}\n")
    subprocess.run(["zsh", "-n", path], check=True, timeout=60)


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


def test_zsh_offers_verbs_with_what_they_do_and_nodes(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "_cluster").write_text(script("zsh", "cluster", capsys))
    for node in ("node-1", "node-2"):  # now: a command sweeps away what is no whole cluster
        (clusters_root() / "default" / node).mkdir(parents=True)
    shown = shown_by_zsh(functions, home, "cluster st", "start", "stop", "status  -- Show a cluster's nodes")
    assert "snapshot" not in shown
    assert "disk-slow" in shown_by_zsh(functions, home, "cluster fault disk", "disk-corrupt", "disk-slow")
    shown_by_zsh(functions, home, "cluster fault disk-slow n", "node-1", "node-2")


def test_a_command_that_is_not_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "completion", "bash", "ls") == 2
    assert "'ls' is no command of ours" in capsys.readouterr().err
