"""How far each unit that we answer for is confined, by the count of the image's own ``systemd-analyze security`` (0:
not exposed, 10: not confined).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from builder.core import data
from builder.core.store import Store
from builder.core.tree import Kind
from builder.debian import mirror
from builder.debian.lockfile import Lock
from builder.debian.packages import obtain
from tests.unitfile.systemd import Systemd, unpacked

BUDGET: Final = {
    "etcd-alarms.service": 1.7,
    "etcd-backup.service": 1.7,
    "etcd.service": 1.7,
    "etcd-upkeep.service": 1.7,
    "fleet.service": 2.0,
    "firewall-neighbours.service": 1.8,
    "flotilla-enrol.service": 2.2,
    "flotilla-room.service": 1.3,
    "flotilla-trust.service": 2.2,
    "sshd-hostkeys.service": 4.6,
    "docker.service": 8.3,
    # docs/security.md says why of each that nothing is taken from these.
    "cloudconfig-online.service": 9.4,
    "cloudconfig.service": 9.4,
    "containerd.service": 9.4,
    "firewall.service": 6.7,
    "flotilla-shell.service": 9.4,
    "ssh.service": 9.4,
}
"""Most that each may have. Lower it with what makes a unit less exposed."""

_FOREIGN: Final = ("containerd", "docker.io", "openssh-server")
"""Packages with units that a node runs for those who log in and for containers."""
_LEVEL: Final = re.compile(r"Overall exposure level for (\S+): ([0-9.]+)")
_UNITS: Final = "usr/lib/systemd/system"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the units as a node has them: ours, those of three packages, and our drop-ins of these."""
    root = tmp_path_factory.mktemp("root")
    folder = root / _UNITS
    folder.mkdir(parents=True)
    lock = Lock.load(data.image() / "node.lock")
    wanted = replace(lock, packages=tuple(each for each in lock.packages if each.name in _FOREIGN))
    for package in obtain(wanted, Store(), mirror.find):
        for entry in package.entries:
            path = Path(entry.path)
            if str(path.parent) == _UNITS and entry.kind is Kind.FILE:
                (folder / path.name).write_bytes(entry.content.read())
    shutil.copytree(data.units() / "system", folder, dirs_exist_ok=True)
    shutil.copytree(data.image() / "overlay" / _UNITS, folder, dirs_exist_ok=True)
    return root


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Systemd:
    return unpacked(tmp_path_factory.mktemp("units"))


def test_no_unit_is_more_exposed_than_its_budget(root: Path, systemd: Systemd) -> None:
    done = systemd.run(
        "usr/bin/systemd-analyze",
        *("security", "--offline=yes", f"--root={root}", "--no-pager"),
        *BUDGET,
    )
    assert done.returncode == 0, done.stderr
    found = {unit: float(level) for unit, level in _LEVEL.findall(done.stdout)}
    # Not less, either, or what was won is lost again unseen.
    assert found == BUDGET, "set the budget to what is, if that is less, and docs/security.md with it"


def test_every_service_of_ours_has_a_budget() -> None:
    assert {path.name for path in (data.units() / "system").glob("*.service")} <= BUDGET.keys()


def test_the_page_has_every_unit_and_its_exposure() -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    for unit, most in BUDGET.items():
        assert f"* `{unit}`, {most}: " in page
