"""Each target's files, made of the small world's node and read back with what people will read them with; and how a
target is added.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.debian.tools import Tools
from builder.formats.disk import MIB, SECTOR
from builder.targets import TARGETS, found, vagrant
from terminal import Failure
from tests.builder.smallworld import ROOT, World
from tests.builder.tarball import contents
from tests.builder.test_cpio import read_back

pytestmark = pytest.mark.slow

GIB = 1 << 30
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"

Deliver = Callable[[str], Path]


@pytest.fixture(scope="module")
def deliver(tmp_path_factory: pytest.TempPathFactory, closure: Tools) -> Deliver:
    """The folder of the small world's node, delivered as the target of that name."""
    world = World(tmp_path_factory.mktemp("world"), closure)

    def build(target: str) -> Path:
        output = world.root / "build" / target
        assert world.image("--target", target, "--quiet", output=output) == 0
        return output

    return build


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return contents(archive)


def is_a_disk(path: Path, tools: Tools) -> bool:
    """Has it a partition table that sfdisk has nothing to say against, at its end too?"""
    tools.run("sfdisk", "--verify", str(path))
    last = path.read_bytes()[-SECTOR:]
    return last.startswith(b"EFI PART")


# --- what a target is ------------------------------------------------------------------------------------------------


def test_targets_are_sorted_and_named_as_they_say() -> None:
    assert list(TARGETS) == sorted(TARGETS)
    assert {"container", "gce", "iso", "pxe", "qemu", "raw", "raw.zst", "vagrant", "vhd", "vmdk"} <= set(TARGETS)
    assert all(name == target.name and target.summary for name, target in TARGETS.items())


def test_every_target_is_in_the_docs() -> None:
    page = (ROOT / "docs/targets.md").read_text("utf-8")
    assert [name for name in TARGETS if f"`{name}`" not in page] == []


def example() -> tuple[str, str]:
    """File name and text of the target that docs/targets.md adds."""
    page = (ROOT / "docs/targets.md").read_text("utf-8")
    (name,) = re.findall(r"As `builder/targets/(\w+\.py)`, say:", page)
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return name, text


def test_modules_without_targets_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "some_targets"
    folder.mkdir()
    name, text = example()
    for path, content in (("__init__.py", ""), ("noun.py", "VALUE = 1\n"), (name, text)):
        (folder / path).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(found([str(folder)], folder.name)) == ["openstack"]


def test_a_target_is_added_by_adding_a_file(tmp_path: Path, closure: Tools) -> None:
    """The docs' example, dropped into the folder of a copy of the program, and nothing else done."""
    program, world = tmp_path / "program", World(tmp_path / "world", closure)
    shutil.copytree(ROOT / "builder", program / "builder", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if not (program / path.name).exists() and not path.name.startswith("."):
            (program / path.name).symlink_to(path)
    name, text = example()
    (program / "builder/targets" / name).write_text(text)
    around = {"PYTHONPATH": str(program), "PYTHONDONTWRITEBYTECODE": "1"}
    words = ("image", "--definition", world.node, "--target", "openstack")
    running = world.start(*words, environment=around, cwd=str(program))
    assert running.wait(120) == 0, running.said()
    made = world.output / "node.qcow2"
    closure.run("qemu-img", "convert", "-O", "raw", str(made), str(tmp_path / "disk.raw"))
    assert is_a_disk(tmp_path / "disk.raw", closure)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "container"), "has no 'container' section"),
        (("--target", "qemu", "--definition", "small"), "has no kernel and no root"),
    ],
)
def test_a_target_that_is_not_for_it_is_reported(
    words: list[str], message: str, tmp_path: Path, closure: Tools
) -> None:
    world = World(tmp_path, closure)
    named = [str(world.small) if word == "small" else word for word in words]
    with pytest.raises(Failure, match=message) as failure:
        world.image(*named)
    assert "--target" in (failure.value.hint or "")


def test_a_container_is_its_own_usual_target(tmp_path: Path, closure: Tools) -> None:
    """With and without --target, and by the verb of old, it is the same build."""
    world = World(tmp_path, closure)
    assert world.image("--definition", str(world.small), "--quiet") == 0
    parsed = json.loads((world.output / "manifest.json").read_text())
    for again in (
        world.image("--definition", str(world.small), "--target", "container", "--quiet"),
        world.container("--quiet"),
    ):
        assert again == 0
        assert json.loads((world.output / "manifest.json").read_text()) == parsed
    assert parsed["target"] == "container/small"
    assert {each["name"] for each in parsed["artifacts"]} >= {"small.tar", "small.oci.tar"}


# --- clouds ----------------------------------------------------------------------------------------------------------


def test_gce_is_a_raw_disk_of_whole_gib(deliver: Deliver, closure: Tools, tmp_path: Path) -> None:
    archive = deliver("gce") / "disk.tar.gz"
    listed = subprocess.run(["tar", "-tzf", archive], check=True, capture_output=True, text=True)
    assert listed.stdout == "disk.raw\n"
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
    assert (tmp_path / "disk.raw").stat().st_size == GIB
    assert is_a_disk(tmp_path / "disk.raw", closure)


@pytest.mark.parametrize(("target", "form"), [("vhd", "vpc"), ("vmdk", "vmdk")])
def test_other_formats_have_the_raw_disk_in_them(target: str, form: str, deliver: Deliver, closure: Tools) -> None:
    raw, made = deliver("raw") / "disk.raw", deliver(target) / f"disk.{target}"
    assert raw.stat().st_size % MIB == 0
    assert b"identical" in closure.run("qemu-img", "compare", "-f", "raw", "-F", form, str(raw), str(made))


# --- network boot ----------------------------------------------------------------------------------------------------


def test_pxe_has_everything_in_the_initrd(deliver: Deliver) -> None:
    """What QEMU gets as two initrds and a disk is one archive after the other here."""
    loose, made = deliver("qemu"), deliver("pxe")
    assert {path.name for path in made.iterdir()} >= {"vmlinuz", "initrd.img", "boot.ipxe"}
    assert (made / "vmlinuz").read_bytes() == (loose / "vmlinuz").read_bytes()
    data, first = (made / "initrd.img").read_bytes(), (loose / "initrd.img").read_bytes()
    assert data.startswith(first)
    (root,) = read_back(data[data.rindex(b"070701", 0, data.index(b"root.img\0")) :])
    assert root[0] == "root.img"
    assert root[2] == (loose / "root.img").read_bytes()
    # Each archive begins at a multiple of four, or the kernel does not find it.
    assert len(first) % 4 == len(data) % 4 == 0


def test_the_script_boots_the_verified_root(deliver: Deliver) -> None:
    lines = (deliver("pxe") / "boot.ipxe").read_text().splitlines()
    assert lines[0] == "#!ipxe"
    kernel, initrd, user_data, boot = [line for line in lines if not line.startswith("#")]
    words = kernel.split()
    assert words[:3] == ["kernel", "vmlinuz", "initrd=initrd.magic"]
    (verity,) = [word for word in (deliver("qemu") / "cmdline").read_text().split() if "verity" in word]
    assert {verity, "flotilla.root=file:/root.img", "flotilla.state=memory"} <= set(words)
    assert words[-1] == "flotilla.datasource=file:/run/flotilla/user-data,nocloud"
    assert (initrd, boot) == ("initrd initrd.img", "boot")
    tries = user_data.split(" || ")
    assert tries[0] == "initrd --name user-data user-data-${netX/mac:hexhyp} /user-data"
    assert tries[1] == "initrd --name user-data user-data /user-data"


# --- vagrant ---------------------------------------------------------------------------------------------------------


def test_the_libvirt_box(deliver: Deliver, closure: Tools, tmp_path: Path) -> None:
    box = members(deliver("vagrant") / "node-libvirt.box")
    assert list(box) == ["metadata.json", "Vagrantfile", "box.img"]
    metadata = json.loads(box["metadata.json"])
    assert metadata == {"provider": "libvirt", "architecture": "amd64", "format": "qcow2", "virtual_size": 16}
    (tmp_path / "box.img").write_bytes(box["box.img"])
    parsed = json.loads(closure.run("qemu-img", "info", "--output=json", str(tmp_path / "box.img")))
    assert (parsed["format"], parsed["virtual-size"]) == ("qcow2", 16 * GIB)
    closure.run("qemu-img", "check", str(tmp_path / "box.img"))


def test_the_virtualbox_box(deliver: Deliver, closure: Tools, tmp_path: Path) -> None:
    box = members(deliver("vagrant") / "node-virtualbox.box")
    assert list(box) == ["metadata.json", "Vagrantfile", "box.ovf", vagrant.VMDK]
    assert json.loads(box["metadata.json"]) == {"provider": "virtualbox", "architecture": "amd64"}
    assert b'"--firmware", "efi"' in box["Vagrantfile"]
    assert re.search(rb'base_mac = "080027[0-9A-F]{6}"', box["Vagrantfile"])
    (tmp_path / "disk.vmdk").write_bytes(box[vagrant.VMDK])
    parsed = json.loads(closure.run("qemu-img", "info", "--output=json", str(tmp_path / "disk.vmdk")))
    assert parsed["format-specific"]["data"]["create-type"] == "streamOptimized"

    ovf = ET.parse(io.BytesIO(box["box.ovf"])).getroot()
    (file,) = ovf.iterfind(f"{OVF}References/{OVF}File")
    assert file.get(f"{OVF}href") == vagrant.VMDK
    assert int(file.get(f"{OVF}size", "")) == len(box[vagrant.VMDK])
    (disk,) = ovf.iterfind(f"{OVF}DiskSection/{OVF}Disk")
    assert disk.get(f"{OVF}fileRef") == file.get(f"{OVF}id")
    assert int(disk.get(f"{OVF}capacity", "")) == parsed["virtual-size"] == 16 * GIB


def test_the_machine_of_the_ovf_holds_together() -> None:
    """References lead somewhere, numbers are unique, and elements are in the order that CIM's schema has them: by name."""
    ovf = ET.fromstring(vagrant.ovf("node", 16 * GIB, 1))
    items = list(ovf.iter(f"{OVF}Item"))
    names = [[element.tag.removeprefix(RASD) for element in item] for item in items]
    assert all(order == sorted(order) for order in names)
    numbers = [item.findtext(f"{RASD}InstanceID") for item in items]
    assert len(set(numbers)) == len(numbers)
    parents = [parent for item in items if (parent := item.findtext(f"{RASD}Parent"))]
    assert parents
    assert set(parents) <= set(numbers)
    networks = {network.get(f"{OVF}name") for network in ovf.iter(f"{OVF}Network")}
    assert {item.findtext(f"{RASD}Connection") for item in items} - {None} == networks
    resources = {text for item in items if (text := item.findtext(f"{RASD}HostResource"))}
    assert resources == {f"ovf:/disk/{disk.get(f'{OVF}diskId')}" for disk in ovf.iter(f"{OVF}Disk")}


def test_only_the_boxes_look_for_vagrants_keys(deliver: Deliver) -> None:
    """The node has them, but what chooses them stands in the boxes' unified kernels alone."""
    needle = vagrant.KEYS.encode()
    assert needle in members(deliver("vagrant") / "node-libvirt.box")["box.img"]
    assert needle not in (deliver("raw") / "disk.raw").read_bytes()
    assert needle not in (deliver("pxe") / "boot.ipxe").read_bytes()
    script = ROOT / "image/overlay" / vagrant.KEYS.lstrip("/")
    subprocess.run(["sh", "-n", script], check=True)
    assert script.read_text("utf-8").startswith("#!/bin/sh\n")
