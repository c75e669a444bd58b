"""``cluster doctor``: what this computer can do, and why."""

from __future__ import annotations

import argparse
import json
import shutil

from cluster import accelerator, preflight, qemu
from cluster.cli.verbs import Verbs, json_argument
from cluster.layout import Layout, cache_root
from terminal import Failure, table


def add(verbs: Verbs) -> None:
    """``doctor``."""
    json_argument(verbs.add("doctor", "say what this computer can do, and why", _doctor, named=False))


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
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        print(table([[key, "-" if value is None else str(value)] for key, value in found.items()]))
    if trouble is not None:
        raise trouble
    return 0
