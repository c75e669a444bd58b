"""scripts/cluster-up answers what is wrong before it installs anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.ordinary import write_program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["0"], 2, "1 to 99 nodes"),
        (["-1"], 2, "cluster-up"),
        (["many"], 2, "invalid int"),
        ([], 2, "required: N"),
        (["3", "--agent-ttl", "soon"], 2, "--agent-ttl"),
        (["--help"], 0, "examples"),
    ],
)
def test_arguments_are_looked_at_first(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    """A copy of the checkout without scripts/setup: whoever got as far as that would fail with another code. The Python
    is a fresh machine's: no package is installed."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "cluster-up").write_bytes((ROOT / "scripts" / "cluster-up").read_bytes())
    for package in ("cluster", "fleet", "terminal", "unitfile", "etcd"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "bin").mkdir()
    base = sys._base_executable  # type: ignore[attr-defined]  # what the virtual environment was made of
    write_program(tmp_path / "bin" / "python3", f'exec {base} -S "$@"\n')
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "cluster-up"), *arguments],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
