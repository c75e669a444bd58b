"""Where user-data comes from. The source is named, never guessed: by an option, or on the kernel command line.

``nocloud``: a block device whose virtio serial number is ``cidata``, or that udev found by the label ``cidata``, or a
CD drive with a disk of that label, holding ISO 9660 with ``user-data`` and ``meta-data``, and perhaps
``network-config``. ``installed``: the same as files on the state partition, where an installation left them. ``ec2``,
``openstack``: the metadata service of a cloud (:mod:`cloudconfig.node.cloud`), once there is a network. ``file:PATH``:
a file with user-data and no meta-data. ``none``: nothing to do.

Several, separated by commas (``installed,nocloud``): the first that exists is used; only the last is waited for, and it
is no failure if none exists. One that exists and is broken is a failure: the next one would not be what the user wants.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cloudconfig.node import drives, guard, iso
from cloudconfig.node.status import Trouble
from cloudconfig.text import yamltree
from cloudconfig.text.userdata import INFLATED_MAX
from terminal import Failure, UsageFailure

LABEL = "cidata"
NETWORKED = ("ec2", "openstack")
INSTALLED = Path("/var/lib/flotilla")
"""Where ``flotilla-install`` puts ``user-data`` and ``meta-data``, mode 0600."""
# Disks are there before us (the initrd waits for the root disk, on the same bus), CD drives are brought up; a USB stick
# may be slower.
WAIT_S = 10.0
_OPTION = re.compile(r"(?:^|\s)flotilla\.datasource=(\S*)")


class Absent(Failure):
    """A datasource that does not exist; one that exists and is broken is any other Failure."""


class OfflineError(Exception):
    """It is the turn of a datasource that only a network leads to."""


class Seed(NamedTuple):
    """What a datasource gave: ``source`` for people, user-data bytes, what meta-data says (empty if it does not), all
    of ``meta``-data that is plain text by key, ``notes`` on what was there and not read, and ``damage``: what is wrong
    with the rest of the datasource. ``addresses`` are by names of :mod:`cloudconfig.text.addresses`; ``network`` is the
    text of network-config."""

    source: str
    user_data: bytes
    instance_id: str = ""
    hostname: str = ""
    keys: tuple[str, ...] = ()
    meta: Mapping[str, object] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    damage: tuple[Trouble, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    network: bytes = b""


def chosen(name: str, command_line: str) -> str:
    """The datasource that ``auto`` means on a kernel command line (last one wins), any other name unchanged."""
    if name != "auto":
        return name
    found = _OPTION.findall(command_line)
    return found[-1] if found else "none"


def check(name: str) -> None:
    """Raise UsageFailure unless ``name`` is a datasource, or several."""
    several = "," in name
    for each in name.split(","):
        if each in NETWORKED:
            if each != name.rpartition(",")[2]:
                raise UsageFailure(
                    f"{each} must be the last", hint="that it is not there shows after waiting for it: installed,ec2"
                )
            continue
        if each in ("installed", "nocloud") or each.startswith("file:") or (each in ("auto", "none") and not several):
            continue
        raise UsageFailure(
            f"no datasource is called {each!r}" if each not in ("auto", "none") else f"{each!r} stands alone",
            hint="there are: auto, ec2, installed, nocloud, openstack, file:PATH, none; installed,nocloud means the "
            "first that is there",
        )


def fetch(name: str, *, online: bool = True, wait_s: float = WAIT_S, system: Path = Path("/")) -> Seed | None:
    """Get the seed of the datasource ``name`` (not auto), None for ``none``, and if of several none is there.

    Raises Failure, and OfflineError if it takes a network and we are not ``online`` yet.
    """
    if name in ("none", ""):
        return None
    check(name)
    *first, last = name.split(",")
    for each in first:
        try:
            return _fetch(each, 0, system)
        except Absent:
            continue
    if last in NETWORKED:
        if not online:
            raise OfflineError(last)
        return _networked(last)
    try:
        return _fetch(last, wait_s, system)
    except Absent:
        if first:
            return None
        raise


def _fetch(name: str, wait_s: float, system: Path) -> Seed:
    if name == "nocloud":
        return nocloud(system=system, wait_s=wait_s)
    if name == "installed":
        return installed(system)
    path = name.removeprefix("file:")
    return Seed(name, _read(Path(path)))


def _networked(name: str) -> Seed:
    from cloudconfig.node import cloud  # half a second of boot time that no other datasource needs

    metadata = cloud.KINDS[name](cloud.Service())
    return Seed(
        name,
        metadata.user_data,
        metadata.instance_id,
        metadata.hostname,
        metadata.keys,
        damage=metadata.damage,
        addresses=metadata.addresses,
    )


def installed(system: Path = Path("/")) -> Seed:
    """Read the files that an installation left on the state partition. Raises Failure."""
    folder = system / INSTALLED.relative_to("/")
    found = {}
    for name in ("user-data", "meta-data", "network-config"):
        try:
            found[name] = _read(folder / name)
        except Absent:
            continue
    if not found:
        raise Absent("there is neither user-data nor meta-data", where=str(folder))
    seed = Seed("installed", found.get("user-data", b""), network=found.get("network-config", b""))
    return _with_meta_data(seed, found.get("meta-data", b""))


def nocloud(
    *,
    system: Path = Path("/"),
    wait_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Seed:
    """Read the seed volume, waiting up to ``wait_s`` seconds for its device. Raises Failure."""
    if find_device(system) is None:
        drives.bring_up(system, drives.load)
    end = clock() + wait_s
    while True:
        device = find_device(system)
        if device is not None:
            return read_volume(device)
        if clock() >= end:
            raise Absent(
                f"no volume called {LABEL} after {wait_s:g} s",
                where="nocloud",
                hint="attach the seed as a disk with serial=cidata, or leave flotilla.datasource away",
            )
        sleep(0.1)


def find_device(system: Path) -> Path | None:
    """The device node of the seed volume, None if there is none yet."""
    try:
        names = sorted(os.listdir(system / "sys/block"))  # noqa: PTH208 - pathlib costs an object per disk
    except OSError:
        names = []
    # First the serial number, which only the hypervisor can set: any stick that is plugged in may have the label.
    for name in names:
        try:
            serial = (system / "sys/block" / name / "serial").read_text("ascii", "replace").strip()
        except OSError:
            continue
        device = system / "dev" / name
        if serial == LABEL and device.exists():
            return device
    by_label = system / "dev/disk/by-label" / LABEL
    return by_label if by_label.exists() else drives.labelled(system, LABEL)


def read_volume(device: Path) -> Seed:
    """Read a seed volume from a device or image file.

    Returns those of its files that can be read. Raises Failure if it is no such volume."""
    files: dict[str, bytes] = {}
    damage: list[Trouble] = []
    try:
        with device.open("rb") as volume:
            found = iso.label(volume)
            if found.lower() != LABEL:
                raise Failure(f"the volume's label is {found!r}, not {LABEL}", where=str(device))
            for name in ("user-data", "meta-data", "network-config", "vendor-data"):
                files |= guard.attempt(partial(iso.read, volume, (name,)), damage.append) or {}
    except iso.IsoError as error:
        raise Failure("the seed volume cannot be read", where=str(device)) from error
    except OSError as error:
        raise Failure(f"the seed volume cannot be read: {error.strerror}", where=str(device)) from error
    if "user-data" not in files and "meta-data" not in files:
        if damage:
            raise Failure(f"the seed volume cannot be read: {damage[0].message}", where=str(device))
        raise Failure("the seed volume has neither user-data nor meta-data", where=str(device))
    notes = ("vendor-data is there and not read: only user-data is",) if files.get("vendor-data", b"").strip() else ()
    network = files.get("network-config", b"")
    seed = Seed("nocloud", files.get("user-data", b""), notes=notes, network=network, damage=tuple(damage))
    return _with_meta_data(seed, files.get("meta-data", b""))


def _with_meta_data(seed: Seed, data: bytes) -> Seed:
    """The same without raising: broken meta-data must not hold back the keys of user-data."""
    damage: list[Trouble] = []
    found = guard.attempt(partial(with_meta_data, seed, data), damage.append)
    return found or seed._replace(damage=(*seed.damage, *damage))


def with_meta_data(seed: Seed, data: bytes) -> Seed:
    """Add what ``meta-data`` (YAML: instance-id, local-hostname, public-keys, local-ipv4, public-ipv4) says.

    Raises Failure when it is broken."""
    tree = yamltree.read(data.decode("utf-8", "replace"))
    if tree.findings:
        finding = tree.findings[0]
        raise Failure(finding.message, where=f"meta-data line {finding.line}", hint=finding.hint or None)
    if not isinstance(tree.root, yamltree.Mapping):
        return seed
    values = {key.text: value for key, value in tree.root.pairs}
    return seed._replace(
        instance_id=_text(values.get("instance-id")),
        hostname=_text(values.get("local-hostname")),
        keys=_keys(values.get("public-keys")),
        meta={name: text for name, value in values.items() if (text := _text(value))},
        addresses=tuple(
            (name, text)
            for name, key in (("private_ipv4", "local-ipv4"), ("public_ipv4", "public-ipv4"))
            if (text := _text(values.get(key)))
        ),
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2 * INFLATED_MAX)
    except FileNotFoundError as error:
        raise Absent("there is no such file", where=str(path)) from error
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=str(path)) from error


def _text(node: yamltree.Node | None) -> str:
    return node.text if isinstance(node, yamltree.Scalar) and not node.null else ""


def _keys(node: yamltree.Node | None) -> tuple[str, ...]:
    """SSH keys of meta-data: one text, a list, or a mapping of names to keys; clouds differ."""
    if isinstance(node, yamltree.Sequence):
        return tuple(key for item in node.items if (key := _text(item)))
    if isinstance(node, yamltree.Mapping):
        return tuple(key for _name, item in node.pairs if (key := _text(item)))
    return tuple(line for line in _text(node).splitlines() if line.strip())
