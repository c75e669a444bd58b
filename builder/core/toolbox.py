"""How steps and formats run a program of the tools closure, which :mod:`builder.debian.tools` unpacks.

They receive it from their caller; no program is looked up by name on the host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from terminal import Failure


class ToolFailure(Failure):
    """A program of the closure is not there, or failed."""


class Toolbox(Protocol):
    """The tools closure as the finishing steps see it."""

    def command(self, name: str) -> list[str]:
        """The first arguments of a command line that runs the program ``name`` (loader, library path, program)."""
        ...

    def environment(self, name: str) -> dict[str, str]:
        """The complete environment to run ``name`` in."""
        ...


class Closure(Toolbox, Protocol):
    """The tools closure as the formats see it."""

    @property
    def root(self) -> Path:
        """The folder in which it is unpacked, whose name is the closure's id."""
        ...

    def resolved(self) -> Self:
        """The same closure, by a path without links."""
        ...

    def run(
        self,
        name: str,
        *arguments: str,
        cwd: Path | None = None,
        feed: bytes | bytearray = b"",
        epoch: int | None = None,
    ) -> bytes:
        """Run ``name`` with ``feed`` on its standard input; returns what it wrote to its standard output.

        With ``epoch`` (seconds), programs that honour ``SOURCE_DATE_EPOCH`` write that instead of the current time.

        Raises :class:`ToolFailure` with command, exit code and the end of its output if it does not exit with 0.
        """
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
