"""The Vagrantfile as Vagrant reads it: machines and their addresses, options, and what is said of those that cannot be.

No machine is started.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from . import vboxmanage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

# Ruby runs it when Vagrant ends, so it sees what all the rest made of the options.
DUMP = 'at_exit { File.write("{path}", JSON.generate(ObjectSpace.each_object(FlotillaCluster).first.machines.map(&:to_h))) }\n'


@dataclass
class Desk:
    """A user's ``vagrant`` in this checkout, with a home and a state of its own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: str = ""
    """What config.rb says."""

    def vagrant(self, *words: str) -> subprocess.CompletedProcess[str]:
        if shutil.which("vagrant") is None:
            pytest.fail("there is no vagrant here: scripts/setup --tests installs it")
        config = self.folder / "config.rb"
        config.write_text(self.options + DUMP.replace("{path}", str(self.folder / "machines.json")))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT_", "NUM_INSTANCES"))}
        own = {
            "HOME": str(self.folder),
            # What runs guests here has been found out; not once more for every test.
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "VAGRANT_HOME": str(self.folder / "home"),
            "VAGRANT_DOTFILE_PATH": str(self.folder / "state"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            "FLOTILLA_VAGRANT_CONFIG": str(config),
        }
        return subprocess.run(
            ["vagrant", *words],
            cwd=ROOT,
            env=kept | own | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def machines(self) -> list[dict[str, Any]]:
        """As the Vagrantfile sees them."""
        done = self.vagrant("validate", "--ignore-provider")
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads((self.folder / "machines.json").read_text())
        assert isinstance(found, list)
        return found

    def complaint(self, *words: str) -> str:
        """What is said when it cannot be; in one line."""
        done = self.vagrant(*(words or ("validate", "--ignore-provider")))
        assert done.returncode == 1, done.stdout + done.stderr
        return " ".join(done.stderr.split())

    def exists(self, name: str, provider: str = "libvirt") -> None:
        """Leave what Vagrant remembers of a machine."""
        folder = self.folder / "state" / "machines" / name / provider
        folder.mkdir(parents=True)
        (folder / "id").write_text("a0b1")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_three_machines_with_names_and_addresses(desk: Desk) -> None:
    desk.environment["NUM_INSTANCES"] = "3"
    assert [(machine["name"], machine["address"], machine["mac"]) for machine in desk.machines()] == [
        ("node-1", "192.168.58.101", "52:54:00:43:00:01"),
        ("node-2", "192.168.58.102", "52:54:00:43:00:02"),
        ("node-3", "192.168.58.103", "52:54:00:43:00:03"),
    ]
    key = desk.folder / "state/flotilla/key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    # Without the variable there is one; once more, the same key.
    del desk.environment["NUM_INSTANCES"]
    assert [machine["name"] for machine in desk.machines()] == ["node-1"]
    assert key.read_text() == before


def test_every_option_is_taken(desk: Desk) -> None:
    documented = re.findall(r"^\* `(\$\w+)`", (ROOT / "docs/vagrant.md").read_text("utf-8"), flags=re.MULTILINE)
    text = (ROOT / "Vagrantfile").read_text("utf-8")
    known = re.findall(r"^(\$\w+) = ", text, flags=re.MULTILINE)
    assert documented == known, "docs/vagrant.md lists the options in the order of the Vagrantfile"
    desk.options = """
        $num_instances = 2
        $instance_name_prefix = "core"
        $box = "mine"
        $box_url = "file:///mine.box"
        $user_data = "mine.yaml.j2"
        $private_network = "192.168.60.0/22"
        $vm_memory = 2048
        $vm_cpus = 2
        $vm_gui = true
        $vb_cpuexecutioncap = 50
        $libvirt_driver = "qemu"
        $enable_serial_logging = true
        $forwarded_ports = { 8080 => 8081 }
        $expose_docker_tcp = 2375
    """
    # Only a libvirtd can say whether folders can be shared: vm-tests/test_vagrant.py has one.
    options = set(re.findall(r"^ +(\$\w+) = ", desk.options, flags=re.MULTILINE))
    assert set(known) - options == {"$share_home", "$shared_folders"}
    assert [(machine["name"], machine["address"]) for machine in desk.machines()] == [
        ("core-1", "192.168.60.101"),
        ("core-2", "192.168.60.102"),
    ]
    # The provider's own settings, too: no daemon is needed for that.
    done = desk.vagrant("validate")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_machines_that_exist_are_never_lost_sight_of(desk: Desk) -> None:
    """``NUM_INSTANCES=3 vagrant up`` and later ``vagrant destroy``: two would run for ever."""
    desk.exists("node-3")
    assert [machine["wanted"] for machine in desk.machines()] == [True, True, True]
    desk.environment["NUM_INSTANCES"] = "1"
    assert [machine["wanted"] for machine in desk.machines()] == [True, False, False]
    desk.environment["NUM_INSTANCES"] = "4"
    assert [machine["wanted"] for machine in desk.machines()] == [True, True, True, True]


@pytest.mark.parametrize("number", ["0", "100", "three", "-1", "1.5", ""])
def test_what_is_no_number_of_machines(desk: Desk, number: str) -> None:
    desk.environment["NUM_INSTANCES"] = number
    assert f'NUM_INSTANCES, or $num_instances: "{number}" is not a number from 1 to 99' in desk.complaint()


def test_an_unknown_option_is_reported(desk: Desk) -> None:
    desk.options = '$update_channel = "alpha"\n'
    said = desk.complaint()
    assert "$update_channel is no option of this Vagrantfile; docs/vagrant.md lists them" in said
    assert str(desk.folder / "config.rb") in said


@pytest.mark.parametrize("network", ["192.168.58.0/25", "fd00::/64", "here", "192.168.58.0/33"])
def test_a_network_that_has_no_room(desk: Desk, network: str) -> None:
    desk.options = f'$private_network = "{network}"\n'
    said = desk.complaint()
    assert f'$private_network "{network}"' in said
    assert 'such as "192.168.58.0/24"' in said


def test_a_checkout_that_is_not_set_up(desk: Desk) -> None:
    desk.environment["FLOTILLA_VENV"] = str(desk.folder / "nowhere")
    assert "this checkout is not set up yet; do it with ./scripts/setup" in desk.complaint("validate")


def test_user_data_that_is_none_stops_up_before_anything_is_made(desk: Desk) -> None:
    (desk.folder / "mine.yaml.j2").write_text("#cloud-config\nhostname: {{ undeclared }}\n")
    desk.options = f'$user_data = "{desk.folder}/mine.yaml.j2"\n$libvirt_driver = "qemu"\n'
    said = desk.complaint("up", "--provider=libvirt")
    assert "this is no user-data for node-1" in said
    assert "'undeclared' is undefined" in said
    assert not (desk.folder / "state/machines/node-1/libvirt/id").exists()


def small_box(path: Path) -> None:
    """A box for VirtualBox with nothing in it."""
    parts = {"metadata.json": b'{"provider": "virtualbox"}', "box.ovf": b"<Envelope/>", "Vagrantfile": b""}
    with tarfile.open(path, "w:gz") as box:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            box.addfile(member, io.BytesIO(content))


def test_the_calls_of_virtualbox(desk: Desk) -> None:
    """Everything until the machine is switched on; there is a stand-in for VirtualBox."""
    small_box(desk.folder / "small.box")
    programs = desk.folder / "bin"
    programs.mkdir()
    program = programs / "VBoxManage"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/vboxmanage.py {desk.folder} "$@"\n')
    program.chmod(0o755)
    desk.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    desk.options = f"""
        $box = "small"
        $box_url = "file://{desk.folder}/small.box"
        $expose_docker_tcp = 23750
        $enable_serial_logging = true
        $vm_memory = 2048
    """
    assert "there is no VirtualBox here" in desk.complaint("up", "--no-tty", "--provider=virtualbox")
    calls = [json.loads(line) for line in (desk.folder / "calls").read_text().splitlines()]
    identity = vboxmanage.IDENTITY
    disks, seed = "SATA Controller", desk.folder / "state/flotilla/node-1.iso"
    (cards,) = (call for call in calls if "--nic2" in call and "hostonly" in call)
    assert cards[cards.index("--macaddress2") + 1] == "525400430001"
    assert ["modifyvm", identity, "--memory", "2048"] in calls
    assert any("docker,tcp,127.0.0.1,23750,,2375" in call for call in calls)
    attach = ["storageattach", identity, "--storagectl", disks, "--port", "1", "--device", "0"]
    last = [call for call in calls if call[0] not in ("showvminfo", "list")][-6:]
    assert last[0] == ["storagectl", identity, "--name", disks, "--portcount", "2"]
    assert last[1] == [*attach, "--type", "dvddrive", "--medium", str(seed)]
    assert last[2][2:6] == ["--uart1", "0x3F8", "4", "--uartmode1"]
    assert last[3] == ["startvm", identity, "--type", "headless"]
    assert b"ListenStream=10.0.2.15:2375" in seed.read_bytes(), "where VirtualBox' forward comes out"
