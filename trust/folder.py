"""A trust folder on the disk, which survives a kill at any moment.

    trust.json               the ledger: what was issued and revoked (trust/ledger.py)
    etcd-peers-ca.crt .key   an authority, and so for etcd-clients and fleet; written once
    etcd-peers.crl           what it has revoked: follows from the ledger, and is made again where it does not

The folder appears at once with all that is in it. After that one write decides, the ledger's (beside it, fsync,
rename); a list that a kill kept from being written is made when the folder is next opened to write. Who writes holds
the folder's lock alone. Folder and keys are their owner's only, and one that others can read is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from terminal import Failure, durable
from terminal.lock import locked
from trust import ledger as ledgers
from trust.certificate import Authority
from trust.ledger import Ledger
from trust.profile import AUTHORITIES, ca_stem, certificate_file, crl_file, key_file, mode

LEDGER: Final = "trust.json"
_UNFINISHED: Final = ".trust-unfinished-"
"""Begins the name of a folder that is being made, beside where it will be. Its lock is held as long as that lasts."""
_FILE_MAX: Final = 64 << 20
"""Bytes. The ledger of 100,000 certificates has 40 million."""


@dataclass(slots=True)
class Store:
    """A folder that is open; its lock is held."""

    path: Path
    ledger: Ledger

    def certificate(self, authority: str) -> str:
        """The PEM text of an authority's certificate. Raises Failure."""
        return _read(self.path / certificate_file(ca_stem(authority)))

    def authority(self, name: str) -> Authority:
        """An authority with its key. Raises Failure, also if the key is readable for others."""
        key = self.path / key_file(ca_stem(name))
        _check_private(key)
        certificate = self.certificate(name)
        try:
            return Authority.parse(certificate, _read(key))
        except Failure as failure:
            raise Failure(
                "this authority cannot be used",
                where=f"{self.path}/{ca_stem(name)}.crt, .key",
                hint="restore both files from the copy of the folder",
            ) from failure

    def published(self, name: str) -> str:
        """The list in the folder of what an authority has revoked. Raises Failure."""
        return _read(self.path / crl_file(name))

    def save(self, ledger: Ledger) -> None:
        """Make ``ledger`` the folder's: it is on the disk when this returns, and then the lists follow it."""
        durable.replace(self.path / LEDGER, ledger.dump(), mode=_mode(LEDGER))
        self.ledger = ledger
        self.mend()

    def put(self, name: str, text: str) -> None:
        """Write another file of the folder, wholly or not at all; one with a key in it is called ``.key``."""
        durable.replace(self.path / name, text, mode=_mode(name))

    def text(self, name: str) -> str | None:
        """The text of such a file, None if it is not there. Raises Failure."""
        path = self.path / name
        if not path.exists():
            return None
        _check_private(path)
        return _read(path)

    def mend(self) -> None:
        """Write the lists of revoked certificates that do not say what the ledger says."""
        for name in AUTHORITIES:
            path = self.path / crl_file(name)
            crl = _read(path) if path.exists() else ""
            authority, revoked = self.authority(name), self.ledger.revoked(name)
            if not authority.lists(crl, revoked):
                text = authority.revocation_list(revoked, number=len(revoked) + 1)
                durable.replace(path, text, mode=_mode(path.name))


@contextmanager
def opened(folder: Path, *, to_write: bool) -> Iterator[Store]:
    """The trust folder, locked while the block runs: for one who writes, or for any number who read. Raises Failure."""
    if not (folder / LEDGER).exists():
        there = folder.exists()
        raise Failure(
            "not a trust folder" if there else "there is no such folder",
            where=str(folder),
            hint=f"make one: trust init {'another name' if there else folder}",
        )
    try:
        with locked(folder, fcntl.LOCK_EX if to_write else fcntl.LOCK_SH):
            _check_private(folder)
            _check_private(folder / LEDGER)
            text = _read(folder / LEDGER)
            try:
                store = Store(folder, ledgers.parse(text))
            except Failure as failure:
                failure.where = str(folder / LEDGER)
                raise
            if to_write:
                store.mend()
            yield store
    except OSError as error:
        raise Failure(f"cannot be used: {error.strerror}", where=str(error.filename or folder)) from error


@contextmanager
def made(folder: Path) -> Iterator[dict[str, str]]:
    """Make ``folder`` of the texts that the block puts into the dict, by file name: all of them or nothing.

    What cannot work is found before the block runs, as far as it can be; when this returns, all is on the disk. The
    folder is its owner's only, and so is a key. An empty folder in its place is replaced. What a kill left of another
    one that was made beside it is removed. Raises Failure, also for a folder inside of a trust folder.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow a link that is in our way
    files: dict[str, str] = {}
    try:
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
            raise _occupied(folder)
        _require_outside(target)
        _sweep(target.parent)
        with _staged(target.parent) as staged:
            yield files
            for name, text in files.items():
                durable.create(staged / name, text, mode=_mode(name))
            durable.sync(staged)
            staged.rename(target)
        durable.sync(target.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) or error.errno == errno.ENOTEMPTY:
            raise _occupied(folder) from error
        raise Failure(f"cannot be written: {error.strerror}", where=str(folder)) from error


@contextmanager
def _staged(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, locked while the block runs, and removed if it still has its name then."""
    while True:
        staged = Path(tempfile.mkdtemp(dir=parent, prefix=_UNFINISHED))
        try:
            if (held := _hold(staged)) is None:
                continue
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        try:
            yield staged
            return
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            os.close(held)


def _hold(staged: Path) -> int | None:
    """Lock a new folder. None if another process has swept it away before."""
    try:
        staged.chmod(0o700)  # whatever the umask says, as for its files
        held = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    fcntl.flock(held, fcntl.LOCK_EX)
    if staged.exists():
        return held
    os.close(held)
    return None


def _sweep(parent: Path) -> None:
    """Remove the unfinished folders of this user in ``parent`` that no process makes any more: keys are in them."""
    for left in parent.glob(f"{_UNFINISHED}*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or it has just been finished
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def _require_outside(target: Path) -> None:
    """What is given away must not lie where the keys of the authorities do: it would be copied with them, or they
    with it."""
    for parent in (target.parent.resolve(), *target.parent.resolve().parents):
        if (parent / LEDGER).exists():
            raise Failure("is inside of a trust folder", where=str(target), hint=f"name a folder outside of {parent}")


def _occupied(folder: Path) -> Failure:
    return Failure("is there already", where=str(folder), hint="name a folder that does not exist")


def _check_private(path: Path) -> None:
    """Raises Failure if anyone but the owner, who is this user or this user is root, may do anything with it."""
    found = _stat(path)
    if found.st_mode & 0o077:
        raise Failure(
            f"others may open it (its mode is {stat.S_IMODE(found.st_mode):04o})",
            where=str(path),
            hint=f"chmod go= {path}, and think about who may have read the keys meanwhile",
        )
    if os.geteuid() not in (0, found.st_uid):
        raise Failure("it belongs to another user", where=str(path), hint="use the account that made the trust folder")


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
        if len(data) > _FILE_MAX:
            raise Failure("too large for a file of a trust folder", where=str(path))
        return data.decode()
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise Failure("is not text", where=str(path), hint="restore it from the copy of the folder") from error


def _unreadable(path: Path, error: OSError) -> Failure:
    hint = "restore it from the copy of the folder" if isinstance(error, FileNotFoundError) else None
    return Failure(f"cannot be read: {error.strerror}", where=str(path), hint=hint)


def _mode(name: str) -> int:
    """The ledger is its owner's only, like a key."""
    return 0o600 if name == LEDGER else mode(name)
