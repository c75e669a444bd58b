"""``cluster doctor``: what this computer can do, and why."""

from __future__ import annotations

import argparse
import json
import shutil

from builder.architecture import HOST
from cluster import accelerator, connection_uri, places, preflight, qemu
from cluster.cli.verbs import Verbs, json_argument
from cluster.connection_uri import Place
from cluster.layout import Layout, cache_root
from terminal import Failure, table


def add(verbs: Verbs) -> None:
    """``doctor``."""
    parser = verbs.add("doctor", "say what this computer can do, and why", _doctor, named=False)
    json_argument(parser)
    parser.add_argument(
        "--connect",
        metavar="URI",
        action="append",
        type=connection_uri.parse,
        help="look at this libvirt, too, of another computer, say (may be repeated; qemu:///session)",
    )


def _libvirt(place: Place) -> str:
    """What ``--driver libvirt`` finds at ``place``, in one line."""
    try:
        said = f"libvirt {places.require_connection(place)}"
        if place.is_local:
            return said
        found = places.survey(place, HOST, "auto")
    except Failure as failure:
        return f"not here: {failure.message}" + (f" ({failure.hint})" if failure.hint else "")
    how = found.accelerator
    return (
        f"{said}, QEMU {found.qemu.version_text}, {how.name} ({how.reason}), {found.free_memory_mib} MiB of memory free"
    )


def _doctor(arguments: argparse.Namespace) -> int:
    program = qemu.find()
    (cache_root() / "accelerator.json").unlink(missing_ok=True)
    chosen, trouble = None, None
    try:
        chosen = accelerator.remembered(program, cache_root() / "accelerator.json")
    except Failure as failure:
        trouble = failure  # told last, after what was found
    found = {
        "qemu": str(program.path),
        "version": program.version_text,
        "accelerator": chosen and chosen.name,
        "why": chosen and chosen.reason,
        "factor": chosen and chosen.factor,
        "free_memory_mib": preflight.free_memory_mib(),
        "free_disk_mib": preflight.free_disk_bytes(Layout.of("default").state) // preflight.MIB,
        "ssh_client": shutil.which("ssh"),
        **{place.uri: _libvirt(place) for place in arguments.connect or [connection_uri.parse(connection_uri.SESSION)]},
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        print(table([[key, "-" if value is None else str(value)] for key, value in found.items()]))
    if trouble is not None:
        raise trouble
    return 0
