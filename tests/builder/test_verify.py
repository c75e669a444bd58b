"""``osbuild verify``: what was built is built again and compared, and a difference is reported down to the file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.check import artifacts
from builder.check.artifacts import Unreadable
from builder.check.verify import Artifact, Verdict, describe
from builder.cli import run
from builder.core.tree import Tree, directory, file, symlink
from builder.debian.tools import Tools
from builder.formats import archive, cpio
from builder.formats.archive import Member
from builder.targets import TARGETS, Target
from terminal import command
from tests.builder.smallworld import NODE, REPORTS, World
from tests.builder.test_build import snapshot

pytestmark = pytest.mark.slow

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def verify(world: World, *words: str | Path, definition: Path | None = None) -> int:
    """``osbuild verify`` of the world's output, by the small definition unless another is given."""
    options = ["--definition", definition or world.small, "--store", world.store, "--mirror", f"file://{world.mirror}"]
    return command("osbuild", run, [str(word) for word in ["verify", world.output, "--quiet", *options, *words]])


def forge(world: World, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change an artifact, and the manifest with it, as one would whose build was tampered with."""
    path, manifest = world.output / name, world.output / "manifest.json"
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, path.read_bytes()))
    manifest.write_text(manifest.read_text().replace(old, new))


def everything(world: World) -> dict[str, int]:
    """All files of the world but the closure's, and when they were written."""
    files = [path for path in world.root.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("release", [(), ("--release", "--allow-outdated")], ids=["fast", "release"])
def test_an_image_is_verified_and_nothing_is_left(release: tuple[str, ...], world: World, capsys: Out) -> None:
    """With the options that it was built with; the store is as it was, though all was made again."""
    assert world.image(*release) == 0
    before = everything(world)
    capsys.readouterr()
    assert verify(world, "--offline", definition=world.node) == 0
    assert capsys.readouterr().out == f"{world.output} is what its lock gives: 9 files, the same bytes\n"
    assert everything(world) == before
    assert world.leftovers() == []


def test_a_machine_reads_it(world: World, capsys: Out) -> None:
    assert world.container() == 0
    capsys.readouterr()
    assert verify(world, "--json") == 0
    parsed = json.loads(capsys.readouterr().out)
    assert (parsed["same"], parsed["inputs"]) == (True, [])
    rebuilt = {each["name"]: each["rebuilt"] for each in parsed["artifacts"]}
    assert set(rebuilt) == {"small.tar", "small.oci.tar", *REPORTS}
    assert rebuilt["small.tar"] == snapshot(world.output)["small.tar"]


def test_a_cached_step_is_not_believed(world: World, capsys: Out) -> None:
    """What a damaged store made is found out, down to the file in the layer."""
    assert world.container() == 0
    (path,) = (world.store / "packages").glob(f"{world.locked['tool'].sha256[:40]}*/data.tar")
    path.write_bytes(path.read_bytes().replace(b"echo tool", b"echo t00l"))
    assert world.container("--force") == 0
    capsys.readouterr()
    assert verify(world) == 1
    said = capsys.readouterr().out
    assert "small.tar: differs from its rebuild\n" in said
    assert "  layer.tar/usr/bin/tool: contents differ\n" in said
    assert "small.oci.tar: differs from its rebuild\n" in said
    assert "  layer/usr/bin/tool: contents differ\n" in said
    assert said.endswith(f"{world.output}: 3 of 6 files are not what the lock gives\n")


def test_a_changed_initrd_is_reported_by_file(world: World, capsys: Out) -> None:
    assert world.image() == 0
    forge(world, "initrd.img", lambda data: data.replace(b"ELF busybox", b"ELF evilbox"))
    capsys.readouterr()
    assert verify(world, definition=world.node) == 1
    said = capsys.readouterr().out
    assert said.startswith("initrd.img: differs from its rebuild\n  bin/busybox: contents differ\nmanifest.json: ")
    assert "'artifacts' differs" in said


def test_a_changed_root_is_reported_by_file(world: World, closure: Tools, capsys: Out) -> None:
    assert world.image() == 0
    unpacked, forged = world.root / "unpacked", world.root / "forged.img"
    closure.run("unsquashfs", "-quiet", "-no-progress", "-d", str(unpacked), str(world.output / "root.img"))
    (unpacked / "etc/issue").write_text("a forged one!\n")
    (unpacked / "etc/a new one").touch()
    closure.run("mksquashfs", str(unpacked), str(forged), "-quiet", "-no-progress", "-all-root")
    forge(world, "root.img", lambda _: forged.read_bytes())
    capsys.readouterr()
    assert verify(world, definition=world.node) == 1
    said = capsys.readouterr().out
    assert "root.img: differs from its rebuild\n" in said
    assert "  etc/issue: contents differ\n" in said
    assert "  etc/a\\ new\\ one: only in the built one\n" in said
    assert "usr/share/tool/data: contents differ" not in said
    assert verify(world, "--json", definition=world.node) == 1
    (root,) = [each for each in json.loads(capsys.readouterr().out)["artifacts"] if each["name"] == "root.img"]
    (tool,) = [line for line in root["differences"] if line.startswith("usr/bin/tool:")]
    assert "2755 0 42" in tool  # mode and owners are printed as they were and as they should be


def test_the_list_of_files_has_what_a_file_system_hides(world: World, capsys: Out) -> None:
    """A root of a kind that is not looked into: its list says which file of the tree is another."""
    world.node.write_text(
        NODE.replace("squashfs", "erofs").replace("[-comp, lz4]", "[]").replace("[-comp, zstd]", "[]")
    )
    (world.overlay / "etc/odd").write_text("odd\n")
    assert world.image() == 0
    (world.overlay / "etc/odd").chmod(0o755)
    capsys.readouterr()
    assert verify(world, definition=world.node) == 1
    said = capsys.readouterr().out
    assert "root.img: differs from its rebuild\n  its contents differ\n" in said
    assert "files.jsonl: differs from its rebuild\n  /etc/odd: built as file 0644 0:0" in said


def test_a_broken_list_of_files_is_reported(world: World, capsys: Out) -> None:
    assert world.image() == 0
    forge(world, "files.jsonl", lambda data: data[:100])
    capsys.readouterr()
    assert verify(world, definition=world.node) == 1
    assert "  it is damaged: the list of files is broken: " in capsys.readouterr().out


def test_a_name_cannot_command_the_terminal() -> None:
    forged = Artifact("root.img", "1", "1", "2", ("usr/\x1b[2J: contents differ",))
    said = describe(Verdict(Path("out"), (), (forged,)))
    assert "  usr/\\x1b[2J: contents differ\n" in said


@pytest.mark.parametrize("change", [lambda data: data[:-4] + b"fail", lambda data: data[:100]], ids=["edited", "cut"])
def test_a_file_that_changed_since_is_distinguished(
    change: Callable[[bytes], bytes], world: World, capsys: Out
) -> None:
    assert world.image() == 0
    path = world.output / "root.img"
    path.write_bytes(change(path.read_bytes()))
    capsys.readouterr()
    assert verify(world, definition=world.node) == 1
    assert capsys.readouterr().out.startswith("root.img: changed after it was built\n  ")


def test_a_file_that_is_gone_is_reported(world: World, capsys: Out) -> None:
    assert world.container() == 0
    (world.output / "small.tar").unlink()
    capsys.readouterr()
    assert verify(world) == 1
    assert capsys.readouterr().out.startswith("small.tar: it is gone\n")


def other_lock(world: World) -> None:
    world.relock(world.small, "tool", version="2.0")


def other_definition(world: World) -> None:
    world.small.write_text(world.small.read_text() + "remove: [nothing/of/that/name]\n")


def other_overlay(world: World) -> None:
    (world.overlay / "etc/issue").write_text("another world\n")


@pytest.mark.parametrize("change", [other_lock, other_definition, other_overlay])
def test_other_inputs_are_reported_first(change: Callable[[World], None], world: World, capsys: Out) -> None:
    """The bill of materials bears the build's id, so a folder made from anything else is never the same."""
    assert world.container() == 0
    change(world)
    capsys.readouterr()
    assert verify(world) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{world.output} was built from another {change.__name__.removeprefix('other_')}\n")


def test_our_own_definition_is_found_by_name_or_requested(world: World, capsys: Out) -> None:
    assert world.container() == 0
    assert command("osbuild", run, ["verify", str(world.output), "--store", str(world.store)]) == 1
    said = capsys.readouterr().err
    assert "it was built from a definition named 'small' that is not ours" in said
    assert "hint: name it with --definition FILE" in said
    assert verify(world, definition=world.node) == 1
    assert "named 'small', this one is 'node'" in capsys.readouterr().err


def no_folder(world: World) -> None:
    shutil.rmtree(world.output)


def no_manifest(world: World) -> None:
    (world.output / "manifest.json").unlink()


def old_manifest(world: World) -> None:
    value = json.loads((world.output / "manifest.json").read_text())
    del value["inputs"]
    (world.output / "manifest.json").write_text(json.dumps(value))


def climbing_manifest(world: World) -> None:
    text = (world.output / "manifest.json").read_text()
    (world.output / "manifest.json").write_text(text.replace("small.tar", "../../etc/shadow"))


@pytest.mark.parametrize("spoil", [no_folder, no_manifest, old_manifest, climbing_manifest])
def test_a_folder_that_no_build_made_is_reported(spoil: Callable[[World], None], world: World, capsys: Out) -> None:
    assert world.container() == 0
    spoil(world)
    capsys.readouterr()
    assert verify(world) == 1
    said = capsys.readouterr()
    assert ("no build left a manifest here" if spoil is not no_folder else "cannot look into the folder") in said.err
    assert said.out == ""


def test_a_rebuild_that_fails_leaves_nothing(world: World) -> None:
    assert world.container() == 0
    shutil.rmtree(world.mirror)
    shutil.rmtree(world.store / "downloads")
    before = everything(world)
    assert verify(world) == 1
    assert everything(world) == before
    assert world.leftovers() == []


# --- looking into archives -------------------------------------------------------------------------------------------


def test_members_of_a_cpio_archive(tmp_path: Path, closure: Tools) -> None:
    entries = Tree([directory("bin"), file("bin/odd name", b"12345", 0o755), symlink("init", "bin/odd name")])
    path = tmp_path / "initrd"
    path.write_bytes(b"".join(cpio.archive(entries)))
    found = artifacts.members(path, closure, tmp_path)
    assert sorted(found) == ["bin", "bin/odd name", "init"]
    assert found["bin/odd name"].attributes == "100755 0:0 0"
    assert found["bin/odd name"].sha256 == hashlib.sha256(b"12345").hexdigest()
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(Unreadable, match="damaged"):
        artifacts.members(path, closure, tmp_path)


def test_archives_that_follow_each_other_and_a_compressed_one(tmp_path: Path, closure: Tools) -> None:
    """What a network boot and a box are made of."""
    path = tmp_path / "initrd.img"
    path.write_bytes(b"".join(part for name in ("init", "root.img") for part in cpio.archive([file(name, name)])))
    assert sorted(artifacts.members(path, closure, tmp_path)) == ["init", "root.img"]
    box = tmp_path / "x.box"
    archive.tar_gz([Member("metadata.json", b"{}")], box, 0, closure)
    assert sorted(artifacts.members(box, closure, tmp_path)) == ["metadata.json"]
    box.write_bytes(box.read_bytes()[:-20])
    with pytest.raises(Unreadable, match="damaged"):
        artifacts.members(box, closure, tmp_path)


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if isinstance(target, Target)])
def test_every_target_is_looked_into(target: str, tmp_path: Path, closure: Tools) -> None:
    """Down to the file that differs in the root, through compression, disk format, partition and file system, wherever
    the root is one.
    """
    world = World(tmp_path / "world", closure)
    outputs = tmp_path / "built", tmp_path / "rebuilt"
    for output, text in zip(outputs, ("one", "other"), strict=True):
        (world.overlay / "etc/changed").write_text(text)
        assert world.image("--quiet", "--target", target, output=output) == 0
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    names = [path.name for path in outputs[0].iterdir() if path.name not in REPORTS and path.name != "timings.html"]
    lines = {
        name: artifacts.differences(outputs[0] / name, outputs[1] / name, closure, scratch)
        for name in names
        if (outputs[0] / name).read_bytes() != (outputs[1] / name).read_bytes()
    }
    assert lines, names
    report = "\n".join(line for each in lines.values() for line in each)
    assert re.search(r"(^|/)(etc/changed|root\.img): contents differ", report, re.MULTILINE), report
    assert list(scratch.iterdir()) == []


def test_the_same_members_in_another_order(tmp_path: Path, closure: Tools) -> None:
    paths = tmp_path / "one.tar", tmp_path / "other.tar"
    for path, names in zip(paths, ("ab", "ba"), strict=True):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
    (line,) = artifacts.differences(*paths, closure, tmp_path)
    assert "all files in it are the same" in line
