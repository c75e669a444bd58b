"""Disks of cloud-init's keys: swap, mounts, disk_setup, fs_setup.

They become units below /run, made at each boot; only docker waits for them.

Nothing that holds data is touched: a partition table is made on an empty disk, a file system where there is none.
``overwrite: true`` erases, once for a state partition. The tools are the image's: systemd-repart (GPT only), mkfs.ext4,
mkswap.
"""

from __future__ import annotations

import re
import shlex

from cloudconfig.text import yamltree
from cloudconfig.text.reader import Fields, Reader, kind
from cloudconfig.text.schema import Disk, Need, Unit
from cloudconfig.text.yamltree import Node, Scalar

DISKS_UNIT = "cloudconfig-disks.service"
DISKS_SCRIPT = "/run/cloudconfig/disks/script"
SWAP_UNIT = "cloudconfig-swap.service"
# disk_setup and fs_setup run as this, each line beginning with a function of it.
PRELUDE = """\
#!/bin/sh
# Made by cloudconfig of disk_setup and fs_setup.
failed=0
say() { echo "cloudconfig: $*" >&2; }
there() {
    [ -b "$1" ] && return 0
    say "$1: no such disk"; failed=1; return 1
}
erased() { # device, what it becomes: true if it was erased for this already
    mark=/var/lib/cloudconfig/erased-$(printf %s "$*" | sha256sum | cut -c1-32)
    [ -e "$mark" ]
}
idle() {
    grep -q "^$1" /proc/mounts /proc/swaps || return 0
    say "$1: is in use, left alone"; failed=1; return 1
}
partition() { # device, folder with what systemd-repart reads, overwrite
    there "$1" || return 0
    how=require
    if [ "$3" = yes ] && ! erased "$@"; then
        idle "$1" || return 0
        how=force
    elif [ -n "$(blkid -p -o value -s PTTYPE "$1")$(blkid -p -o value -s TYPE "$1")" ]; then
        return 0
    fi
    if systemd-repart --dry-run=no --empty=$how --no-pager --definitions="$2" "$1" >/dev/null; then
        udevadm settle --timeout=10
        if [ "$how" = force ]; then : >"$mark"; fi
    else
        say "$1: cannot be partitioned"; failed=1
    fi
}
filesystem() { # device, partition, overwrite, type, and mkfs with its options
    there "$1" || return 0
    name=$1; part=$2; overwrite=$3; type=$4; shift 4
    device=$(readlink -f "$name") # links of udev number their partitions otherwise
    case $device in *[0-9]) numbered=${device}p ;; *) numbered=$device ;; esac
    case $part in
        none) ;;
        auto) if [ -b "${numbered}1" ]; then device=${numbered}1; fi ;;
        *) device=$numbered$part ;;
    esac
    there "$device" || return 0
    found=$(blkid -p -o value -s TYPE "$device")
    if [ -n "$found" ]; then
        if [ "$overwrite" != yes ] || erased "$name" "$part" "$type"; then return 0; fi
        idle "$device" || return 0
        wipefs --all --quiet "$device"
    fi
    if "$@" "$device" >/dev/null; then
        if [ "$overwrite" = yes ]; then erased "$name" "$part" "$type" || : >"$mark"; fi
        udevadm settle --timeout=10
    else
        say "$device: no file system of type $type could be made"; failed=1
    fi
}
"""
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_./:+-]{1,200}")
_SHORT = re.compile(r"(?:[svx]|xv)d[a-z]{1,2}[0-9]*|nvme[0-9]+n[0-9]+(?:p[0-9]+)?|mmcblk[0-9]+(?:p[0-9]+)?")
_TAG = re.compile(r"(LABEL|UUID|PARTLABEL|PARTUUID)=([A-Za-z0-9_.+-]{1,64})")
_EPHEMERAL = re.compile(r"(ephemeral|ebs|root|ami|swap)[0-9.]*")
_OPTIONS = re.compile(r"[A-Za-z0-9_.,=:/+@%-]{1,1000}")
_TYPE = re.compile(r"[a-z0-9_.-]{1,32}")
_SIZE = re.compile(r"([0-9]{1,12})(?:\.0*)?([KMGT]?)i?B?", re.IGNORECASE)
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LABEL_OPTIONS = {"ext2": "-L", "ext3": "-L", "ext4": "-L", "swap": "-L", "xfs": "-L", "btrfs": "-L", "vfat": "-n"}
_SWAP_MIN = 1 << 20
_PERCENT = 100
_DOCKER = "Before=docker.service"


def mount_unit_name(path: str, suffix: str = "mount") -> str:
    """The name of the unit for a path, as ``systemd-escape --path`` has it."""
    text = path.strip("/")
    if not text:
        return f"-.{suffix}"
    pieces = [
        char
        if char.isascii() and (char.isalnum() or char in ":_" or (char == "." and index))
        else "-"
        if char == "/"
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for index, char in enumerate(text)
    ]
    return f"{''.join(pieces)}.{suffix}"


def mounts(reader: Reader, top: Fields) -> tuple[tuple[Unit, ...], tuple[Need, ...]]:
    """``mounts``: [device, place, type, options, ...], as fstab(5) has them.

    ``mount_default_fields`` for what is left out."""
    defaults = [None, None, "auto", "defaults,nofail", "0", "2"]
    for index, (_path, node) in enumerate(reader.items(top, "mount_default_fields")[: len(defaults)]):
        if isinstance(node, Scalar) and not node.null:
            defaults[index] = node.text
    units: list[Unit] = []
    needs: list[Need] = []
    for path, node in reader.items(top, "mounts"):
        reader.mark(path, node)
        if not isinstance(node, yamltree.Sequence) or not node.items:
            reader.error(node, path, f"must be a list [device, place, type, options], is {kind(node)}")
            continue
        if not all(isinstance(item, Scalar) for item in node.items):
            reader.error(node, path, "must be a list of words")
            continue
        words = [item.text.strip() if isinstance(item, Scalar) and not item.null else None for item in node.items]
        fields = [*words, *[None] * 6][:6]
        device, place, type_, options = (
            field or default for field, default in zip(fields[:4], defaults[:4], strict=True)
        )
        if not place:
            reader.warn(node, path, "says no place, nothing is mounted")
            continue
        what = _source(reader, node, path, device or "", type_ or "auto")
        if what and type_ and options:
            _mount(reader, node, path, (what, place, type_, options), units, needs)
    return tuple(units), tuple(needs)


def _mount(
    reader: Reader, node: Node, path: str, fields: tuple[str, str, str, str], units: list[Unit], needs: list[Need]
) -> None:
    from cloudconfig.text.path import path_problem

    what, place, type_, options = fields
    if not _TYPE.fullmatch(type_) or not _OPTIONS.fullmatch(options):
        reader.error(
            node,
            path,
            "not a type of file system or not options of mount",
            "for example: [/dev/vdb, /var/data, ext4, 'defaults,noatime']",
        )
        return
    kept = ",".join(
        option
        for option in options.split(",")
        if option not in ("nofail", "auto", "noauto", "_netdev") and not option.startswith("x-systemd.")
    )
    command = "" if "noauto" in options.split(",") else "start"
    order = f"After={DISKS_UNIT}\nWants={DISKS_UNIT}\n"
    if type_ == "swap":
        text = f"[Unit]\nDescription=Swap of user-data ({path})\n{order}\n[Swap]\nWhat={what}\n"
        units.append(_unit(mount_unit_name(what, "swap"), text, path, command))
        return
    problem = path_problem(place)
    if problem:
        reader.error(node, path, f"the place: {problem}", "an absolute path such as /var/data")
        return
    needs.append(Need("mountpoint", place, path))
    place = _canonical(place)
    if not {"bind", "rbind"} & set(kept.split(",")) and type_ != "auto":
        needs.append(Need("filesystem", type_, path))
    text = (
        f"[Unit]\nDescription=Mount of user-data ({path})\n{order}{_DOCKER}\n\n"
        f"[Mount]\nWhat={_quoted(what)}\nWhere={_quoted(place)}\nType={type_}\nOptions={_quoted(kept or 'defaults')}\n"
    )
    units.append(_unit(mount_unit_name(place), text, path, command))


def _source(reader: Reader, node: Node, path: str, device: str, type_: str) -> str:
    """What to mount, as a mount unit takes it; empty after an error."""
    tag = _TAG.fullmatch(device)
    if tag:
        return f"/dev/disk/by-{tag[1].lower()}/{tag[2]}"
    if _SHORT.fullmatch(device):
        return f"/dev/{device}"
    if _EPHEMERAL.fullmatch(device):
        reader.error(
            node,
            path,
            "a name of EC2's mapping of disks, which a node does not have",
            "write the device: /dev/nvme1n1, or LABEL=name",
        )
        return ""
    # A tag of 9p or virtiofs, none, tmpfs, a path to bind.
    if (
        not re.fullmatch(r"[A-Za-z0-9_./:@=+-]{1,255}", device)
        or (device.startswith("/dev/") and not _DEVICE.fullmatch(device))
        or ".." in device.split("/")
    ):
        reader.error(node, path, "not something to mount", f"a device, LABEL= or UUID=, or what {type_} takes")
        return ""
    return device


def swap(reader: Reader, top: Fields) -> tuple[Unit, ...]:
    """``swap``: a file of ``size`` (bytes, or with K, M, G), made once and switched on at each boot."""
    from cloudconfig.text.path import path_problem

    section = reader.section(top, "swap", ("filename", "size", "maxsize"))
    if "size" not in section:
        return ()
    path, node = section["size"]
    size = _bytes(reader, section, "size")
    most = _bytes(reader, section, "maxsize") if "maxsize" in section else 0
    if size is None or most is None:
        return ()
    if not size:  # cloud-init's way to have none
        return ()
    size = min(size, most) if most else size
    if size < _SWAP_MIN:
        reader.error(node, path, "too small to be of use", "for example: size: 1G")
        return ()
    name = reader.text(section, "filename") or "/var/swap.img"
    problem = path_problem(name) or (
        "" if name.startswith(("/var/", "/home/", "/opt/", "/srv/", "/root/")) else "the node's root is read-only there"
    )
    if problem or not re.fullmatch(r"[A-Za-z0-9_./-]+", name):
        reader.error(
            section.get("filename", section["size"])[1],
            "swap.filename",
            problem or "not a plain path",
            "for example: /var/swap.img",
        )
        return ()
    make = (
        f"[ -e {name} ] || {{ rm -f {name}.new && umask 077 && fallocate -l {size} {name}.new"
        f" && mkswap {name}.new && mv {name}.new {name}; }}"
    )
    service = (
        "[Unit]\nDescription=Make the swap file of user-data\nDefaultDependencies=no\nRequiresMountsFor=/var\n"
        "Conflicts=shutdown.target\nBefore=shutdown.target\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -ec '{make}'\n"
    )
    text = f"[Unit]\nDescription=Swap of user-data\nRequires={SWAP_UNIT}\nAfter={SWAP_UNIT}\n\n[Swap]\nWhat={name}\n"
    return (_unit(SWAP_UNIT, service, "swap"), _unit(mount_unit_name(name, "swap"), text, "swap", "start"))


def disk_setup(reader: Reader, top: Fields) -> tuple[Disk, ...]:
    """``disk_setup``: a GPT on a disk that has none."""
    disks: list[Disk] = []
    if "disk_setup" not in top:
        return ()
    at, section = top["disk_setup"]
    if not isinstance(section, yamltree.Mapping):
        reader.error(section, at, f"must be a mapping of devices, is {kind(section)}")
        return ()
    for key, node in section.pairs:
        path = f"disk_setup.{key.text[:64]}"
        fields = reader.struct(node, path, ("table_type", "layout", "overwrite"))
        reader.mark(path, key)
        device = _disk(reader, key, path, key.text)
        if reader.text(fields, "table_type").lower() not in ("", "gpt"):
            reader.error(fields["table_type"][1], f"{path}.table_type", "this image makes GPT only", "table_type: gpt")
        parts = _layout(reader, fields)
        if not device or not parts:
            continue
        folder = f"/run/cloudconfig/disks/{device.removeprefix('/dev/').replace('/', '-')}"
        files = tuple((f"{folder}/{number:02d}.conf", text) for number, text in enumerate(parts, 1))
        overwrite = "yes" if reader.bool(fields, "overwrite") else "no"
        disks.append(Disk(device, shlex.join(("partition", device, folder, overwrite)), path, files))
    return tuple(disks)


def _layout(reader: Reader, fields: Fields) -> list[str]:
    """What systemd-repart reads for each partition (repart.d(5))."""
    if "layout" not in fields:
        return []
    at, node = fields["layout"]
    if isinstance(node, Scalar):
        if node.text.lower() in ("true", "yes", "on"):
            return ["[Partition]\nType=linux-generic\n"]
        if node.text.lower() not in ("false", "no", "off", "remove"):
            reader.error(node, at, "must be true, or a list of percentages")
        elif node.text.lower() == "remove":
            reader.error(node, at, "partitions are not removed here", "a command in bootcmd can: wipefs --all")
        return []
    parts: list[str] = []
    total = 0
    for inner, item in reader.items(fields, "layout"):
        size, type_ = item, "linux-generic"
        if isinstance(item, yamltree.Sequence) and len(item.items) == 2 and isinstance(item.items[1], Scalar):
            size, type_ = (
                item.items[0],
                {"82": "swap", "83": "linux-generic"}.get(item.items[1].text, item.items[1].text),
            )
        if (
            not isinstance(size, Scalar)
            or not re.fullmatch(r"[1-9][0-9]?|100", size.text)
            or not (type_ in ("swap", "linux-generic") or _GUID.fullmatch(type_))
        ):
            reader.error(
                item,
                inner,
                "must be a percentage, or [percentage, type]",
                "layout: [50, [50, 82]]; types are 82, 83 or a GUID",
            )
            return []
        total += int(size.text)
        parts.append(f"[Partition]\nType={type_}\nWeight={int(size.text) * 10}\n")
    if total > _PERCENT:
        reader.error(node, at, "more than 100 percent")
        return []
    if parts and total < _PERCENT:
        parts[-1] += f"PaddingWeight={(_PERCENT - total) * 10}\n"
    return parts


def fs_setup(reader: Reader, top: Fields) -> tuple[tuple[Disk, ...], tuple[Need, ...]]:
    """``fs_setup``: a file system where there is none."""
    disks: list[Disk] = []
    needs: list[Need] = []
    for path, node in reader.items(top, "fs_setup"):
        fields = reader.struct(
            node, path, ("device", "extra_opts", "filesystem", "label", "overwrite", "partition"), ("replace_fs",)
        )
        reader.mark(path, node)
        name, type_ = (reader.required(fields, key, path, node) for key in ("device", "filesystem"))
        device = _disk(reader, node, path, name) if name else ""
        label, part = reader.text(fields, "label"), reader.text(fields, "partition").lower() or "none"
        part = {"any": "auto"}.get(part, part)
        if not re.fullmatch(r"auto|none|[1-9][0-9]{0,2}", part):
            reader.error(fields["partition"][1], f"{path}.partition", "must be auto, any, none or a number")
        if label and not re.fullmatch(r"[A-Za-z0-9_.+-]{1,16}", label):
            reader.error(fields["label"][1], f"{path}.label", "not a label", "letters, digits, - and _, 16 at most")
        if not device or not _TYPE.fullmatch(type_):
            continue
        program = "mkswap" if type_ == "swap" else f"mkfs.{type_}"
        needs.append(Need("program", program, path))
        if "extra_opts" in fields and isinstance(fields["extra_opts"][1], Scalar):
            extra = reader.text(fields, "extra_opts").split()
        else:
            extra = list(reader.words(fields, "extra_opts"))
        force = ["-F"] if type_.startswith("ext") else []
        options = [*force, *((_LABEL_OPTIONS.get(type_, "-L"), label) if label else ()), *extra]
        overwrite = "yes" if reader.bool(fields, "overwrite") else "no"
        disks.append(Disk(device, shlex.join(("filesystem", device, part, overwrite, type_, program, *options)), path))
    return tuple(disks), tuple(needs)


def disks_unit(disks: tuple[Disk, ...]) -> str:
    """The unit that runs the script once the disks are there."""
    devices = " ".join(dict.fromkeys(mount_unit_name(disk.device, "device") for disk in disks))
    return (
        "[Unit]\nDescription=Partition and format disks for user-data\nDefaultDependencies=no\n"
        "Conflicts=shutdown.target\nBefore=shutdown.target\n"
        f"RequiresMountsFor=/var\nWants={devices}\nAfter={devices}\n\n"
        f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh {DISKS_SCRIPT}\nTimeoutStartSec=30min\n"
    )


def disks_script(disks: tuple[Disk, ...]) -> str:
    """The script."""
    return PRELUDE + "".join(f"{disk.text}\n" for disk in disks) + "exit $failed\n"


def _canonical(path: str) -> str:
    """``path`` without the image's links (/home, /opt, /root and /srv lie in /var): systemd mounts on no link."""
    return f"/var{path}" if path.startswith(("/home/", "/opt/", "/root/", "/srv/")) else path


def _disk(reader: Reader, node: Node, path: str, name: str) -> str:
    if _SHORT.fullmatch(name):
        return f"/dev/{name}"
    if _EPHEMERAL.fullmatch(name):
        reader.error(
            node, path, "a name of EC2's mapping of disks, which a node does not have", "write the device: /dev/nvme1n1"
        )
    elif not _DEVICE.fullmatch(name) or ".." in name.split("/"):
        reader.error(node, path, "not a disk", "for example: /dev/vdb")
    else:
        return name
    return ""


def _bytes(reader: Reader, fields: Fields, key: str) -> int | None:
    """A size in bytes, None after an error."""
    text = reader.text(fields, key)
    found = _SIZE.fullmatch(text)
    if found is None:
        hint = "bytes, or a number with K, M or G: 2G"
        reader.error(
            fields[key][1], fields[key][0], "how much is it?" if text.lower() == "auto" else "not a size", hint
        )
        return None
    return int(found[1]) * _UNITS[found[2].upper()]


def _unit(name: str, text: str, at: str, command: str = "") -> Unit:
    return Unit(name, text, False, True, False, command, (), at)


def _quoted(text: str) -> str:
    """A value of a unit, in which ``%`` would begin a specifier."""
    return text.replace("%", "%%")
