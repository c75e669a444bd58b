"""What bash completes for fleetctl: names that the cluster knows, which the real fleetctl reads from a real API."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cluster.cli.completion import script
from fleet.ctl.cli import whole_parser
from tests.cluster.test_completion import offered
from tests.fleet.ctl.conftest import HELLO, A, B, Fleetctl

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def completion(fleetctl: Fleetctl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script, in a folder with a unit file and in a cluster of two machines and two units."""
    commands = folder / "bin"
    commands.mkdir()
    program = commands / "fleetctl"
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from fleet.ctl.cli import main; sys.exit(main())"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    for name in ("web@1.service", "hello.service", "here.service"):
        (folder / name).write_text(HELLO)
    fleetctl("submit", "web@1.service", "hello.service")
    path = folder / "completion"
    path.write_text(script(whole_parser(), "bash"))
    return path


@pytest.mark.slow
def test_units_and_machines_of_the_cluster_are_offered(completion: Path) -> None:
    def words(*typed: str) -> set[str]:
        return offered(completion, "_shtab_fleetctl", "fleetctl", *typed)

    assert words("stop", "") == {"hello.service", "web@1.service"}
    assert words("stop", "hello.service", "web@") == {"web@1.service"}
    assert words("cat", "he") == {"hello.service"}
    assert words("start", "he") == {"hello.service", "here.service"}
    assert words("journal", "--machine", "") == {A, B, "10.77.0.11", "10.77.0.12"}
    assert words("ssh", "10") == {"10.77.0.11", "10.77.0.12"}
    assert words("ssh", "w") == {"web@1.service"}


def test_without_a_cluster_nothing_is_offered(completion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", "unix:///nowhere")
    assert offered(completion, "_shtab_fleetctl", "fleetctl", "stop", "") == set()
