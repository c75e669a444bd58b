"""A root folder with accounts, applies into it, and the real programs that make accounts there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from cloudconfig.node import accounts, datasource
from cloudconfig.node import apply as apply_module
from cloudconfig.node.datasource import Seed
from cloudconfig.node.rooted import Root
from cloudconfig.node.status import Status, Trouble
from cloudconfig.text import addresses
from terminal import Failure

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl joe"
PASSWD = "root:x:0:0::/root:/bin/sh\ncore:x:1000:1000::/home/core:/bin/bash\n"
GROUP = "root:x:0:\nsudo:x:27:core\noperator:x:37:\ncore:x:1000:\n"


class SeedFields(TypedDict, total=False):
    """What a :class:`Seed` has beside its source and user-data."""

    instance_id: str
    hostname: str
    keys: tuple[str, ...]
    notes: tuple[str, ...]
    damage: tuple[Trouble, ...]
    addresses: tuple[tuple[str, str], ...]
    network: bytes


class Shadow:
    """The real useradd, usermod, groupadd, chpasswd and chage, on the files below ``path``; all else is only written
    down.

    Without root they run in a user namespace, in which only root has a number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ran: list[str] = []
        self.cards: dict[str, str] = {}

    def set_hostname(self, name: str) -> None:
        """Nothing."""

    def addresses(self, names: Collection[str], known: Mapping[str, str]) -> dict[str, str]:
        return addresses.wait(names, known, lambda: self.cards, wait_s=0)

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        self.ran.append(" ".join(argv))
        program, *rest = argv
        if program in ("useradd", "usermod", "groupadd"):
            options = ["--prefix", str(self.path)]
        elif program == "chpasswd":
            # Without -e it asks PAM, of which there is none in this folder; a method leaves it out.
            options = ["--root", str(self.path), *([] if "-e" in rest else ["--crypt-method", "SHA512"])]
        elif program == "chage":
            options = ["--root", str(self.path)]
        else:
            return
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path, f"{program} is not installed (package passwd)"
        around = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
        done = subprocess.run(
            [*around, path, *options, *rest], input=secret, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failure(f"{' '.join(argv[:2])}: exit {done.returncode}: {done.stderr.strip()}")


class ShadowNode:
    """A node whose accounts are real."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = Shadow(path)
        for name, text in (
            ("passwd", PASSWD),
            ("group", GROUP),
            ("shadow", "root:*:::::::\ncore:*:::::::\n"),
            ("gshadow", "root:*::\nsudo:*::core\noperator:*::\ncore:*::\n"),
            ("login.defs", "UID_MIN 1000\nGID_MIN 1000\nUSERGROUPS_ENAB yes\nSUB_UID_COUNT 0\nSUB_GID_COUNT 0\n"),
        ):
            (path / "etc").mkdir(exist_ok=True)
            (path / "etc" / name).write_text(text)
        for folder in ("home", "bin", "run", "root"):
            (path / folder).mkdir()
        for shell in ("sh", "bash"):
            (path / "bin" / shell).symlink_to("/usr/bin/dash")

    def apply(self, text: str, **seed: Unpack[SeedFields]) -> Status:
        found = Seed("test", text.encode(), **seed)
        self.machine.ran.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasource, "fetch", lambda _name, *, online: found)
            return apply_module.apply("test", str(self.path), self.machine)

    def accounts(self) -> accounts.Accounts:
        root = Root(str(self.path))
        try:
            return accounts.read(root)
        finally:
            root.close()

    def shadow(self, user: str) -> list[str]:
        lines = (self.path / "etc/shadow").read_text().splitlines()
        return next(line.split(":") for line in lines if line.startswith(f"{user}:"))
