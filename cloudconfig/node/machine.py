"""The programs of a node that an apply runs. A test, or an apply into a folder, puts another in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from cloudconfig.text import addresses
from terminal import Failure

# None of the programs waits for anything but a lock; a longer one hangs.
TIMEOUT_S = 120


class Machine(Protocol):
    """What can be done to a running system besides writing files."""

    def set_hostname(self, name: str) -> None:
        """Set the kernel's host name. Raises Failure."""

    def addresses(self, names: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
        """The machine's addresses (see :mod:`cloudconfig.text.addresses`).

        ``known`` are those that are known already. Waits until all ``names`` have one. Raises Failure."""

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        """Run a program to its end, ``secret`` on its standard input. Raises Failure with its first complaint."""


class Live:
    """The machine that we run on."""

    def set_hostname(self, name: str) -> None:
        """See :class:`Machine`."""
        import socket

        try:
            socket.sethostname(name)
        except OSError as error:
            raise Failure(f"cannot set the host name: {error.strerror}") from error

    def addresses(self, names: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
        """See :class:`Machine`."""
        return addresses.wait(names, known, addresses.cards)

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        """See :class:`Machine`."""
        import subprocess

        try:
            done = subprocess.run(
                argv, input=secret, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except OSError as error:
            raise Failure(f"cannot run {argv[0]}: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(argv[:2])}: no end after {TIMEOUT_S} s") from None
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if line.strip()), "no message")
            raise Failure(f"{' '.join(argv[:2])}: exit {done.returncode}: {complaint.strip()}")


class Folder:
    """A folder that is no running system: nothing is run, only files are written."""

    def set_hostname(self, name: str) -> None:
        """Nothing: /etc/hostname is written anyway."""

    def addresses(self, names: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
        """What is known: the cards of the machine that we run on are another's."""
        return addresses.wait(names, known, dict, wait_s=0)

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        """Nothing."""
