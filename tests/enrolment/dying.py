"""Puts a new set of certificates in the place of another, again and again, and dies a little later each time.

    python -m tests.enrolment.dying SOURCE TARGET

SOURCE has ``old.json`` and ``new.json``, texts by file name; ``TARGET/n`` becomes a node's folder in attempt ``n``, with
the old set in use. How death comes, and what is printed: tests/trust/dying.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from enrolment.place import VERSION, Enrolment, Place
from tests.trust.dying import dies_at


def enrolment(name: str) -> Enrolment:
    """The record of a set of this name."""
    return Enrolment(
        VERSION, "https://issuer:7380", "0" * 64, name, (), "2026-01-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00"
    )


def put(place: Place, sets: Path, name: str) -> None:
    """Use the set of this name, whose texts are in a JSON file."""
    place.machine_key()
    place.put(json.loads((sets / f"{name}.json").read_text()), enrolment(name))


def at(root: Path) -> Place:
    """Where the node of this folder has its files."""
    return Place(root / "etc/trust", root / "var/trust")


def main(source: str, target: str) -> None:
    """See the head of this module."""
    number = 0
    while True:
        root = Path(target, str(number))
        put(at(root), Path(source), "old")
        if not dies_at(number, lambda root: put(at(root), Path(source), "new"), root):
            break
        number += 1
    print(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
