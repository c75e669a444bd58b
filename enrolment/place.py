"""Where a node has its certificates: always one whole set of files, the old one or the new one, whatever is cut off.

    /var/lib/flotilla/trust/machine.key      the node's own key, made once, by which the issuer knows it
    /var/lib/flotilla/trust/set-1f2e3d4c/    the files of enrolment/files.py, and enrolment.json: who gave them, when
    /etc/flotilla/trust                      a link to that folder: changing it is the one step that counts

A new set is written and synced beside the old one. Lists of revoked certificates are replaced one by one in the set.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import secrets
import shutil
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from enrolment import files, keys
from terminal import Failure, durable, record

STORE: Final = Path("/var/lib/flotilla/trust")
MACHINE_KEY: Final = "machine.key"
ENROLMENT: Final = "enrolment.json"
_SET: Final = "set-"
_BYTES_MAX: Final = 1 << 20
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who gave a node its certificates: ``url`` and ``fingerprint`` of the issuer; for which ``name``; ``addresses``
    are those that user-data asked for, none if it named none. Times are ISO 8601 in UTC, the issuer's."""

    v: int
    url: str
    fingerprint: str
    name: str
    addresses: tuple[str, ...]
    issued: str
    not_after: str


@dataclass(frozen=True, slots=True)
class Place:
    """``link`` is where programs look, ``store`` where the files are. Each method raises Failure."""

    link: Path = Path(files.FOLDER)
    store: Path = STORE

    def enrolment(self) -> Enrolment | None:
        """That of the set in use, None without one."""
        try:
            with (self.link / ENROLMENT).open("rb") as file:
                found = record.build(Enrolment, record.parse(file.read(_BYTES_MAX)))
            if found.v != VERSION:
                raise ValueError("another version")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise Failure("cannot be read", where=str(self.link / ENROLMENT)) from error
        return found

    def check_free(self) -> None:
        """User-data may bring certificates, or have them issued; one does not overwrite the other."""
        if self.link.is_dir() and not self.link.is_symlink():
            raise Failure(
                "this node has certificates that its user-data brought",
                where=str(self.link),
                hint="take them out of the user-data, or flotilla.trust",
            )

    def machine_key(self) -> Path:
        """The file with the machine key, which is made if it is not there."""
        path = self.store / MACHINE_KEY
        try:
            self._made()
            if not path.exists():
                _write(path, keys.new(), durable.replace)
        except OSError as error:
            raise _unwritten(path, error) from error
        return path

    def put(self, texts: Mapping[str, str], enrolment: Enrolment) -> None:
        """Make ``texts``, by file name, the set in use."""
        target = self.store / f"{_SET}{secrets.token_hex(4)}"
        staged = target.with_name(target.name + durable.NEW)
        try:
            self._made()
            self._tidy()
            staged.mkdir()
            staged.chmod(0o755)
            for name, text in {**texts, ENROLMENT: json.dumps(asdict(enrolment)) + "\n"}.items():
                _write(staged / name, text, durable.create)
            _check_pairs(staged)
            durable.sync(staged)
            staged.rename(target)
            durable.sync(self.store)
            self.link.parent.mkdir(parents=True, exist_ok=True)
            link = self.link.with_name(self.link.name + durable.NEW)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            link.replace(self.link)
            durable.sync(self.link.parent)
            self._tidy()
        except OSError as error:
            raise _unwritten(self.link, error) from error

    def put_lists(self, texts: Mapping[str, str]) -> bool:
        """Put lists of revoked certificates in the place of those in use; whether any has changed."""
        changed = False
        for name, text in texts.items():
            path = self.link.resolve() / name
            try:
                if not path.exists() or path.read_text("utf-8") != text:
                    _write(path, text, durable.replace)
                    changed = True
            except OSError as error:
                raise _unwritten(path, error) from error
        return changed

    def same(self, texts: Mapping[str, str], names: Iterable[str]) -> bool:
        """Whether the files of these names are in use as they are in ``texts``."""
        try:
            return all((self.link / name).read_text("utf-8") == texts[name] for name in names)
        except OSError:
            return False

    def _made(self) -> None:
        """All accounts that use a key go through the folder, whatever the umask."""
        if not self.store.is_dir():
            self.store.mkdir(parents=True, exist_ok=True)
            self.store.chmod(0o755)

    def _tidy(self) -> None:
        """Remove what is not in use: what a kill left, or the set of before."""
        used = self.link.resolve().name
        for path in self.store.iterdir():
            if path.name.startswith(_SET) and path.name != used:
                shutil.rmtree(path)


def _check_pairs(folder: Path) -> None:
    """Certificates and keys belong together, or nothing of it is used."""
    for leaf in files.LEAVES:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / f"{leaf}.crt", folder / f"{leaf}.key")
        except ssl.SSLError as error:
            raise Failure("the issuer's certificate is not for our key", where=leaf) from error


def _write(path: Path, text: str, how: Callable[..., None]) -> None:
    """By one of :mod:`terminal.durable`, with the owner and mode of a file of this name."""
    user, group, mode = files.ownership(path.name)
    how(path, text, mode=mode, owner=_ids(user, group) if os.geteuid() == 0 else None)


def _ids(user: str, group: str) -> tuple[int, int]:
    """Of accounts, root's where there is no such one: then no other reads it."""
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return 0, 0


def _unwritten(path: Path, error: OSError) -> Failure:
    return Failure(f"cannot be written: {error.strerror}", where=str(error.filename or path), hint="is the disk full?")
