"""swap, mounts, disk_setup, fs_setup: units that systemd reads, and a script that erases only on request, run on files
by the real mkfs and blkid.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.text import parse, storage
from cloudconfig.text.schema import CloudConfig
from tests.cloudconfig.node import ShadowNode
from unitfile.text import UnitFile


def config(text: str) -> CloudConfig:
    document = parse.parse("#cloud-config\n" + text)
    assert not document.findings, document.findings
    return document.config


def units(text: str) -> dict[str, str]:
    return {unit.name: unit.content or "" for unit in config(text).units}


@pytest.mark.parametrize(
    ("entry", "name", "lines"),
    [
        (
            "[vdb, /var/data, ext4, 'defaults,noatime']",
            "var-data.mount",
            ["What=/dev/vdb", "Where=/var/data", "Type=ext4", "Options=defaults,noatime"],
        ),
        ("[LABEL=my-data, /mnt]", "mnt.mount", ["What=/dev/disk/by-label/my-data", "Type=auto", "Options=defaults"]),
        ("[UUID=1-2, /srv/a-b]", "var-srv-a\\x2db.mount", ["What=/dev/disk/by-uuid/1-2", "Where=/var/srv/a-b"]),
        (
            "[/dev/nvme1n1p2, /var/x, ext4, 'nofail,x-systemd.device-timeout=1,_netdev,ro', '0', '2']",
            "var-x.mount",
            ["What=/dev/nvme1n1p2", "Options=ro"],
        ),
        ("[tmpfs, /var/tmp/x, tmpfs, 'size=50%']", "var-tmp-x.mount", ["What=tmpfs", "Options=size=50%%"]),
        ("[/var/a, /var/b, none, bind]", "var-b.mount", ["What=/var/a", "Options=bind"]),
        ("[share, /var/share, 9p, 'trans=virtio,version=9p2000.L']", "var-share.mount", ["What=share", "Type=9p"]),
        ("[/dev/vdc, none, swap, sw, 0, 0]", "dev-vdc.swap", ["What=/dev/vdc"]),
    ],
)
def test_mounts(entry: str, name: str, lines: list[str]) -> None:
    ((found, content),) = units(f"mounts: [{entry}]\n").items()
    assert found == name
    assert set(lines) <= set(content.splitlines())
    UnitFile.parse(content)


def test_default_fields_and_places_that_are_not_said() -> None:
    text = "mount_default_fields: [null, null, ext4, 'ro,noauto', 0, 2]\nmounts: [[vdb, /var/a], [vdc, null]]\n"
    document = parse.parse("#cloud-config\n" + text)
    assert [one.message for one in document.findings] == ["says no place, nothing is mounted"]
    (unit,) = document.config.units
    assert "Type=ext4\nOptions=ro\n" in (unit.content or "")
    assert unit.command == "", "noauto"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mounts: [[ephemeral0, /mnt]]\n", "mounts[0]: a name of EC2's mapping"),
        ("mounts: [/dev/vdb]\n", "mounts[0]: must be a list"),
        ("mounts: [[vdb, data]]\n", "mounts[0]: the place: not an absolute path"),
        ("mounts: [[vdb, /var/../etc]]\n", "mounts[0]: the place: has .. in it"),
        ("mounts: [[/dev/../etc, /var/a]]\n", "mounts[0]: not something to mount"),
        ('mounts: [["vdb\\nExecStart=x", /var/a]]\n', "mounts[0]: not something to mount"),
        ('mounts: [[vdb, "/var/a\\nb"]]\n', "mounts[0]: the place: a control character"),
        ("mounts: [[vdb, /var/a, 'ext4 x']]\n", "mounts[0]: not a type of file system"),
        ("mounts: [[vdb, /var/a, ext4], [vdc, /var/a, ext4]]\n", "already claimed by mounts[0]"),
        ("swap: {size: lots}\n", "swap.size: not a size"),
        ("swap: {size: auto}\n", "swap.size: how much is it?"),
        ("swap: {size: 5}\n", "swap.size: too small"),
        ("swap: {size: 1G, filename: /swap.img}\n", "swap.filename: the node's root is read-only there"),
        ("swap: {size: 1G, filename: '/var/$(reboot)'}\n", "swap.filename: not a plain path"),
        ("disk_setup: {/dev/vdb: {table_type: mbr, layout: true}}\n", "table_type: this image makes GPT only"),
        ("disk_setup: {/dev/vdb: {layout: [50, 60]}}\n", "layout: more than 100 percent"),
        ("disk_setup: {/dev/vdb: {layout: [[50, 7]]}}\n", "layout[0]: must be a percentage, or"),
        ("disk_setup: {/dev/vdb: {layout: remove}}\n", "layout: partitions are not removed here"),
        ("disk_setup: {ephemeral0: {layout: true}}\n", "a name of EC2's mapping"),
        ("disk_setup: [/dev/vdb]\n", "disk_setup: must be a mapping of devices"),
        ("fs_setup: [{device: '/dev/vdb; reboot', filesystem: ext4}]\n", "fs_setup[0]: not a disk"),
        ("fs_setup: [{device: /dev/vdb}]\n", "fs_setup[0]: has no filesystem"),
        ("fs_setup: [{device: /dev/vdb, filesystem: ext4, partition: x}]\n", "fs_setup[0].partition: must be"),
        ("fs_setup: [{device: /dev/vdb, filesystem: ext4, label: 'a b'}]\n", "fs_setup[0].label: not a label"),
        ("fs_setup: [{device: /dev/vdb, filesystem: ext4, cmd: x}]\n", "fs_setup[0].cmd: unknown key"),
    ],
)
def test_bad(text: str, expected: str) -> None:
    found = [one.render("f") for one in validate.validate(("#cloud-config\n" + text).encode())]
    assert any(expected in one for one in found), found


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_names_of_units_are_names(path: str) -> None:
    name = storage.mount_unit_name("/" + path)
    assert all(char.isalnum() or char in ":_.-\\" for char in name)
    assert name.isascii()


def test_swap_is_made_once_and_switched_on() -> None:
    found = units("swap: {size: 2G, maxsize: 1073741824}\n")
    assert "What=/var/swap.img" in found["var-swap.img.swap"]
    assert "fallocate -l 1073741824 /var/swap.img.new" in found["cloudconfig-swap.service"]
    for content in found.values():
        UnitFile.parse(content)


def test_layouts() -> None:
    (disk,) = config("disk_setup: {vdb: {table_type: gpt, layout: [25, [50, 82]]}}\n").disks
    assert disk.device == "/dev/vdb"
    assert [text for _, text in disk.files] == [
        "[Partition]\nType=linux-generic\nWeight=250\n",
        "[Partition]\nType=swap\nWeight=500\nPaddingWeight=250\n",
    ]
    assert config("disk_setup: {vdb: {layout: false}}\n").disks == ()


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script on files instead of block devices, with marks in ``folder``; the programs are the real ones."""
    script = script.replace("exit $failed", "").replace("/var/lib/cloudconfig", str(folder))
    prelude, _, calls = script.partition("\nfilesystem /")
    functions = 'there() { [ -e "$1" ] || { say "$1: no such disk"; failed=1; return 1; }; }\nudevadm() { :; }\n'
    text = f"{prelude}\n{functions}filesystem /{calls}exit $failed\n"
    return subprocess.run(
        ["sh"], input=text, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )


def label(path: Path) -> str:
    blkid = shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin")
    assert blkid
    done = subprocess.run(
        [blkid, "-p", "-o", "value", "-s", "LABEL", path], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def test_a_file_system_where_there_is_none_and_no_other_is_touched(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 << 20))

    def script(name: str, overwrite: str) -> str:
        entry = f"{{device: /dev/vdb, filesystem: ext4, label: {name}, overwrite: {overwrite}, extra_opts: -q}}"
        return storage.disks_script(config(f"fs_setup: [{entry}]\n").disks).replace("/dev/vdb", str(disk))

    done = run(script("first", "false"), tmp_path)
    assert (done.returncode, done.stderr, label(disk)) == (0, "", "first")
    assert run(script("second", "false"), tmp_path).returncode == 0
    assert label(disk) == "first"
    assert run(script("third", "true"), tmp_path).returncode == 0
    assert label(disk) == "third"
    assert run(script("fourth", "true"), tmp_path).returncode == 0
    assert label(disk) == "third", "erased once"


def test_what_is_not_there_is_reported_and_the_others_are_done(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 << 20))
    text = "fs_setup: [{device: /dev/vdc, filesystem: ext4}, {device: /dev/vdb, filesystem: ext4, label: x}]\n"
    done = run(storage.disks_script(config(text).disks).replace("/dev/vdb", str(disk)), tmp_path)
    assert (done.returncode, label(disk)) == (1, "x")
    assert "/dev/vdc: no such disk" in done.stderr


def test_on_a_node(tmp_path: Path) -> None:
    """Everything below /run, made again at each boot, queued and not waited for."""
    node = ShadowNode(tmp_path)
    text = "#cloud-config\ndisk_setup: {/dev/vdb: {layout: true}}\nfs_setup: [{device: /dev/vdb, partition: 1, filesystem: ext4}]\nmounts: [[/dev/vdb1, /var/data]]\n"
    outcome = node.apply(text)
    assert (outcome.result, outcome.errors) == ("done", ())
    assert node.machine.ran == [
        "systemctl daemon-reload",
        "systemctl --no-block start cloudconfig-disks.service",
        "systemctl --no-block start var-data.mount",
    ]
    unit = (tmp_path / "run/systemd/system/cloudconfig-disks.service").read_text()
    assert "Wants=dev-vdb.device\nAfter=dev-vdb.device" in unit
    mount = (tmp_path / "run/systemd/system/var-data.mount").read_text()
    assert "After=cloudconfig-disks.service" in mount
    assert "Before=docker.service" in mount
