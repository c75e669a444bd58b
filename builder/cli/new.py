"""``osbuild new``: a folder to start from, with a definition on top of ours and its files.

DIR/node.yaml           includes our node and adds to it
DIR/overlay/etc/motd    one file of the overlay
DIR/README.md           what to do with it
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Final

import yaml

from builder.cli.verb import Verb
from terminal import Failure

EXAMPLES: Final = {
    "new": """
  osbuild new mine                       a definition that adds to ours, to be edited: mine/node.yaml""",
}

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_NODE: Final = """\
# Flotilla's node, and more. 'osbuild schema --markdown' explains every key and how the two merge.
include: node
name: {name}
# Packages of Debian, added to ours; run 'osbuild lock' after a change here.
packages: [htop]
# A folder of files, same paths as on the node; they win over packages and over our files.
overlay: overlay
# Units to start at boot, from a package or from overlay/usr/lib/systemd/system/.
presets: {{enable: []}}
# Paths to leave out, as shell patterns.
remove: []
"""

_MOTD: Final = "This is {name}, on Flotilla.\n"

_README: Final = """\
# {name}

`osbuild lock node.yaml` takes the newest versions of all packages into `node.lock`; commit both. `osbuild image --definition node.yaml` builds
from them into `build/qemu/`, the same bytes every time. What is in `overlay/` is laid over the packages: `overlay/etc/motd` is `/etc/motd`.
For completion in an editor: `osbuild schema >schema.json`, and `# yaml-language-server: $schema=schema.json` as the first line of `node.yaml`.
"""


def add_verbs(verb: Verb) -> None:
    """Add the parser of it."""
    parser = verb("new", "begin a definition of your own that adds to ours")
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if it is not there; it may not hold anything")
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """``osbuild new``: write the starter, print what to do next."""
    path = shlex.quote(str(write(arguments.folder)))
    print(f"made {path}; next: edit it, then\n  osbuild lock {path}\n  osbuild image --definition {path}")
    return 0


def write(folder: Path) -> Path:
    """Write the starter into ``folder`` and return the definition's path.

    Raises :class:`Failure` if the folder holds anything already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Failure("this folder is not empty", where=str(folder), hint="name one that is not there yet")
        for name, text in files(folder.resolve().name).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        raise Failure(f"cannot write a definition there: {error.strerror}", where=str(folder)) from None
    return folder / "node.yaml"


def files(name: str) -> dict[str, str]:
    """The starter's files, path to text, for a definition named ``name`` (``mine`` if that is not a plain name)."""
    name = name if _NAME.fullmatch(name) else "mine"
    in_yaml = name if yaml.safe_load(name) == name else json.dumps(name)
    return {
        "node.yaml": _NODE.format(name=in_yaml),
        "overlay/etc/motd": _MOTD.format(name=name),
        "README.md": _README.format(name=name),
    }
