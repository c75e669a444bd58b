"""``cluster doctor``: what this computer can do, and why."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict

from cluster import preflight
from cluster.cli.verbs import Verbs, json_argument
from cluster.doctor import Finding, examine
from cluster.layout import Layout
from terminal import table


def add(verbs: Verbs) -> None:
    """``doctor``."""
    text = "say what this computer can do for clusters, why, and what to do about it"
    json_argument(verbs.add("doctor", text, _doctor, named=False))


def _doctor(arguments: argparse.Namespace) -> int:
    diagnosis = examine(getattr(arguments, "swept", []))
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
