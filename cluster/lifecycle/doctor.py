"""What this computer can do for clusters.

Each check reports what was checked, what was found, and what to do about it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.core.architecture import HOST
from cluster.client import cluster
from cluster.lifecycle import cleanup, preflight, snapshot
from cluster.machines import hosts, probe, qemu
from cluster.machines.namespaces import requirements
from cluster.machines.qemu import Qemu
from cluster.model.accelerator import Accelerator
from cluster.model.connection_uri import Place
from cluster.model.description import Description
from cluster.model.layout import Layout, cache_root, clusters_root
from terminal import Failure

NODE_MIB = 1024
"""Memory of a node by default."""
SIZE = 3
"""Of the cluster that there should be room for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of ``name``.

    It is "good", only "fair" (``advice`` makes it better), or "bad" (nothing works without ``advice``).
    """

    name: str
    state: Literal["good", "fair", "bad"]
    found: str
    advice: str = ""


@dataclass(slots=True)
class Diagnosis:
    """All findings, and what of them other programs want to know."""

    findings: list[Finding]
    program: Qemu | None = None
    chosen: Accelerator | None = None

    @property
    def is_fit(self) -> bool:
        """Whether clusters can be run here."""
        return all(finding.state != "bad" for finding in self.findings)


def examine(swept: list[cleanup.Leftover] | None = None, connections: Sequence[Place] = ()) -> Diagnosis:
    """Look at everything, the accelerator by running a guest, and libvirt at ``connections``.

    ``swept`` is what this very command has cleaned up already.
    """
    diagnosis = Diagnosis([])
    for check in (_qemu, _accelerator, _kvm):
        diagnosis.findings += check(diagnosis)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_namespaces, _memory, _disk, _ssh, _clusters, _snapshots)
    for look in checks:
        diagnosis.findings += look()
    diagnosis.findings += [_libvirt(place) for place in connections]
    diagnosis.findings += _left_behind(swept or [])
    return diagnosis


def _libvirt(place: Place) -> Finding:
    """What ``--driver libvirt`` finds at ``place``; it is optional."""
    try:
        said = f"libvirt {hosts.require_connection(place)}"
        if not place.is_local:
            found = hosts.survey(place, HOST, "auto")
            how = found.accelerator
            said += f", QEMU {found.qemu.version_text}, {how.name} ({how.reason}), {found.free_memory_mib} MiB of memory free"
    except Failure as failure:
        return Finding(place.uri, "fair", f"not here: {failure.message}", failure.hint or "")
    return Finding(place.uri, "good", said)


def _qemu(diagnosis: Diagnosis) -> Iterator[Finding]:
    try:
        diagnosis.program = program = qemu.find()
    except Failure as failure:
        yield _bad("QEMU", failure)
        return
    yield Finding("QEMU", "good", f"{program.version_text}, {program.path}")


def _accelerator(diagnosis: Diagnosis) -> Iterator[Finding]:
    if diagnosis.program is None:
        return
    cache = cache_root() / "accelerator.json"
    cache.unlink(missing_ok=True)
    try:
        diagnosis.chosen = chosen = probe.remembered(diagnosis.program, cache)
    except Failure as failure:
        yield _bad("accelerator", failure)
        return
    if chosen.name == "kvm":
        yield Finding("accelerator", "good", f"kvm: {chosen.reason}")
        return
    advice = "nodes are emulated, some ten times slower; all works. On a cloud machine, ask for nested virtualization"
    yield Finding(
        "accelerator", "fair", f"{chosen.name}, waits are {chosen.factor:g} times longer: {chosen.reason}", advice
    )


def _kvm(diagnosis: Diagnosis) -> Iterator[Finding]:
    device = Path("/dev/kvm")
    if diagnosis.chosen is not None and diagnosis.chosen.name == "kvm":
        yield Finding("/dev/kvm", "good", "runs guests")
    elif not device.exists():
        yield Finding(
            "/dev/kvm",
            "fair",
            "is not there",
            "switch virtualization on in the firmware; modprobe kvm_intel or kvm_amd",
        )
    elif not _is_open_to_us(device):
        yield Finding(
            "/dev/kvm", "fair", "may not be opened by this user", "sudo usermod -aG kvm $USER, and log in again"
        )
    else:
        yield Finding(
            "/dev/kvm",
            "fair",
            "opens, but runs no guest",
            "nothing can be done from in here: this computer is virtual itself",
        )


def _is_open_to_us(device: Path) -> bool:
    try:
        device.open("r+b", buffering=0).close()
    except OSError:
        return False
    return True


def _namespaces() -> Iterator[Finding]:
    if missing := requirements.lacks():
        yield Finding(
            "namespaces", "fair", f"no nodes without virtual machines: {'; '.join(missing)}", requirements.HINT
        )
    else:
        yield Finding("namespaces", "good", "--driver namespaces works here: three nodes in seconds")


def _memory() -> Iterator[Finding]:
    free = preflight.free_memory_mib()
    each = NODE_MIB + preflight.OVERHEAD_MIB["tcg"]
    found = f"{free} MiB are free: {free // each} nodes of {NODE_MIB} MiB"
    if free < each:
        yield Finding("memory", "bad", found, "end something that takes memory, or --memory 512")
    elif free < SIZE * each:
        yield Finding(
            "memory",
            "fair",
            found,
            f"--memory {max(free // SIZE - preflight.OVERHEAD_MIB['tcg'], preflight.MEMORY_MIB_MIN)} for {SIZE} nodes",
        )
    else:
        yield Finding("memory", "good", found)


def _disk() -> Iterator[Finding]:
    folder = Layout.of("default").state
    free = preflight.free_disk_bytes(folder) // preflight.MIB
    found = f"{free} MiB are free where clusters are kept ({clusters_root()})"
    if free < SIZE * preflight.DISK_MIB:
        yield Finding(
            "disk", "bad" if free < preflight.DISK_MIB else "fair", found, "make room, or XDG_STATE_HOME=/big/disk"
        )
    else:
        yield Finding("disk", "good", found)


def _ssh() -> Iterator[Finding]:
    program = shutil.which("ssh")
    if program is None:
        yield Finding(
            "ssh client",
            "fair",
            "none: 'cluster ssh NODE' has no shell, only commands",
            "sudo apt-get install openssh-client",
        )
    else:
        yield Finding("ssh client", "good", program)


def _clusters() -> Iterator[Finding]:
    for name in cluster.Cluster.names():
        try:
            Description.load(Layout.of(name).description)
        except FileNotFoundError:
            continue
        except Failure as failure:
            yield Finding(f"cluster {name}", "fair", failure.message, f"cluster down --name {name}")


def _snapshots() -> Iterator[Finding]:
    for tag in snapshot.tags():
        try:
            found = snapshot.Snapshot.open(tag)
            found.require_match()
        except Failure as failure:
            yield Finding(f"snapshot {tag}", "fair", failure.message, f"cluster snapshots --remove {tag}")
        else:
            yield Finding(
                f"snapshot {tag}", "good", f"{found.description.size} nodes, {found.bytes // preflight.MIB} MiB"
            )


def _left_behind(swept: list[cleanup.Leftover]) -> Iterator[Finding]:
    for leftover in swept:
        yield Finding(f"leftover {leftover.name}", "good", f"{leftover.what}: cleaned up just now")
    left = cleanup.find()
    for leftover in left:
        yield Finding(
            f"leftover {leftover.name}",
            "fair",
            leftover.what,
            "a command may be using it; else the next one cleans it up",
        )
    if not left and not swept:
        yield Finding("left behind", "good", "nothing")


def _bad(name: str, failure: Failure) -> Finding:
    where = f" ({failure.where})" if failure.where else ""
    return Finding(name, "bad", failure.message + where, failure.hint or "")
