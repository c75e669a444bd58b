"""A node from the network, and one out of a vagrant box: what these targets deliver starts, and does what it is for.

Two boots.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Final

import pytest

from builder.pipeline.build import build_image
from builder.pipeline.order import Settings
from terminal import Phases

from .firmware import MAC, machine

pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

INSECURE_KEY: Final = """\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACDdWHcQaTZc8Q6nycsP0CqMNRfsLxvYVxqKosrHyTp+WAAAAJj2TBMT9kwT
EwAAAAtzc2gtZWQyNTUxOQAAACDdWHcQaTZc8Q6nycsP0CqMNRfsLxvYVxqKosrHyTp+WA
AAAEAveRHRHSCjIxbNKHDRzezD0U3R3UEEmS7R33fzvPQAD91YdxBpNlzxDqfJyw/QKow1
F+wvG9hXGoqiysfJOn5YAAAAEHNwb3hAdmFncmFudC1kZXYBAgMEBQ==
-----END OPENSSH PRIVATE KEY-----
"""
"""It is no secret: every vagrant comes with it."""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vagrant's well-known key."""
    path = tmp_path_factory.mktemp("key") / "key"
    path.touch(mode=0o600)
    path.write_text(INSECURE_KEY)
    return path


def built(target: str) -> Path:
    """The folder of our node, delivered as ``target``."""
    return build_image(Settings(target=target, phases=Phases(sys.__stderr__))).directory


def test_a_node_starts_from_the_network_with_its_own_user_data(key: Path, tmp_path: Path) -> None:
    """By the network card's own iPXE, over TFTP, on a network that leads nowhere else. There is no disk."""
    served = tmp_path / "served"
    shutil.copytree(built("pxe"), served)
    (served / "user-data").write_text("#cloud-config\nhostname: another\n")
    (served / f"user-data-{MAC.replace(':', '-')}").write_text("#cloud-config\nhostname: netboot-7\n")
    with machine(tmp_path / "machine", key, uefi=False, network=served) as node:
        node.wait_for(r"netboot-7 login: ")
        assert "FAILED" not in node.console


def test_a_box_lets_vagrants_key_in_once(key: Path, tmp_path: Path) -> None:
    """As 'vagrant up' finds it: the key logs in; the one that vagrant puts in its place stays the only one."""
    with tarfile.open(built("vagrant") / "node-libvirt.box") as box, (tmp_path / "box.img").open("wb") as file:
        disk = box.extractfile("box.img")
        assert disk is not None
        shutil.copyfileobj(disk, file)
    image = f"if=none,id=box,format=qcow2,file={tmp_path / 'box.img'},cache=unsafe"
    devices = ["-drive", image, "-device", "virtio-blk-pci,drive=box,bootindex=1"]
    with machine(tmp_path / "machine", key, devices, uefi=True) as node:
        node.wait_for(r"login: ")
        status = json.loads(node.check("cat /run/cloudconfig/status.json"))
        assert (status["result"], status["errors"]) == ("done", [])
        assert status["datasource"] == "file:/usr/share/flotilla/vagrant/user-data"
        assert len(node.check("cat .ssh/authorized_keys").splitlines()) == 2
        assert node.check("stat -c '%a %U' .ssh/authorized_keys").strip() == "600 core"
        # The box's disk is larger than what was put onto it: the rest is the node's.
        size = int(node.check("df --output=size -B1 /var | tail -1"))
        assert size > 12 << 30
        assert re.search(r"\bmulti-user.target\b", node.check("systemctl list-units --type=target --no-legend"))
        # What comes next is vagrant's: its own key instead. Applying user-data once more must not undo that.
        node.check("echo 'ssh-ed25519 AAAA vagrant' >.ssh/authorized_keys")
        node.check("sudo /usr/bin/cloudconfig apply --datasource auto")
        node.check("sudo sh /usr/share/flotilla/vagrant/user-data")
        assert node.check("cat .ssh/authorized_keys") == "ssh-ed25519 AAAA vagrant\n"
