"""``cluster doctor``: what this computer can do, and why."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict

from cluster.cli.verbs import Verbs, json_argument
from cluster.lifecycle import preflight
from cluster.lifecycle.doctor import Finding, examine
from cluster.model import connection_uri
from cluster.model.layout import Layout
from terminal import table


def add(verbs: Verbs) -> None:
    """``doctor``."""
    text = "show what this computer can do for clusters, why, and what to do about it"
    parser = verbs.add("doctor", text, _doctor, named=False)
    json_argument(parser)
    parser.add_argument(
        "--connect",
        metavar="URI",
        action="append",
        type=connection_uri.parse,
        help="check this libvirt, perhaps of another computer (may be repeated; qemu:///session)",
    )


def _doctor(arguments: argparse.Namespace) -> int:
    places = arguments.connect or [connection_uri.parse(connection_uri.SESSION)]
    diagnosis = examine(getattr(arguments, "swept", []), places)
    program, chosen = diagnosis.program, diagnosis.chosen
    if arguments.json:
        found = {
            "qemu": program and str(program.path),
            "version": program and program.version_text,
            "accelerator": chosen and chosen.name,
            "why": chosen and chosen.reason,
            "factor": chosen and chosen.factor,
            "free_memory_mib": preflight.free_memory_mib(),
            "free_disk_mib": preflight.free_disk_bytes(Layout.of("default").state) // preflight.MIB,
            "ssh_client": shutil.which("ssh"),
            "findings": [asdict(finding) for finding in diagnosis.findings],
        }
        print(json.dumps(found))
    else:
        print(findings_text(diagnosis.findings))
    return 0 if diagnosis.is_fit else 1


def findings_text(findings: list[Finding]) -> str:
    """A table of what was found, then what to do."""
    lines = [table([[finding.state, finding.name, finding.found] for finding in findings])]
    advice = [f"{finding.name}: {finding.advice}" for finding in findings if finding.advice]
    return "\n".join([*lines, *(["", "what to do:"] if advice else []), *(f"  {line}" for line in advice)])
