"""Snapshots: files with real QEMU processes of a few instructions, rules of tags and of what may be restored."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trust
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle import certificates, preflight, snapshot
from cluster.lifecycle.restore import restore, take
from cluster.machines import sparse
from cluster.machines.process import Process
from cluster.model.layout import Layout
from cluster.model.protocol import NewToken, Restore
from terminal import Failure, Phases, UsageFailure
from tests.cluster.reported import pid
from tests.cluster.tinyguest import GREETING, tiny_cluster
from tests.eventually import eventually
from tests.ports import free_ports

pytestmark = pytest.mark.slow

BLOCK = 4096


# The greeting, at 0xb0, then the alphabet without end: out; the next letter, after Z comes A; some sixteen million
# turns; again.
COUNTS = (
    bytes.fromhex(
        "baf803 beb000 2eac 84c0 7403 ee ebf7 b041 ee fec0 3c5b 7502 b041 bd0001 b9ffff e2fe 4d 75f8 ebea"
    ).ljust(0x30, b"\0")
    + GREETING
)


def quiet() -> Phases:
    return Phases(quiet=True)


def letters(text: str) -> str:
    return "".join(letter for letter in text.rpartition("instructions")[2] if letter.isupper())


def counts(node: Node) -> bool:
    """Whether it runs, and has said so more than once."""
    return len(letters(node.console_tail())) > 1


def speaks(node: Node) -> bool:
    """Whether anything was said on its console."""
    return len(node.console_tail()) > 3


def another(of: Cluster, name: str) -> Cluster:
    """An empty cluster beside ``of``, to restore into."""
    layout = Layout.of(name)
    ports = free_ports(3)
    description = dataclasses.replace(
        of.description, name=name, runtime=str(layout.runtime), ssh_ports=tuple(ports[:2]), discovery_port=ports[2]
    )
    return Cluster.create(layout, description)


@pytest.fixture
def counting(image: Path) -> Iterator[Cluster]:
    """Two nodes that say the alphabet; what a snapshot wants of a cluster's folder is there."""
    with tiny_cluster(image, COUNTS) as cluster:
        cluster.ask(NewToken(2))
        for path in (cluster.layout.key, cluster.layout.key.with_suffix(".pub")):
            path.write_text("a key")
        certificates.make(cluster.layout.trust, cluster.layout.operator)
        names = zip(cluster.description.ssh_ports, cluster.nodes, strict=True)
        cluster.layout.known_hosts.write_text("".join(f"[127.0.0.1]:{port},{node.name} KEY\n" for port, node in names))
        for node in cluster.nodes:
            (node.folder / "user-data").write_text("#cloud-config\n")
            (node.folder / "state.img").write_bytes(f"disk of {node.name}".encode().ljust(BLOCK, b"\0"))
            os.truncate(node.folder / "state.img", 1 << 30)
            node.start()
        for node in cluster.nodes:
            assert eventually(partial(counts, node))
        yield cluster


def test_machines_go_on_in_another_cluster_from_the_very_letter(counting: Cluster) -> None:
    made = take(counting, "first", quiet())
    made.require_match()
    assert made.bytes < 200 << 20, "holes are kept"
    copy = another(counting, "copy")
    try:
        snapshot.install(made, copy.description, copy.layout)
        assert (copy.nodes[1].folder / "state.img").read_bytes()[:14] == b"disk of node-2"
        assert (copy.nodes[1].folder / "state.img").stat().st_blocks * 512 < 1 << 20
        assert f"[127.0.0.1]:{copy.nodes[1].ssh_port},node-2" in copy.layout.known_hosts.read_text()
        assert trust.issue_node(copy.layout.trust, "node-3", ["10.77.0.13"]).files, "it issues for nodes that join"
        operator = "etcd-client.key"
        assert (copy.layout.operator / operator).read_bytes() == (counting.layout.operator / operator).read_bytes()
        assert copy.layout.services_certificate.read_bytes() == counting.layout.services_certificate.read_bytes()
        copy.launch()
        copy.ask(Restore(str(made.folder)))
        for node in copy.nodes:
            assert eventually(partial(speaks, node))
            said = node.console_tail()
            assert GREETING.decode().strip() not in said, "it did not boot"
            assert said in letters(counting.node(node.name).console_tail()) + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 9
        assert {entry["state"] for entry in counting.status()["nodes"]} == {"running"}, "the first one goes on"
        with pytest.raises(Failure, match="node-1 runs already"):
            copy.nodes[0].start()
        copy.nodes[0].kill()
        copy.nodes[0].start()  # a boot, in memory of its own
        assert eventually(lambda: GREETING.decode().strip() in copy.nodes[0].console_tail())
        again = take(copy, "second", quiet())  # one restored machine with private memory, one booted
        assert not (again.folder / "node-2" / "memory").exists(), "its memory is in the stream"
    finally:
        copy.remove()
    third = another(counting, "third")
    try:
        snapshot.install(again, third.description, third.layout)
        third.launch()
        third.ask(Restore(str(again.folder)))
        assert eventually(lambda: all(len(node.console_tail()) > 3 for node in third.nodes))
    finally:
        third.remove()


def test_what_holds_secrets_is_for_its_owner_alone(counting: Cluster) -> None:
    """Each file, whatever the caller's umask is: it may be copied out of the folder, which is closed, too. The image
    holds none, and stays as it was built: its files are shared.
    """
    (counting.nodes[0].folder / "user-data").write_text("#cloud-config\n# canary\n")
    built = {path: (path.stat().st_mode, path.read_bytes()) for path in counting.layout.image.iterdir()}
    before = os.umask(0)
    try:
        made = take(counting, "private", quiet()).folder
    finally:
        os.umask(before)
    image = made / "image"
    kept = [path for path in made.rglob("*") if path.parent != image]
    assert {"memory", "devices", "state.img", "user-data", "key", "cluster.json"} <= {path.name for path in kept}
    for path in (made, made.parent, *kept):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    holding = {path.name for path in made.rglob("*") if path.is_file() and b"canary" in path.read_bytes()}
    assert holding == {"user-data"}
    assert {path: (path.stat().st_mode, path.read_bytes()) for path in counting.layout.image.iterdir()} == built


def test_a_cluster_with_a_node_off_or_paused_is_not_kept(counting: Cluster) -> None:
    counting.nodes[1].pause()
    with pytest.raises(Failure, match="node-2 is paused"):
        take(counting, "torso", quiet())
    counting.nodes[1].kill()
    with pytest.raises(Failure, match="node-2 is off"):
        take(counting, "torso", quiet())
    assert snapshot.tags() == []
    assert list(snapshot.root().iterdir()) == []


def test_a_snapshot_of_another_machine_or_image_is_refused(counting: Cluster) -> None:
    made = take(counting, "mine", quiet())
    path = made.folder / "snapshot.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "machinery": "QEMU 9.9, tcg"}))
    with pytest.raises(Failure, match=r"made by another machine \(QEMU 9\.9, tcg\)"):
        restore("mine", "other", quiet())
    path.write_text(json.dumps(entry))
    image = made.folder / "image" / "initrd.img"
    image.unlink()
    image.write_bytes(b"another")
    with pytest.raises(Failure, match="image of snapshot 'mine' is not the one"):
        restore("mine", "other", quiet())
    path.write_text("{}")
    with pytest.raises(Failure, match="no snapshot of this version"):
        restore("mine", "other", quiet())
    assert snapshot.discard("mine")
    with pytest.raises(Failure, match="there is no snapshot 'mine'"):
        restore("mine", "other", quiet())
    assert not Layout.of("other").state.exists()


def test_another_cluster_is_not_replaced_by_a_snapshot(counting: Cluster) -> None:
    take(counting, "mine", quiet())
    bystander = another(counting, "bystander")
    dataclasses.replace(bystander.description, ready=True).save(bystander.layout.description)
    with pytest.raises(Failure, match="'bystander' exists, and snapshot 'mine' was not made of it but of 'tiny'"):
        restore("mine", "bystander", quiet())
    assert Cluster.open("bystander").description.ready
    bystander.remove()


@pytest.mark.parametrize("what", ["memory", "room"])
def test_a_cluster_that_runs_is_not_given_up_for_one_that_does_not_fit(
    counting: Cluster, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would give back counts, and is not enough."""
    made = take(counting, "mine", quiet())
    dataclasses.replace(counting.description, ready=True).save(counting.layout.description)
    pids = [pid(counting, index) for index, _ in enumerate(counting.nodes)]
    held = sum(process.memory_bytes for number in pids if (process := Process.of(number)) is not None)
    assert held > 2 * preflight.MIB
    if what == "memory":
        needed = made.description.size * (made.description.memory_mib + preflight.OVERHEAD_MIB["tcg"])
        monkeypatch.setattr(preflight, "free_memory_mib", lambda: needed - held // preflight.MIB - 2)
    else:
        monkeypatch.setattr(preflight, "free_disk_bytes", lambda _: 0)
        monkeypatch.setattr(snapshot, "room_bytes", lambda _: 1 << 40)
    with pytest.raises(Failure, match="MiB of memory" if what == "memory" else "MiB of disk space"):
        restore("mine", counting.name, quiet())
    assert [pid(counting, index) for index, _ in enumerate(pids)] == pids, "it runs on"


def test_a_snapshot_replaces_its_former_self_and_a_failed_one_leaves_nothing() -> None:
    with snapshot.making("mine") as part:
        (part / "snapshot.json").write_text("1")
    with snapshot.making("mine") as part:
        (part / "snapshot.json").write_text("2")
    assert (snapshot.folder_of("mine") / "snapshot.json").read_text() == "2"
    with pytest.raises(OSError, match="full"), snapshot.making("mine") as part:
        raise OSError("disk full")
    assert (snapshot.folder_of("mine") / "snapshot.json").read_text() == "2"
    assert [path.name for path in snapshot.root().iterdir()] == ["mine"]


def test_what_a_killed_command_left_is_cleaned_by_the_next_and_a_living_one_is_left_alone() -> None:
    (snapshot.root() / ".dead-1").mkdir(parents=True)
    (snapshot.root() / ".dead-1" / "memory").write_bytes(b"x")
    inside, done = threading.Event(), threading.Event()

    def slowly() -> None:
        with snapshot.making("slow") as part:
            inside.set()
            done.wait(20)
            (part / "snapshot.json").write_text("whole")

    other = threading.Thread(target=slowly)
    other.start()
    inside.wait(20)
    snapshot.clean()
    assert not (snapshot.root() / ".dead-1").exists()
    done.set()
    other.join()
    assert (snapshot.folder_of("slow") / "snapshot.json").read_text() == "whole"


def test_automatic_snapshots_are_forgotten_oldest_first_and_named_ones_never() -> None:
    for age, tag in enumerate(["auto-1", "auto-2", "mine", "auto-3", "auto-4", "auto-5"]):
        with snapshot.making(tag) as part:
            (part / "snapshot.json").write_text("{}")
        os.utime(snapshot.folder_of(tag) / "snapshot.json", (age, age))
    snapshot.forget_old_automatic()
    assert snapshot.tags() == ["auto-5", "auto-4", "auto-3", "mine"]


@pytest.mark.parametrize("tag", ["", "A", "../x", ".x", "a" * 40, "a b"])
def test_a_tag_that_is_none(tag: str) -> None:
    with pytest.raises(UsageFailure, match="is no tag"):
        snapshot.folder_of(tag)


@given(
    st.lists(st.tuples(st.integers(0, 64), st.binary(min_size=1, max_size=3 * BLOCK)), max_size=6), st.integers(0, 70)
)
def test_a_sparse_copy_is_equal_and_no_larger(writes: list[tuple[int, bytes]], blocks: int) -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"])
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        file.truncate(blocks * BLOCK)
        for block, data in writes:
            file.seek(block * BLOCK)
            file.write(data)
    target.unlink(missing_ok=True)
    sparse.copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 16


def test_memory_is_copied_to_a_file_of_another_file_system(tmp_path: Path) -> None:
    memory = os.memfd_create("memory")
    os.truncate(memory, 1 << 30)
    os.pwrite(memory, b"begin", 0)
    os.pwrite(memory, b"end", (1 << 30) - 3)
    with (tmp_path / "copy").open("wb") as copy:
        sparse.copy_sparse(memory, copy.fileno())
    os.close(memory)
    with (tmp_path / "copy").open("rb") as copy:
        assert copy.read(5) == b"begin"
        copy.seek(-3, os.SEEK_END)
        assert copy.read() == b"end"
    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20
