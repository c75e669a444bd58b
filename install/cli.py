"""The command ``flotilla-install``, on a node that runs from an installation medium."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from terminal import Failure, Parser, Phases, command

PROG: Final = "flotilla-install"
MEDIUM: Final = Path("/run/medium")

_EPILOG = """\
examples:
  lsblk                                                    which disks are there?
  sudo flotilla-install /dev/sda                           an empty disk becomes a node
  sudo flotilla-install /dev/sda --user-data node.yaml     and it finds its user-data at its first boot
  sudo flotilla-install --force /dev/nvme0n1               even if the disk holds data, which is lost
  ssh core@live sudo flotilla-install /dev/sda --user-data - <node.yaml
exit codes: 0 installed and verified, 1 refused or failed, 2 wrong usage
"""


def main() -> int:
    """Entry point of the program."""
    return command(PROG, run)


def run(arguments: Sequence[str]) -> int:
    """Run ``flotilla-install ARGUMENTS``; returns the exit code, raises Failure."""
    options = _parser().parse_args(arguments)
    # Only what is needed is imported: --help is immediate on an emulated machine, too.
    from install import device, layout, state, write

    begin = time.monotonic()
    if os.geteuid() != 0:
        raise Failure("only root may write to disks", hint=f"sudo {PROG} ...")
    folder = options.medium / "flotilla"
    what = layout.load(folder)
    user_data = None if options.user_data is None else read_user_data(options.user_data)
    disk = device.inspect(options.device)
    device.check(disk, what.size, force=options.force)
    phases = Phases(quiet=options.quiet)
    with tempfile.TemporaryDirectory(prefix=f"{PROG}-") as work:
        image = None if user_data is None else state.make(user_data, what.state.size, Path(work))
        write.write(what, disk.size, folder, disk.path, phases, image)
    if options.json:
        said = {
            "v": 1,
            "device": str(disk.path),
            "name": what.name,
            "version": what.version,
            "root_hash": what.root_hash,
            "user_data": user_data is not None,
            "seconds": round(time.monotonic() - begin, 3),
        }
        print(json.dumps(said))
    else:
        print(f"{disk.path} is a Flotilla node now (version {what.version}), read back and verified")
        print("take the medium out and reboot; the node boots with UEFI firmware")
    return 0


def read_user_data(name: str) -> bytes:
    """The user-data in the file ``name`` (``-``: standard input). Raises Failure if a node could not use it."""
    from cloudconfig.check import validate
    from cloudconfig.text import finding

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=name) from error
    found = validate.validate(data)
    for one in found:
        print(one.render("<stdin>" if name == "-" else name), file=sys.stderr)
    if finding.errors(found):
        raise Failure("this user-data has errors", where=name, hint="nothing was changed")
    return data


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        description="Put the node that this medium holds onto a disk, and read it back. A disk that holds data is refused.",
        epilog=_EPILOG,
    )
    parser.add_argument("device", metavar="DEVICE", type=Path, help="the whole disk, such as /dev/sda")
    parser.add_argument("--user-data", metavar="FILE", help="what the node is to become; - is standard input")
    parser.add_argument("--force", action="store_true", help="overwrite a disk that holds data")
    parser.add_argument(
        "--medium", metavar="DIR", type=Path, default=MEDIUM, help="where the medium is mounted (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser
