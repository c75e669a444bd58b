"""Runs one step with a trust folder again and again, and dies a little later each time, until it does not.

    python -m tests.trust.dying STEP SOURCE TARGET

``enrol`` is what an issuer does with the request in the file that the environment's REQUEST names: body, signature.
The folder of attempt ``n`` is ``TARGET/n``, a copy of SOURCE (but for ``init``). Death is at a moment at which Python
reports an event (PEP 578) below TARGET: the opening, renaming and removing of files are; what happens between two of
them is a write into one file. Prints how many attempts died.
"""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from terminal import Failure
from trust import enrolling, folder, issuer

FILES = ("open", "os.rename", "os.symlink", "os.remove", "os.mkdir", "os.chmod", "shutil.rmtree")


def _issue(lab: Path) -> None:
    with folder.made(lab.with_suffix(".out")) as files:
        files.update(issuer.issue_node(lab, "node-2", ["10.0.0.2"]).files)


def _enrol(lab: Path) -> None:
    body, _, signature = Path(os.environ["REQUEST"]).read_bytes().rpartition(b"\n")
    now = datetime.datetime.now(datetime.UTC)
    given = enrolling.enrol(lab, body, bytes.fromhex(signature.decode()), "127.0.0.1", now=now)
    with folder.made(lab.with_suffix(".out")) as files:
        files.update(given.files)


STEPS: dict[str, Callable[[Path], object]] = {
    "init": issuer.create,
    "issue": _issue,
    "enrol": _enrol,
    "revoke": lambda lab: issuer.revoke(lab, "kim", node=False),
}


def dies_at(number: int, step: Callable[[Path], object], lab: Path) -> bool:
    """Whether the step died at its ``number``-th event, in a process of its own."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in FILES and arguments and str(lab.parent) in str(arguments[0]):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            step(lab)
        except Failure:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), f"attempt {number} ended with {code}"
    return code == 9


def main(name: str, source: str, target: str) -> None:
    """See the head of this module."""
    number = 0
    while True:
        lab = Path(target, str(number))
        lab.parent.mkdir(exist_ok=True)
        if name != "init":
            shutil.copytree(source, lab)
            lab.chmod(0o700)
        if not dies_at(number, STEPS[name], lab):
            break
        number += 1
    print(number)


if __name__ == "__main__":
    main(*sys.argv[1:])
