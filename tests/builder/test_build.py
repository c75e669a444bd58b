"""Builds of a small world, through the command: what they make, that they make it again, and what is left when they
cannot.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.about import timings
from builder.cli import run
from builder.debian import deb
from builder.debian.tools import Tools
from builder.targets import TARGETS, ContainerTarget, Contents, container
from terminal import command
from tests.builder.debmaker import member
from tests.builder.smallworld import EPOCH, NODE, REPORTS, SMALL, World

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def snapshot(folder: Path) -> dict[str, str]:
    """The files of ``folder`` by name, with their hashes; but for the timings, which are others each time."""
    paths = [path for path in folder.iterdir() if path.name != timings.NAME]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def osbuild(world: World, *words: str | Path) -> int:
    """``osbuild words...`` as a shell would have it: the exit code, and errors on stderr."""
    return command("osbuild", run, world.arguments(*words))


# --- what is made ----------------------------------------------------------------------------------------------------


def test_a_container_holds_packages_overlay_and_owners(world: World, capsys: Out) -> None:
    assert osbuild(world, "container", world.small) == 0
    assert capsys.readouterr().out == f"built {world.output}\n"
    assert world.leftovers() == []
    with tarfile.open(world.output / "small.tar") as archive:
        layer = archive.extractfile("layer.tar")
        with tarfile.open(fileobj=layer) as tar:
            found = {entry.name: entry for entry in tar}
            issue = tar.extractfile("etc/issue")
            assert issue is not None
            assert issue.read() == b"a small world\n"
    assert (found["usr/bin/tool"].mode, found["usr/bin/tool"].gid) == (0o2755, 42)
    assert (found["data"].mode, found["data"].uid) == (0o700, 1)
    assert max(entry.mtime for entry in found.values()) == EPOCH


def test_an_image_has_everything_that_qemu_wants(world: World, closure: Tools) -> None:
    assert osbuild(world, "image", "--definition", world.node) == 0
    assert (
        set(snapshot(world.output))
        == {
            "cmdline",
            "disk.qcow2",
            "initrd.img",
            "root.img",
            "vmlinuz",
        }
        | REPORTS
    )
    assert (world.output / "vmlinuz").read_bytes() == b"a kernel"
    line = (world.output / "cmdline").read_text()
    found = re.fullmatch(
        r"console=ttyS0 quiet flotilla\.verity=(\d+):([0-9a-f]{64}) flotilla\.root=serial:root flotilla\.state=serial:state\n",
        line,
    )
    assert found, line
    image, hashes = str(world.output / "root.img"), f"--hash-offset={int(found[1]) * 4096}"
    closure.run("veritysetup", "verify", image, image, found[2], hashes)
    parsed = json.loads((world.output / "manifest.json").read_text())
    assert [package["name"] for package in parsed["packages"]] == ["base", "node", "tool"]
    root = closure.run("unsquashfs", "-pf", "-", str(world.output / "root.img")).decode("utf-8", "replace")
    assert f"/ D {EPOCH} 755 0 0\n" in root
    assert f"usr D {EPOCH} 755 0 0\n" in root  # systemd compares it with .updated
    assert f"usr/bin/tool R {EPOCH} 2755 0 42 20 " in root
    assert "boot/vmlinuz" not in root


# --- when there is something to do -----------------------------------------------------------------------------------


def test_nothing_changed_means_nothing_done(world: World, capsys: Out) -> None:
    assert osbuild(world, "container", world.small) == 0
    before = (world.output / "small.tar").stat()
    shutil.rmtree(world.mirror)
    shutil.rmtree(world.store)
    assert osbuild(world, "container", world.small, "--json") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(said)["changed"] is False
    assert (world.output / "small.tar").stat() == before


def edit_overlay(world: World) -> None:
    (world.overlay / "etc/issue").write_text("another world\n")


def edit_definition(world: World) -> None:
    world.small.write_text(SMALL.replace("cmd: [tool]", "cmd: [tool, --more]"))


def lose_artifact(world: World) -> None:
    (world.output / "small.tar").unlink()


def cut_artifact(world: World) -> None:
    os.truncate(world.output / "small.tar", 100)


def lose_manifest(world: World) -> None:
    (world.output / "manifest.json").unlink()


@pytest.mark.parametrize("change", [edit_overlay, edit_definition, lose_artifact, cut_artifact, lose_manifest])
def test_a_change_is_noticed(change: Callable[[World], None], world: World, capsys: Out) -> None:
    assert world.container("--quiet") == 0
    change(world)
    assert world.container("--quiet") == 0
    assert capsys.readouterr().out.splitlines() == [f"built {world.output}"] * 2


def test_an_edit_during_the_build_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    """Whoever saves a file while it is built gets it with the next build, not 'up to date'."""

    def slow(contents: Contents, folder: Path) -> None:
        edit_overlay(world)
        container.write(contents, folder)

    monkeypatch.setitem(TARGETS, "container", ContainerTarget("container", "slow", slow))
    assert world.container() == 0
    assert "build again" in capsys.readouterr().err
    monkeypatch.undo()
    assert world.container() == 0
    assert capsys.readouterr().out == f"built {world.output}\n"


def test_a_download_that_was_cut_short_is_fetched_again(world: World) -> None:
    """A power cut: the file system may have lost the end of a file that had been written whole."""
    assert world.container("--quiet") == 0
    os.truncate(world.store / "downloads" / f"{world.locked['tool'].sha256}.deb", 70)
    shutil.rmtree(world.store / "packages")
    assert world.container("--quiet", "--force") == 0
    assert world.leftovers() == []


def test_a_damaged_download_is_reported_and_removed(world: World, capsys: Out) -> None:
    assert world.container("--quiet") == 0
    path = world.store / "downloads" / f"{world.locked['tool'].sha256}.deb"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    shutil.rmtree(world.store / "packages")
    assert osbuild(world, "container", world.small, "--force") == 1
    said = capsys.readouterr().err
    assert "the stored file of tool is damaged" in said
    assert "build again" in said
    assert osbuild(world, "container", world.small, "--force") == 0


# --- when it cannot be -----------------------------------------------------------------------------------------------


def forget(world: World) -> None:
    """As if nothing had ever been fetched."""
    shutil.rmtree(world.store / "downloads")
    shutil.rmtree(world.store / "packages")


def other_hash(world: World) -> None:
    world.relock(world.small, "tool", sha256="0" * 64)


def other_size(world: World) -> None:
    world.relock(world.small, "tool", sha256="0" * 64, size=7)


def cut_in_mirror(world: World) -> None:
    forget(world)
    os.truncate(world.pool / "tool.deb", 200)


def mirror_gone(world: World) -> None:
    forget(world)
    shutil.rmtree(world.mirror)


def truncated_package(world: World) -> None:
    """The archive itself has half a package, and the lock says just that."""
    os.truncate(world.pool / "tool.deb", 500)
    data = (world.pool / "tool.deb").read_bytes()
    world.relock(world.small, "tool", sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def climbing_package(world: World) -> None:
    world.replace("tool", [member("./../../etc/shadow", b"")])


def link_that_climbs(world: World) -> None:
    world.replace("tool", [member("./usr/x", type=tarfile.SYMTYPE, linkname="../../../etc")])


def two_on_one_path(world: World) -> None:
    world.replace("tool", [member("./usr/share/base-passwd/group.master", b"root:*:0:\n")])


def no_lock(world: World) -> None:
    world.small.with_suffix(".lock").unlink()


def broken_lock(world: World) -> None:
    world.small.with_suffix(".lock").write_text('{"version": 1}')


def definition_changed(world: World) -> None:
    world.small.write_text(SMALL.replace("[base, tool]", "[base, tool, more]"))


def definition_misspelt(world: World) -> None:
    world.small.write_text(SMALL.replace("overlay:", "overlai:"))


def no_definition(world: World) -> None:
    world.small.unlink()


def no_overlay(world: World) -> None:
    shutil.rmtree(world.overlay)


FAILURES: list[tuple[Callable[[World], None], str, str]] = [
    (other_hash, "tool 1.0 is not the package that was locked: sha256", "try another mirror"),
    (other_size, "more than the 7 bytes that the lock says", "try another mirror"),
    (cut_in_mirror, "tool 1.0 is not the package that was locked: cut short, 200 of", "try another mirror"),
    (mirror_gone, "the mirror has no ", "run 'osbuild lock'"),
    (truncated_package, "cut short", "delete the file and build again"),
    (climbing_package, "a name in it climbs out of the root", "do not use this package"),
    (link_that_climbs, "a link in it points above the root", "do not use this package"),
    (two_on_one_path, "both base (file) and tool (file) bring this path", "drop one of the two packages"),
    (no_lock, "there is no lock", "run 'osbuild lock {small}'"),
    (broken_lock, "the lock is broken", "run 'osbuild lock {small}'"),
    (definition_changed, "the lock was made for another list of packages", "run 'osbuild lock {small}'"),
    (definition_misspelt, "small.yaml:6:1: unknown key 'overlai'", "did you mean 'overlay'?"),
    (no_definition, "cannot read the definition", "give its path"),
    (no_overlay, "overlay: there is no such folder", "check its path in the definition"),
]


@pytest.mark.parametrize(("spoil", "message", "hint"), FAILURES, ids=[each[0].__name__ for each in FAILURES])
def test_a_failure_names_the_next_step_and_keeps_what_was(
    spoil: Callable[[World], None], message: str, hint: str, world: World, capsys: Out
) -> None:
    assert osbuild(world, "container", world.small) == 0
    before = snapshot(world.output)
    spoil(world)
    edit = world.overlay / "etc/motd"
    if edit.parent.exists():
        edit.write_text("so that there is something to build")
    capsys.readouterr()
    assert osbuild(world, "container", world.small) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert hint.format(small=world.small) in said.err.partition("\nhint: ")[2]
    assert said.out == ""
    assert snapshot(world.output) == before
    assert world.leftovers() == []


def test_a_failed_first_build_leaves_no_folder(world: World) -> None:
    mirror_gone_before_anything = world.pool / "tool.deb"
    mirror_gone_before_anything.unlink()
    assert osbuild(world, "container", world.small) == 1
    assert not (world.root / "out").exists()
    assert list((world.store / "tmp").iterdir()) == []


def test_a_tool_that_fails_is_quoted(world: World, capsys: Out) -> None:
    assert osbuild(world, "image", "--definition", world.node) == 0
    before = snapshot(world.output)
    world.node.write_text(NODE.replace("[-comp, lz4]", "[-comp, nonsense]"))
    assert osbuild(world, "image", "--definition", world.node) == 1
    said = capsys.readouterr().err
    assert "mksquashfs ended with code 1" in said
    assert "nonsense" in said
    assert snapshot(world.output) == before
    assert world.leftovers() == []


@pytest.mark.parametrize("full", ["store", "out/result"])
def test_too_little_room_is_noticed_before_anything_is_done(
    full: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    real = shutil.disk_usage

    def usage(path: Path) -> object:
        return real(path)._replace(free=1_000_000) if Path(path) == world.root / full else real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert osbuild(world, "container", world.small) == 1
    said = capsys.readouterr().err
    assert f"{world.root / full}: not enough space" in said
    assert "1 MB free" in said
    assert "--store DIR" in said
    assert not world.output.exists()


def fill(*_: object) -> None:
    """Write to a disk that is full; what the kernel says then is real."""
    Path("/dev/full").write_bytes(b"x")


def test_a_disk_that_fills_up_under_the_result_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    assert osbuild(world, "container", world.small) == 0
    before = snapshot(world.output)
    monkeypatch.setitem(TARGETS, "container", ContainerTarget("container", "full", fill))
    assert osbuild(world, "container", world.small, "--force") == 1
    said = capsys.readouterr().err
    assert f"{world.output}: no space left on the disk" in said
    assert "--output DIR" in said
    assert snapshot(world.output) == before
    assert world.leftovers() == []


def test_a_disk_that_fills_up_under_the_store_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.setattr(deb, "_data", fill)
    assert osbuild(world, "container", world.small) == 1
    assert f"{world.store}: no space left on the disk" in capsys.readouterr().err
    assert not world.output.exists()
    assert list((world.store / "tmp").iterdir()) == []
    assert list((world.store / "packages").iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "below a file", "where no one may write"])
def test_an_output_that_cannot_be_is_reported(place: str, world: World, capsys: Out) -> None:
    (world.root / "file").touch()
    output = {
        "a file": world.root / "file",
        "below a file": world.root / "file/deep/down",
        "where no one may write": Path("/proc/flotilla"),
    }[place]
    code = command("osbuild", run, world.arguments("container", world.small, output=output))
    said = capsys.readouterr().err
    assert code == 1
    assert f"{output}: cannot write into the output's folder" in said
    assert "hint: choose another with --output DIR" in said
    assert (world.root / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["container", "{node}"], "no 'container' section"),
        (["image", "--definition", "{small}", "--target", "raw"], "has no kernel and no root"),
    ],
)
def test_the_wrong_verb_for_a_definition(words: list[str], message: str, world: World, capsys: Out) -> None:
    given = [word.format(node=world.node, small=world.small) for word in words]
    assert osbuild(world, *given) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "hint: use --target " in said
