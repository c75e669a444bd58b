"""scripts/setup on machines that are not this one: a fake apt says what the machine has, and records what it is called
with.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
SETUP = ROOT / "scripts/setup"
REAL_PROGRAMS = (
    *("bash", "cat", "chmod", "cut", "dirname", "env", "flock", "grep", "id", "ln", "mkdir"),
    *("mktemp", "readlink", "rm", "sed", "sha256sum", "tail", "true"),
)


@dataclass
class Machine:
    """A PATH of our own making: the few real programs that setup may use, and fakes for all that would change a
    machine.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin = self.folder / "bin"
        self.bin.mkdir()
        for name in REAL_PROGRAMS:
            (self.bin / name).symlink_to(shutil.which(name) or pytest.fail(f"this machine has no {name}"))
        self.log = self.folder / "log"
        self.log.touch()
        self.program("python3", f'exec {sys.executable} "$@"')
        self.program("ssh")
        self.program("ssh-keygen")
        self.program("sudo", "exit 1")
        # The virtual environment is up to date: these tests are about the host.
        self.venv = self.folder / "venv"
        (self.venv / "bin").mkdir(parents=True)
        self.program("../venv/bin/python", f'echo "pip $*" >>{self.log}')

    def program(self, name: str, body: str = "exit 0") -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)  # never write through a link to the real one
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def qemu(self, version: str, program: str = "qemu-system-x86_64") -> None:
        self.program(program, f'echo "QEMU emulator version {version} (Debian 1:{version}+ds-2)"')

    def apt(self, candidate: str = "(none)", madison: str = "", install: str = "exit 0") -> None:
        """apt with one version of every package, more of QEMU by ``madison``; ``install`` is what apt-get then does."""
        self.program(
            "apt-cache",
            f"case $1 in policy) echo '  Candidate: {candidate}' ;; madison) printf '%s\\n' '{madison}' ;; esac",
        )
        self.program("apt-get", f'echo "apt-get $*" >>{self.log}\n[[ " $* " != *" install "* ]] || {{ {install}; }}')

    def setup(self, *arguments: str, script: Path = SETUP) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.folder), "FLOTILLA_VENV": str(self.venv), "CI": "true"}
            | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def installs(self) -> list[str]:
        """What apt-get was called to install, options that every call has left out."""
        return [line.split(" install --no-install-recommends ")[1] for line in self.lines if " install " in line]

    @property
    def lines(self) -> list[str]:
        return [line for line in self.log.read_text("utf-8").splitlines() if line.startswith("apt-get")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def as_root(machine: Machine) -> Machine:
    machine.program("id", "echo 0")
    return machine


def test_a_machine_that_has_all_is_left_alone(machine: Machine) -> None:
    machine.qemu("10.0.2")
    machine.apt()
    assert machine.setup().returncode == 0
    assert machine.lines == []
    # The second time there is nothing to say, either.
    again = machine.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_suite_with_a_new_enough_qemu_is_used_as_it_is(as_root: Machine) -> None:
    as_root.apt(candidate="1:10.0.2+ds-2")
    done = as_root.setup()
    assert "qemu-system-x86: QEMU 10 or newer runs the nodes; there is none (from the host's own suites)" in done.stderr
    assert as_root.installs == ["qemu-system-x86"]


def test_backports_that_the_host_has_already_are_used(as_root: Machine) -> None:
    as_root.apt(
        candidate="1:7.2+dfsg-7",
        madison="qemu-system-x86 | 1:10.0.2+ds-2~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages",
    )
    as_root.setup()
    assert as_root.installs == ["qemu-system-x86 -t bookworm-backports"]


def test_an_old_qemu_is_said_to_be_too_old(as_root: Machine) -> None:
    as_root.qemu("7.2.17")
    as_root.apt(candidate="1:10.0.2+ds-2")
    assert "here is 7, whose emulation crashes the nodes' kernel" in as_root.setup().stderr


def test_no_install_only_reports(machine: Machine) -> None:
    machine.apt(candidate="1:10.0.2+ds-2")
    (machine.bin / "ssh").unlink()
    done = machine.setup("--no-install")
    assert done.returncode == 1
    assert "would be installing with apt (--no-install: nothing is done)" in done.stderr
    assert "openssh-client: ssh into the nodes" in done.stderr
    assert machine.log.read_text("utf-8") == ""


def test_what_only_tests_need_is_installed_for_tests_only(as_root: Machine) -> None:
    as_root.qemu("10.0.2")
    as_root.apt(candidate="1.0")
    as_root.setup()
    assert as_root.installs == []
    as_root.program("dpkg-query", "exit 1")
    as_root.setup("--tests")
    assert {"docker-registry", "ovmf", "chromium-driver", "skopeo", "vagrant-libvirt", "libvirt-daemon"} <= set(
        as_root.installs
    )
    as_root.program("dpkg-query", "printf installed")
    as_root.qemu("10.0.2", "qemu-system-aarch64")
    as_root.log.write_text("", encoding="utf-8")
    assert as_root.setup("--tests").returncode == 0
    assert as_root.installs == []


def test_libvirt_is_installed_on_request(as_root: Machine) -> None:
    as_root.qemu("10.0.2")
    as_root.apt(candidate="1.0")
    as_root.program("dpkg-query", "exit 1")
    assert as_root.setup().returncode == 0
    assert as_root.installs == []
    printed = as_root.setup("--libvirt").stderr
    assert "libvirt-daemon: libvirt runs the nodes with --driver libvirt" in printed
    assert {"libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-dev", "gcc", "pkg-config"} <= set(as_root.installs)


def test_the_binding_is_built_once_from_its_own_lock(as_root: Machine) -> None:
    as_root.qemu("10.0.2")
    as_root.apt(candidate="1.0")
    as_root.program("dpkg-query", "printf installed")
    as_root.program("gcc")
    as_root.program("pkg-config")
    as_root.program("../venv/bin/python", f'echo "pip $*" >>{as_root.log}; [[ "$*" != *"pip show"* ]]')
    done = as_root.setup("--libvirt")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in as_root.log.read_text("utf-8").splitlines() if "requirements-libvirt.lock" in line)
    assert "--require-hashes" in line
    assert "--no-build-isolation" in line
    as_root.program("../venv/bin/python", f'echo "pip $*" >>{as_root.log}')
    as_root.log.write_text("", encoding="utf-8")
    assert as_root.setup("--libvirt").stderr == ""
    assert "requirements-libvirt.lock" not in as_root.log.read_text("utf-8")


def test_tests_want_a_new_enough_qemu_of_another_architecture_too(as_root: Machine) -> None:
    as_root.qemu("10.0.2")
    as_root.program("dpkg-query", "printf installed")
    as_root.apt(
        candidate="1:7.2+dfsg-7",
        madison="qemu-system-arm | 1:10.0.2+ds-2~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages",
    )
    printed = as_root.setup("--tests").stderr
    assert (
        "qemu-system-arm: QEMU 10 or newer runs the nodes of arm64; there is none (from bookworm-backports)"
        in printed.splitlines()[1]
    )
    assert as_root.installs == ["qemu-system-arm -t bookworm-backports"]
    as_root.qemu("7.2.17", "qemu-system-aarch64")
    assert "here is 7, whose emulation" in as_root.setup("--tests").stderr
    as_root.qemu("10.0.2", "qemu-system-aarch64")
    assert as_root.setup("--tests").returncode == 0
    assert len(as_root.installs) == 2


def test_no_install_without_package_lists_does_not_guess(machine: Machine) -> None:
    machine.apt()
    assert "(from the host's own suites; from backports where these are older)" in machine.setup("--no-install").stderr


def test_without_root_the_next_step_is_printed_and_nothing_is_installed(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    machine.apt(candidate="1:10.0.2+ds-2")
    done = machine.setup()
    assert done.returncode == 1
    assert "hint: as root: apt-get install qemu-system-x86" in done.stderr
    assert machine.lines == []


def test_sudo_without_a_password_is_used(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    machine.program("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    machine.apt(candidate="1:10.0.2+ds-2")
    machine.setup()
    assert machine.installs == ["qemu-system-x86"]


def test_apt_that_fails_is_tried_once_more_with_fresh_lists_and_then_reported(as_root: Machine) -> None:
    as_root.apt(candidate="1:10.0.2+ds-2", install="echo E: Unable to fetch; exit 100")
    done = as_root.setup()
    assert done.returncode == 1
    assert [line.split()[-1] for line in as_root.lines] == ["qemu-system-x86", "update", "qemu-system-x86"]
    assert "E: Unable to fetch" in done.stderr
    assert "setup: error: apt could not install qemu-system-x86" in done.stderr


def test_no_apt_no_guessing(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 1
    assert "error: this is no Debian or Ubuntu machine (no apt-get); missing: qemu-system-x86" in done.stderr


def test_a_python_that_is_too_old_is_reported(machine: Machine) -> None:
    machine.program("python3.9", "exit 1")
    machine.environment["PYTHON"] = "python3.9"
    done = machine.setup()
    assert done.returncode == 1
    assert "error: no python 3.11 or newer (tried: python3.9)" in done.stderr


def test_a_folder_that_is_no_environment_is_never_cleared(machine: Machine) -> None:
    machine.qemu("10.0.2")
    precious = machine.folder / "documents"
    precious.mkdir()
    (precious / "thesis").touch()
    machine.environment["FLOTILLA_VENV"] = str(precious)
    done = machine.setup()
    assert done.returncode == 1
    assert "documents is a folder, but no virtual environment" in done.stderr
    assert (precious / "thesis").exists()


def test_an_environment_half_made_is_removed(machine: Machine) -> None:
    machine.qemu("10.0.2")
    machine.program(
        "python3",
        'case "$*" in *sys.executable*) echo "$0" ;; "-m venv"*) mkdir -p "$4/bin"; echo no space left; exit 1 ;; esac',
    )
    machine.environment["FLOTILLA_VENV"] = str(machine.folder / "new")
    done = machine.setup()
    assert (done.returncode, (machine.folder / "new").exists()) == (1, False)
    assert "no space left\nsetup: error: python could not make the virtual environment" in done.stderr


def test_a_checkout_has_one_name_whatever_links_lead_to_it(machine: Machine) -> None:
    """Otherwise the environment would be made again, for another path, each time it is called by the other path."""
    machine.qemu("10.0.2")
    machine.setup()
    link = machine.folder / "a link"
    link.symlink_to(ROOT)
    for script in (link / "scripts/setup", machine.folder / "bin/flotilla-setup"):
        if not script.exists():
            script.symlink_to(SETUP)
        again = machine.setup(script=script)
        assert (again.returncode, again.stderr) == (0, "")


def test_wrong_usage(machine: Machine) -> None:
    done = machine.setup("--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown argument --nonsense" in done.stderr


# --- backports -------------------------------------------------------------------------------------------------------


def derived(tmp_path: Path, name: str, text: str) -> dict[str, str]:
    """What backports-source writes for a host with the one sources file ``name``."""
    sources = tmp_path / "apt"
    (sources / "sources.list.d").mkdir(parents=True)
    (sources / name).write_text(text, encoding="utf-8")
    output = tmp_path / "out"
    output.mkdir()
    arguments: list[str | Path] = [ROOT / "scripts/backports-source", "bookworm", sources, output]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    written = {path.name: path.read_text("utf-8") for path in output.iterdir()}
    assert done.stderr == ""
    assert done.returncode == (0 if written else 1)
    return written


def test_a_one_line_source_keeps_its_mirror_and_options(tmp_path: Path) -> None:
    text = (
        "# the mirror of this house\n"
        "deb [arch=amd64 signed-by=/etc/keys/house.gpg] http://mirror.example/debian bookworm main contrib # all of it\n"
        "deb http://mirror.example/debian bookworm-updates main\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://other.example/tools bookworm stable\n"
    )
    assert derived(tmp_path, "sources.list", text) == {
        "backports.list": "deb [arch=amd64 signed-by=/etc/keys/house.gpg] http://mirror.example/debian bookworm-backports main\n"
    }


def test_a_deb822_source_keeps_its_mirror_and_its_inline_key(tmp_path: Path) -> None:
    text = (
        "Types: deb deb-src\n# as it was installed\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main non-free-firmware\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBG\n\n"
        "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
    )
    assert derived(tmp_path, "sources.list.d/debian.sources", text) == {
        "backports.sources": (
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n"
            "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBG\n\n"
        )
    }


def test_a_host_without_a_debian_source_has_no_backports(tmp_path: Path) -> None:
    assert derived(tmp_path, "sources.list", "deb http://mirror.example/ubuntu noble main\n") == {}


def test_bytes_that_are_no_text_are_passed_through(tmp_path: Path) -> None:
    """A comment in Latin-1 does not stop it."""
    sources = tmp_path / "apt/sources.list.d"
    sources.mkdir(parents=True)
    (sources / "house.list").write_bytes(b"# f\xfcr alle\ndeb http://mirror.example/debian bookworm main\n")
    subprocess.run([ROOT / "scripts/backports-source", "bookworm", tmp_path / "apt", tmp_path], check=True)
    assert (tmp_path / "backports.list").read_text() == "deb http://mirror.example/debian bookworm-backports main\n"


def test_backports_source_prints_its_usage() -> None:
    done = subprocess.run([ROOT / "scripts/backports-source"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "usage: backports-source CODENAME SOURCES_DIR OUTPUT_DIR\n")
