"""sshd-hostkeys.service, its commands run in a folder in place of /etc/ssh."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from unitfile.text import UnitFile

UNIT = UnitFile.parse((Path(__file__).parents[2] / "units/system/sshd-hostkeys.service").read_text())
(COMMAND,) = UNIT.get("Service", "ExecStart")
SHELL, OPTION, SCRIPT = shlex.split(COMMAND)
STEPS = SCRIPT.split(";")
KEY = "ssh_host_ed25519_key"


def start(folder: Path, count: int) -> None:
    """As systemd would, with the power cut after ``count`` steps of the script."""
    assert UNIT.get("Unit", "ConditionPathExists") == (f"!/etc/ssh/{KEY}",)
    if not (folder / KEY).exists():
        script = ";".join(STEPS[:count]).replace("/etc/ssh", str(folder))
        subprocess.run([SHELL, OPTION, script], check=True)


@pytest.mark.parametrize("count", range(len(STEPS) + 1))
def test_a_power_cut_leaves_a_whole_key_or_none(tmp_path: Path, count: int) -> None:
    start(tmp_path, count)
    start(tmp_path, len(STEPS))
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEY, f"{KEY}.pub"]
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(tmp_path / KEY)], check=True, capture_output=True, text=True
    )
    assert derived.stdout.split()[:2] == (tmp_path / f"{KEY}.pub").read_text().split()[:2]
