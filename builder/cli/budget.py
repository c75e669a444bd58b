"""``osbuild budget``: the room left in the budget of a build, and the owners that grew since sizes were accepted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from builder.about import budget, result
from builder.about.sizes import megabytes
from builder.check import verify
from builder.cli.verb import Verb
from builder.definition import definition
from terminal import Failure, table

EXAMPLES: Final = {
    "budget": """
  osbuild budget build/qemu              how much room is left, and who grew since sizes were accepted
  osbuild budget --accept build/qemu     accept its sizes: image/node.sizes.json""",
}


@dataclass(frozen=True, slots=True)
class Allowance:
    """A part of a build: its bytes, its limit (None: no limit), and the owners that grew since sizes were accepted.

    ``None`` for the owners: no sizes were ever accepted.
    """

    part: str
    bytes: int
    limit: int | None
    grown: tuple[budget.Growth, ...] | None


def add_verbs(verb: Verb) -> None:
    """Add the parser of ``budget``, made by ``verb(name, text)``."""
    parser = verb("budget", "show how much room a build leaves in its budget, and who grew, or accept its sizes")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the output of a build")
    parser.add_argument("--accept", action="store_true", help="later builds are compared with this one")
    parser.add_argument("--definition", type=Path, metavar="FILE", help="default: ours of that name")
    parser.add_argument("--json", action="store_true", help="print the result for a machine")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``osbuild budget``; returns the exit code: 1 if the build is larger than its definition now allows."""
    build = result.load(arguments.folder)
    if not build.sizes:
        raise Failure(
            "this build's manifest has no sizes", where=str(build.folder), hint="build again: it is older than budgets"
        )
    path = verify.definition_of(build.folder, build.name, build.target, build.architecture, arguments.definition)
    beside = budget.baseline_path(path)
    measured = budget.measured(build.sizes, build.owners, build.boot)
    if arguments.accept:
        budget.accept(beside, build.architecture, measured)
    what = definition.load(path, build.architecture)
    level: budget.Level = "release" if build.release or what.container is not None else "fast"
    before = budget.load(beside, build.architecture)
    parts = [
        Allowance(
            part,
            found.bytes,
            budget.limit(what.budget, part, level),
            budget.growth(before[part], found.owners) if part in before else None,
        )
        for part, found in measured.items()
    ]
    if arguments.json:
        print(
            json.dumps(
                {"accepted": str(beside) if arguments.accept else None, "parts": [asdict(each) for each in parts]}
            )
        )
    else:
        print("\n\n".join(_room(parts, beside)))
    return 1 if any(each.limit is not None and each.bytes > each.limit for each in parts) else 0


def _room(parts: Sequence[Allowance], beside: Path) -> Iterator[str]:
    rows = [
        [
            each.part,
            megabytes(each.bytes),
            *(("-", "-") if each.limit is None else (megabytes(each.limit), _left(each.limit - each.bytes))),
        ]
        for each in parts
    ]
    yield table(rows, ["part", "size", "limit", "left"])
    for each in parts:
        if each.grown:
            yield f"{each.part}: the owners that grew most since {beside.name}, before compression\n" + budget.describe(
                each.grown[: budget.OWNERS_SHOWN]
            )
    if any(each.grown is None for each in parts):
        yield f"nothing to compare with is in {beside}: 'osbuild budget --accept' writes it"


def _left(size: int) -> str:
    return megabytes(size) if size >= 0 else f"{megabytes(-size)} too much"
