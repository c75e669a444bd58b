"""Snapshots: a running cluster in a folder, from which a cluster of any name goes on where it stood.

    $XDG_STATE_HOME/flotilla/snapshots/TAG/
        snapshot.json       what it is (:class:`Snapshot`)
        key, key.pub, known_hosts, discovery.json, services.pem, image/, trust/, operator/      as in a cluster's folder
        node-1/             memory, devices, state.img (sparse), cidata.iso, user-data

All of it is for its owner alone, since memory, disks and user-data hold the nodes' secrets. Memory is mapped from here
by every restored cluster, each writing to private copies of its pages; what a node knows
(addresses, keys, the discovery service's URL) does not depend on the cluster's name or on this computer's ports. A
snapshot is only restored by what made it: the same QEMU (its build), command line, processor and image.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.lifecycle import preflight
from cluster.lifecycle.provision import install_image
from cluster.machines import qemu
from cluster.machines.sparse import copy_file
from cluster.model.description import Description
from cluster.model.layout import NAME_PATTERN, Layout, clusters_root
from cluster.model.machine import Machine, argv
from terminal import Failure, UsageFailure, record

VERSION = 3
"""Those before 3 had no certificates."""
SHARED_FILES = ("key", "key.pub", "discovery.json")
SERVICES_CERTIFICATE = "services.pem"
"""Shared likewise, unless the cluster is of before it had one: its nodes know this computer's services without TLS."""
SHARED_FOLDERS = ("trust", "operator")
NODE_FILES = ("cidata.iso", "user-data")
AUTOMATIC = "auto-"
"""Begins the tags of snapshots that were not made by name; the oldest of them are removed."""
AUTOMATIC_MAX = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What a snapshot is: the content of ``snapshot.json``."""

    tag: str
    made_at: float
    """Seconds since 1970; the moment at which the nodes' clocks stand."""
    image: str
    """:func:`image_hash` of the image."""
    machinery: str
    """:func:`machinery` that made it."""
    description: Description

    @property
    def folder(self) -> Path:
        """Where it is."""
        return folder_of(self.tag)

    @classmethod
    def open(cls, tag: str) -> Snapshot:
        """The snapshot ``tag``.

        Raises :class:`Failure` if there is none, or if it is of another version of this program.
        """
        path = folder_of(tag) / "snapshot.json"
        try:
            data = record.parse(path.read_bytes())
            version = data.pop("v", None) if isinstance(data, dict) else None
            if version in (1, 2):
                hint = f"make it again: cluster snapshots --remove {tag}, cluster up, then cluster snapshot {tag}"
                message = "this snapshot is of a version whose nodes had no certificates"
                raise Failure(message, where=str(path), hint=hint)
            if version != VERSION:
                raise ValueError("another version")
            description = Description.load(path.with_name("cluster.json"))
            return record.build(cls, {**data, "description": description})
        except FileNotFoundError:
            known = ", ".join(tags()) or "none"
            raise Failure(
                f"there is no snapshot {tag!r} (there are: {known})", hint=f"cluster snapshot {tag}"
            ) from None
        except (OSError, ValueError) as error:
            hint = f"remove it: cluster snapshots --remove {tag}"
            raise Failure("this is no snapshot of this version", where=str(path), hint=hint) from error

    @property
    def bytes(self) -> int:
        """The room that it takes on disk."""
        return sum(path.lstat().st_blocks * 512 for path in self.folder.rglob("*"))

    def require_match(self) -> None:
        """Raise :class:`Failure` unless it would continue here exactly as where it was made.

        QEMU must be the one that made it, and the image must have the same bytes.
        """
        ours = machinery_of(self.description)
        hint = f"make a new one: cluster up {self.description.size}, then cluster snapshot {self.tag}"
        if ours != self.machinery:
            raise Failure(
                f"snapshot {self.tag!r} was made by another machine ({self.machinery}), here is {ours}", hint=hint
            )
        if image_hash(self.folder / "image") != self.image:
            raise Failure(f"the image of snapshot {self.tag!r} is not the one that it was made of", hint=hint)


def root() -> Path:
    """The folder of this user's snapshots."""
    return clusters_root().with_name("snapshots")


def folder_of(tag: str) -> Path:
    """Where the snapshot ``tag`` is or would be. Raises :class:`UsageFailure` for an invalid tag."""
    if not NAME_PATTERN.fullmatch(tag):
        raise UsageFailure(
            f"{tag!r} is no tag", hint="a letter, then letters, digits and dashes, all lower case: 'healthy'"
        )
    return root() / tag


def tags() -> list[str]:
    """This user's snapshots, newest first."""
    found = [path.parent for path in root().glob("*/snapshot.json") if NAME_PATTERN.fullmatch(path.parent.name)]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def image_hash(folder: Path) -> str:
    """A hash of all that a node boots. The root's own hash is in the command line, if the image has one (dm-verity)."""
    cmdline = (folder / "cmdline").read_bytes()
    names = ["vmlinuz", "initrd.img"] + ([] if b"flotilla.verity=" in cmdline else ["root.img"])
    digest = hashlib.sha256(cmdline)
    for name in names:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def machinery(architecture: str, accelerator: str, memory_mib: int) -> str:
    """What must be the same to restore, in one line for people to compare.

    It has QEMU's build, a node's command line, and with KVM the processor.
    """
    program = qemu.find(architecture=architecture)
    nowhere = Path("/")
    node = Machine(
        number=1,
        name="node",
        accelerator=accelerator,
        memory_mib=memory_mib,
        image=nowhere,
        cmdline="",
        architecture=architecture,
        state_disk=nowhere,
        cidata=nowhere,
        console=nowhere,
        net_socket=nowhere,
        qmp_socket=nowhere,
        shell_socket=nowhere,
        ssh_port=1,
        forward=(),
    )
    shape = hashlib.sha256(json.dumps(argv(nowhere, node, 0)).encode()).hexdigest()[:8]
    text = f"QEMU {program.build}, {accelerator}, command line {shape}"
    return f"{text}, {_processor()}" if accelerator != "tcg" else text


def machinery_of(description: Description) -> str:
    """:func:`machinery` for the nodes of a cluster."""
    return machinery(description.architecture, description.accelerator.name, description.memory_mib)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", text)
    features = hashlib.sha256(flags[1].encode() if flags else b"").hexdigest()[:8]
    return f"{model[1] if model else 'processor'} ({features})"


@contextmanager
def making(tag: str) -> Iterator[Path]:
    """A folder to fill.

    When the block ends without an error, it becomes the snapshot ``tag``, in place of a former one; else it is removed.
    """
    target = folder_of(tag)
    root().mkdir(mode=0o700, parents=True, exist_ok=True)
    clean()
    part = root() / f".{tag}-{os.getpid()}"
    part.mkdir(mode=0o700)
    lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # shows clean() that it is in use
        yield part
        _make_private(part)
        discard(tag)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _make_private(folder: Path) -> None:
    """What is in ``folder``, too, if it is copied elsewhere. The image has no secrets, and its files are the build's."""
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
        elif path.parent != folder / "image":
            path.chmod(0o600)


def clean() -> None:
    """Remove what killed commands left half-made."""
    for part in root().glob(".*"):
        with suppress(OSError):
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(part)
            finally:
                os.close(lock)


def discard(tag: str) -> bool:
    """Remove the snapshot ``tag``; running clusters made from it keep its memory. Returns whether there was one."""
    away = root() / f".{tag}-{os.getpid()}-old"
    try:
        folder_of(tag).rename(away)  # first out of sight in one step
    except FileNotFoundError:
        return False
    shutil.rmtree(away)
    return True


def forget_old_automatic() -> None:
    """Keep :data:`AUTOMATIC_MAX` automatic snapshots, those restored last."""
    for tag in [tag for tag in tags() if tag.startswith(AUTOMATIC)][AUTOMATIC_MAX:]:
        discard(tag)


def write(part: Path, tag: str, description: Description, layout: Layout) -> None:
    """Put what a snapshot has beside the machines into the folder ``part``. Raises OSError."""
    for name in _shared_files(description):
        shutil.copyfile(layout.state / name, part / name)
        (part / name).chmod(0o600)
    for name in SHARED_FOLDERS:
        shutil.copytree(layout.state / name, part / name)
    text = layout.known_hosts.read_text()
    (part / "known_hosts").write_text(
        _with_ports(text, dict(zip(description.ssh_ports, description.numbers, strict=True)))
    )
    install_image(layout.image, part / "image")
    for number in description.numbers:
        for name in NODE_FILES:
            shutil.copyfile(layout.node(number) / name, part / f"node-{number}" / name)
            (part / f"node-{number}" / name).chmod(0o600)
    description.save(part / "cluster.json")
    made = {
        "v": VERSION,
        "tag": tag,
        "made_at": time.time(),
        "image": image_hash(part / "image"),
        "machinery": machinery_of(description),
    }
    (part / "snapshot.json").write_text(json.dumps(made, indent=1) + "\n")


def install(snapshot: Snapshot, description: Description, layout: Layout) -> None:
    """Fill the folder of the new cluster ``description`` with what ``snapshot`` has. Raises OSError."""
    folder = snapshot.folder
    for name in _shared_files(description):
        shutil.copyfile(folder / name, layout.state / name)
        (layout.state / name).chmod(0o600)
    for name in SHARED_FOLDERS:
        shutil.copytree(folder / name, layout.state / name)
    ports = dict(zip(description.numbers, description.ssh_ports, strict=True))
    layout.known_hosts.write_text(_with_ports((folder / "known_hosts").read_text(), ports))
    layout.known_hosts.chmod(0o600)
    install_image(folder / "image", layout.image)
    for number in description.numbers:
        layout.node(number).mkdir()
        for name in NODE_FILES:
            shutil.copyfile(folder / f"node-{number}" / name, layout.node(number) / name)
            (layout.node(number) / name).chmod(0o600)
    with ThreadPoolExecutor(2) as executor:
        disks = [(folder / f"node-{number}" / "state.img", layout.node(number) / "state.img") for number in ports]
        list(executor.map(lambda pair: copy_file(*pair), disks))
    os.utime(folder / "snapshot.json")  # when it was used last


def _shared_files(description: Description) -> tuple[str, ...]:
    return (*SHARED_FILES, SERVICES_CERTIFICATE) if description.services_fingerprint else SHARED_FILES


def room_bytes(snapshot: Snapshot) -> int:
    """What a cluster restored from ``snapshot`` takes on disk at once: its state disks."""
    disks = snapshot.folder.glob("node-*/state.img")
    return sum(path.stat().st_blocks * 512 for path in disks) + preflight.MIB


def _with_ports(known_hosts: str, numbers: dict[int, int]) -> str:
    """The lines of ``known_hosts`` with each port of this computer replaced by its entry in ``numbers``."""
    return re.sub(r"(?m)^\[127\.0\.0\.1\]:(\d+)", lambda match: f"[127.0.0.1]:{numbers[int(match[1])]}", known_hosts)
