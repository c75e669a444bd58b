"""How a finishing step runs a program of the tools closure.

The step receives data (a command line, an environment); no program is looked up by name on the host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from terminal import Failure


class Toolbox(Protocol):
    """The tools closure as the steps see it."""

    def command(self, name: str) -> list[str]:
        """The first arguments of a command line that runs the program ``name`` (loader, library path, program)."""
        ...

    def environment(self, name: str) -> dict[str, str]:
        """The complete environment to run ``name`` in."""
        ...


def run(
    toolbox: Toolbox, name: str, arguments: Sequence[str], *, directory: Path | None = None, feed: bytes = b""
) -> bytes:
    """Run the tool ``name`` in ``directory`` with ``feed`` on its stdin, and return what it printed on stdout.

    Raises :class:`Failure` with the end of its output (stderr, else stdout) if it does not exit with zero.
    """
    done = subprocess.run(
        [*toolbox.command(name), *arguments],
        cwd=directory,
        env=toolbox.environment(name),
        input=feed,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace").splitlines()
        raise Failure(f"the tool {name} ended with code {done.returncode}: " + "\n".join(said[-5:]))
    return done.stdout
