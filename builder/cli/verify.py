"""``osbuild verify``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder.check import verify
from builder.cli.verb import Verb, add_common, add_mirror
from builder.pipeline.order import Settings
from terminal import Phases

EXAMPLES: Final = {
    "verify": """
  osbuild verify build/qemu              build it once more, with nothing made before, and compare""",
}


def add_verbs(verb: Verb) -> None:
    """Add the parser of it."""
    check = verb("verify", "build what is in a folder once more and compare all bytes")
    check.add_argument("directory", type=Path, metavar="DIR", help="what 'osbuild image' or 'container' made")
    check.add_argument("--definition", type=Path, metavar="FILE", help="default: ours of that name")
    check.add_argument("--offline", action="store_true", help="build from the store alone; use no mirror")
    check.set_defaults(run=_verify)
    add_mirror(check)
    add_common(check)


def _verify(arguments: argparse.Namespace) -> int:
    settings = Settings(
        definition=arguments.definition,
        store=arguments.store,
        mirror=arguments.mirror,
        snapshot=arguments.snapshot,
        offline=arguments.offline,
        phases=Phases(quiet=arguments.quiet),
    )
    verdict = verify.verify(arguments.directory, settings)
    if arguments.json:
        fields = {"directory": str(verdict.directory), "same": verdict.is_same, "inputs": verdict.inputs}
        print(json.dumps({**fields, "artifacts": [asdict(artifact) for artifact in verdict.artifacts]}))
    else:
        print(verify.describe(verdict))
    return 0 if verdict.is_same else 1
