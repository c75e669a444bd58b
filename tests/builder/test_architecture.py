"""Images for another architecture than the one that builds them: definitions with sections, locks side by side, and
what comes out.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import run
from builder.core import data
from builder.core.architecture import ARCHITECTURES, HOST, NAMES, definition_path, lock_path
from builder.debian import tools
from builder.debian.apt import Programs
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools
from builder.definition import definition
from builder.lock import scripts
from builder.pipeline import order
from builder.pipeline.order import Settings
from terminal import Failure, command
from tests.builder.conftest import Archive, Signer
from tests.builder.smallworld import REPORTS, World
from tests.builder.test_build import snapshot
from tests.builder.test_reproducible import Surroundings, hostile
from tests.builder.test_reproducible import build as built

pytestmark = pytest.mark.slow

Out = pytest.CaptureFixture[str]

BASE = """\
version: 1
name: base
suites: [{suite: test}]
packages: [base]
kernel: {modules: {disks: [loop]}, initrd: [], command_line: quiet}
architectures:
  amd64: {packages: [boot-amd64], kernel: {modules: {disks: [aesni*]}, consoles: [ttyS0]}}
  arm64: {packages: [boot-arm64], kernel: {consoles: [ttyAMA0], command_line: loud}}
"""


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def osbuild(*words: str | Path) -> int:
    return command("osbuild", run, [str(word) for word in words])


# --- names -------------------------------------------------------------------------------------------------------------


def test_each_has_its_name_and_the_host_is_one_of_them() -> None:
    assert tuple(ARCHITECTURES) == NAMES
    assert HOST in NAMES


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,12}", fullmatch=True), st.sampled_from(NAMES))
def test_a_lock_names_its_definition_and_its_architecture(stem: str, name: str) -> None:
    path = Path("/some/folder") / f"{stem}.yaml"
    assert definition_path(lock_path(path, name)) == (path, name)


def test_locks_lie_side_by_side() -> None:
    assert [lock_path(Path("image/node.yaml"), name).name for name in NAMES] == ["node.lock", "node.arm64.lock"]


@pytest.mark.parametrize("lock", sorted(data.image().rglob("*.lock")), ids=lambda path: path.name)
def test_our_locks_are_where_their_architecture_says(lock: Path) -> None:
    path, name = definition_path(lock)
    assert path.is_file()
    assert Lock.load(lock).architecture == name


# --- definitions -------------------------------------------------------------------------------------------------------


def test_a_section_is_merged_over_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "base.yaml", BASE)
    amd64, arm64 = definition.load(path), definition.load(path, "arm64")
    assert (amd64.architecture, arm64.architecture) == ("amd64", "arm64")
    assert (amd64.packages, arm64.packages) == (("base", "boot-amd64"), ("base", "boot-arm64"))
    assert amd64.kernel is not None
    assert arm64.kernel is not None
    assert (amd64.kernel.modules, arm64.kernel.modules) == ({"disks": ("loop", "aesni*")}, {"disks": ("loop",)})
    assert (amd64.kernel.parameters(), arm64.kernel.parameters()) == ("console=ttyS0 quiet", "console=ttyAMA0 loud")
    assert amd64.architectures == arm64.architectures == {}


def test_who_includes_wins_over_the_included_sections(tmp_path: Path) -> None:
    """Also with what it says for all; its own section wins over that, and its overlay is beside its own file."""
    write(tmp_path / "base.yaml", BASE)
    mine = "include: ./base.yaml\nkernel: {command_line: mine}\nidentity: {name: Mine, version: '1'}\n"
    mine += "architectures: {arm64: {overlay: arm, identity: {version: '2'}}}\n"
    path = write(tmp_path / "mine/mine.yaml", mine.replace("./base", "../base"))
    amd64, arm64 = definition.load(path), definition.load(path, "arm64")
    assert arm64.kernel is not None
    assert arm64.kernel.parameters() == "console=ttyAMA0 mine"
    assert (amd64.overlays(), arm64.overlays()) == ((), (tmp_path / "mine/arm",))
    assert arm64.identity is not None
    assert (arm64.identity.name, arm64.identity.version) == ("Mine", "2")


def test_a_definition_may_say_what_it_is_for(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", BASE + "architecture: arm64\n")
    assert definition.load(base).packages == ("base", "boot-arm64")
    mine = write(tmp_path / "mine.yaml", "include: ./base.yaml\narchitecture: amd64\n")
    assert definition.load(mine).architecture == "amd64"
    assert definition.load(mine, "arm64").packages == ("base", "boot-arm64")


@pytest.mark.parametrize(
    ("section", "place", "says", "hint"),
    [
        ("riscv64: {}", ":9:3", "there is no architecture 'riscv64'", "known: amd64, arm64"),
        ("s390x: {}\narchitecture: amd64", ":9:3", "'s390x'", "known: amd64, arm64"),
        ("arm64:", ":9:3", "architectures.arm64: a single value is no mapping", "a section for each"),
        ("arm64: {name: other}", ":9:11", "'name' is the same for all architectures", ""),
        ("arm64: {include: node}", ":9:11", "'include' is the same", ""),
        ("arm64: {architectures: {}}", ":9:11", "'architectures' is the same", ""),
        ("arm64: {pakages: []}", ":9:11", "unknown key 'pakages'", "packages"),
        ("arm64: {packages: {a: b}}", ":9:11", "packages: a mapping cannot be merged with a list", ":4:1"),
        ("arm64: {}\narchitecture: mips", ":10:1", "there is no architecture 'mips'", "known: amd64, arm64"),
    ],
)
def test_a_mistake_is_reported_whatever_is_built(
    section: str, place: str, says: str, hint: str, tmp_path: Path
) -> None:
    text = BASE.partition("architectures:")[0] + f"groups: [a]\nids: {{}}\narchitectures:\n  {section}\n"
    path = write(tmp_path / "base.yaml", text)
    with pytest.raises(Failure) as caught:
        definition.load(path)
    assert f"{path}{place}:" in str(caught.value)
    assert says in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_an_architecture_that_there_is_not_is_reported_with_those_that_there_are(world: World, capsys: Out) -> None:
    with pytest.raises(SystemExit) as end:
        world.image("--arch", "riscv64")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "riscv64" in said
    assert all(name in said for name in NAMES)
    with pytest.raises(Failure, match="there is no architecture 'riscv64'") as caught:
        definition.load(world.node, "riscv64")
    assert caught.value.hint == "known: amd64, arm64"


def test_our_node_is_for_both() -> None:
    path = data.image() / "node.yaml"
    kernels = [definition.load(path, name).packages for name in NAMES]
    assert "linux-image-amd64" in kernels[0]
    assert "linux-image-arm64" not in kernels[0]
    assert "linux-image-arm64" in kernels[1]
    for name in NAMES:
        for each in (path, data.image() / "containers/redis.yaml"):
            assert order.locked(each, definition.load(each, name), is_ours=True).architecture == name


# --- locks -------------------------------------------------------------------------------------------------------------


def test_a_lock_that_is_missing_is_reported_with_the_command_that_makes_it(world: World, capsys: Out) -> None:
    lock_path(world.node, "arm64").unlink()
    assert osbuild("image", "--definition", world.node, "--arch", "arm64", "--store", world.store) == 1
    said = capsys.readouterr().err
    assert f"{world.root}/image/node.arm64.lock: there is no lock" in said
    assert f"hint: run 'osbuild lock {world.node} --arch arm64'" in said
    with pytest.raises(Failure) as caught:
        order.locked(world.node, definition.load(world.node, "arm64"), is_ours=True)
    assert caught.value.hint == "run 'osbuild lock --arch arm64'"


def test_a_lock_of_another_architecture_is_refused(world: World, capsys: Out) -> None:
    lock_path(world.node, "arm64").write_text(lock_path(world.node, "amd64").read_text())
    assert osbuild("image", "--definition", world.node, "--arch", "arm64", "--store", world.store) == 1
    assert "the lock was made for another list of packages" in capsys.readouterr().err


def test_each_architecture_is_locked_and_reviewed_for_itself(
    world: World, archive: Archive, signer: Signer, programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    """Of two definitions, one of which includes the other: a refused lock is accepted as that of amd64 is, and amd64's
    is left alone.
    """
    monkeypatch.setattr(Tools, "apt", lambda _: programs)
    base = "version: 1\nname: base\nsuites: [{suite: one}]\npackages: [tool]\ncontainer: {repository: test/base}\n"
    write(world.root / "locked/base.yaml", base + "architectures: {arm64: {packages: [board]}}\n")
    mine = write(world.root / "locked/mine.yaml", "include: ./base.yaml\nname: mine\n")
    options: list[str | Path] = ["--store", world.store, "--mirror", f"file://{archive.root.parent}", "--quiet"]
    archive.add("one", "tool", scripts={"postinst": "#!/bin/sh\nldconfig\n"})
    archive.write(signer)
    foreign = Archive(archive.root, architecture="arm64")
    foreign.add("one", "tool", scripts={"postinst": "#!/bin/sh\nldconfig /lib/aarch64-linux-gnu\n"})
    foreign.add("one", "board")
    accept: list[str | Path] = [
        "scripts",
        "--definition",
        mine,
        "--accept",
        "tool",
        "--covered",
        "ldconfig",
        "--store",
        world.store,
    ]

    assert osbuild("lock", mine, *options) == 1
    assert osbuild(*accept, *options) == 0
    assert osbuild("lock", mine, *options) == 0
    before = lock_path(mine, "amd64").read_bytes()
    foreign.write(signer)
    capsys.readouterr()
    assert osbuild("lock", mine, "--arch", "arm64", *options) == 1
    assert "tool: postinst is changed" in capsys.readouterr().err
    assert osbuild("scripts", "--definition", mine, *options) == 1
    assert osbuild(*accept, *options) == 0
    assert osbuild("lock", mine, "--arch", "arm64", *options) == 0
    assert osbuild("scripts", "--definition", mine, *options) == 0

    lock = Lock.load(lock_path(mine, "arm64"))
    assert [(package.name, package.architecture) for package in lock.packages] == [
        ("board", "arm64"),
        ("tool", "arm64"),
    ]
    assert lock_path(mine, "amd64").read_bytes() == before
    assert len(scripts.load(mine.parent / "scripts.json")) == 2
    assert not list((world.root / "locked").glob("base*.lock"))


# --- what is built -----------------------------------------------------------------------------------------------------


def test_an_image_is_of_its_architecture_to_the_loader_cache(world: World, closure: Tools, tmp_path: Path) -> None:
    assert world.image("--arch", "arm64") == 0
    assert set(snapshot(world.output)) == {"cmdline", "disk.qcow2", "initrd.img", "root.img", "vmlinuz"} | REPORTS
    assert (world.output / "cmdline").read_text().startswith("console=ttyAMA0 quiet ")
    parsed = json.loads((world.output / "manifest.json").read_text())
    assert parsed["architecture"] == "arm64"
    assert {package["architecture"] for package in parsed["packages"]} == {"arm64"}
    listed = closure.run("unsquashfs", "-lln", str(world.output / "root.img")).decode("utf-8", "replace")
    assert "squashfs-root/etc/board -> virt" in listed
    assert "squashfs-root/lib -> usr/lib" in listed
    assert "squashfs-root/lib64" not in listed
    cache = closure.run("unsquashfs", "-cat", str(world.output / "root.img"), "etc/ld.so.cache")
    assert b"/lib/aarch64-linux-gnu/libtool.so.1\0" in cache
    assert (0x0A03).to_bytes(4, "little") in cache


def test_a_container_names_its_architecture(world: World) -> None:
    assert world.container("--arch", "arm64") == 0
    with tarfile.open(world.output / "small.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        config = archive.extractfile(json.load(manifest)[0]["Config"])
        assert config is not None
        assert json.load(config)["architecture"] == "arm64"


def test_the_same_bytes_for_another_architecture_too(tmp_path: Path, closure: Tools) -> None:
    here, elsewhere = World(tmp_path / "here", closure), World(tmp_path / "elsewhere", closure)
    expected = built(here, "qemu", Surroundings(), "--arch", "arm64")
    assert built(elsewhere, "qemu", hostile(tmp_path / "hostile"), "--arch", "arm64") == expected
    assert built(elsewhere, "qemu", Surroundings(), "--arch", "amd64") != expected


def test_verify_knows_what_it_was_built_for(world: World, capsys: Out) -> None:
    assert world.image("--arch", "arm64") == 0
    capsys.readouterr()
    options: list[str | Path] = ["--store", world.store, "--mirror", f"file://{world.mirror}", "--quiet"]
    assert osbuild("verify", world.output, "--definition", world.node, *options) == 0
    assert "is what its lock gives" in capsys.readouterr().out
    assert osbuild("inspect", world.output) == 0
    assert "node for qemu, arm64, 3 packages" in capsys.readouterr().out


def test_builds_for_both_do_not_share_a_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    options: list[str | Path] = ["--store", world.store, "--mirror", f"file://{world.mirror}", "--quiet"]
    for name in NAMES:
        assert osbuild("image", "--definition", world.node, "--arch", name, *options) == 0
        assert osbuild("container", world.small, "--arch", name, *options) == 0
    folders = ["build/qemu", "build/container/small", "build/qemu-arm64", "build/container/small-arm64"]
    assert capsys.readouterr().out.splitlines() == [f"built {tmp_path / folder}" for folder in folders]
    plan: list[str | Path] = ["plan", "--definition", world.node, "--arch", "arm64", "--store", world.store]
    assert osbuild(*plan) == 0
    assert capsys.readouterr().out == f"{tmp_path}/build/qemu-arm64 is up to date: nothing to do\n"


def test_a_build_without_a_say_is_for_what_the_definition_says(world: World) -> None:
    what = definition.load(world.node)
    assert order.output_folder(Settings(), "qemu", what).name == "qemu"
    foreign = definition.load(world.node, "arm64")
    assert order.output_folder(Settings(), "qemu", foreign).name == "qemu-arm64"
    assert order.output_folder(Settings(output=Path("/srv/x")), "qemu", foreign) == Path("/srv/x")


def test_a_computer_that_cannot_run_the_tools_is_refused() -> None:
    tools.require_host("amd64", "x86_64")
    with pytest.raises(Failure, match="the programs that build are for amd64, and this computer is aarch64") as caught:
        tools.require_host("amd64", "aarch64")
    assert "--arch" in (caught.value.hint or "")
