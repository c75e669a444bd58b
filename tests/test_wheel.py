"""What we ship works where there is no checkout: from a wheel, in an empty folder, with an empty home.

No network: the wheel is built by the installed backend, and the clean environment borrows third-party packages from
ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


def data_of_checkout() -> set[Path]:
    """The files that a wheel carries as data: not the instances of units that a user has linked beside the examples,
    as the README does.
    """
    files = {p for folder in ("image", "units") for p in (ROOT / folder).rglob("*") if p.is_file()}
    return files - set((ROOT / "units/examples").glob("*@?*.*"))


@dataclass(frozen=True)
class Installed:
    """The wheel, installed in an environment of its own."""

    environment: Path
    home: Path

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``command`` of the environment in an empty folder, with nothing of ours around it."""
        return subprocess.run(
            [self.environment / "bin" / command, *arguments],
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    run: list[str | Path] = [sys.executable, "-m"]
    subprocess.run([*run, "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("flotilla-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin/python"
    pip = [*run, "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
    # A path added by a .pth file is only searched: the .pth of our own editable installation in it is not read.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "third-party.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    home = folder / "home"
    home.mkdir()
    return Installed(environment, home)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_each_command_teaches_by_example(installed: Installed, name: str) -> None:
    done = installed.run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "examples" in done.stdout.lower()
    assert done.stderr == ""


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_each_command_prints_its_version(installed: Installed, name: str) -> None:
    done = installed.run(name, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{name} ")


def test_asking_leaves_nothing_behind(installed: Installed) -> None:
    for name in SCRIPTS:
        installed.run(name, "--help")
    assert list(installed.home.iterdir()) == []


def test_the_data_came_along(installed: Installed) -> None:
    program = """
import json
from builder.core import data
print(json.dumps([str(data.root()), str(data.packages("fleet")),
    sorted(p.relative_to(data.root()).as_posix() for p in data.root().rglob("*") if p.is_file())]))
"""
    done = installed.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    root, fleet, files = json.loads(done.stdout)
    assert str(installed.environment) in root
    assert str(installed.environment) in fleet
    assert files == sorted(p.relative_to(ROOT).as_posix() for p in data_of_checkout())
    assert "image/node.yaml" in files


def test_systemd_s_directives_came_along(installed: Installed) -> None:
    (installed.home / "a.yaml").write_text(
        '#cloud-config\ncoreos: {units: [{name: a.target, content: "[Unit]\\nAftre=b.target"}]}\n'
    )
    done = installed.run("cloudconfig", "validate", "a.yaml")
    (installed.home / "a.yaml").unlink()
    assert (done.returncode, done.stderr) == (0, "")
    assert "did you mean After=?" in done.stdout


def test_programs_of_the_image_stay_executable(installed: Installed) -> None:
    done = installed.run("python", "-c", "from builder.core import data; print(data.root())")
    root = Path(done.stdout.strip())
    executable = {p.relative_to(ROOT).as_posix(): bool(p.stat().st_mode & 0o100) for p in data_of_checkout()}
    assert {name: bool((root / name).stat().st_mode & 0o100) for name in executable} == executable


def test_the_next_step_after_up_names_an_example_that_is_there(installed: Installed) -> None:
    program = """
from cluster.cli.lifecycle import next_steps
print(next_steps("default"))
"""
    done = installed.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    (named,) = [line.split()[-1] for line in done.stdout.splitlines() if "fleetctl start" in line]
    assert Path(named).is_absolute()
    assert Path(named).is_file()


def test_pytest_finds_our_plugin(installed: Installed) -> None:
    done = installed.run("python", "-m", "pytest", "-p", "no:cacheprovider", "--fixtures")
    assert (done.returncode, done.stderr) == (0, "")
    assert "fixtures defined from cluster.testing.plugin" in done.stdout
    assert (
        str(installed.environment)
        in installed.run("python", "-c", "import cluster.testing.plugin as p; print(p.__file__)").stdout
    )


def test_a_users_test_reports_what_is_missing(installed: Installed) -> None:
    (installed.home / "test_web.py").write_text("def test_web(cluster):\n    pass\n")
    done = installed.run("python", "-m", "pytest", "-p", "no:cacheprovider", "--cluster-size=100", "test_web.py")
    (installed.home / "test_web.py").unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no cluster for this test: error: a cluster has 1 to 99 nodes, not 100" in done.stdout


def test_a_page_can_be_written(installed: Installed) -> None:
    """Its styles and scripts came along."""
    done = installed.run("python", "-c", "from cluster.report.page import render; print(render([]))")
    assert done.returncode == 0, done.stderr
    assert "svg.lanes" in done.stdout
