"""A filesystem under a root descriptor: safe walks, and changes that happen completely or not at all.

Every path is walked component by component from the root's descriptor with O_NOFOLLOW. A symbolic link on the way is
followed only if root owns it (a user cannot redirect us), and always inside the root: an absolute target starts at the
root again, and ``..`` above it is refused. The last component is never followed: it is replaced.

A change is first *staged*: written next to its target under a temporary name, mode 0600 until owner and mode are set,
and synced. :meth:`Staging.commit` then renames, the only visible step. Errors occur while staging, and then nothing
remains. A power cut between two renames is repaired by the next apply, which writes what is not as planned.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from terminal import Failure

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LINKS_MAX = 40  # as the kernel


class RootedError(Failure):
    """A path that cannot be used, or I/O that failed; ``where`` is the path under the root."""


class Root:
    """An open root directory."""

    def __init__(self, path: str = "/") -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RootedError(f"cannot be opened: {error.strerror}", where=path) from error
        self._trusted = {0, os.geteuid()}

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    @contextmanager
    def parent(self, path: str, made: list[str] | None = None) -> Iterator[tuple[int, str]]:
        """Descriptor of the folder of ``path``, and its last name. Missing folders are an error, or made if ``made`` is
        a list, which then gets their paths: mode 0755, owned like the folder that they are made in. Raises
        RootedError."""
        pieces = path.lstrip("/").split("/")
        if not path.startswith("/") or any(piece in ("", ".", "..") for piece in pieces):
            raise RootedError("not a clean absolute path", where=path)
        fd = -1
        try:
            fd = self._walk(pieces[:-1], path, made)
            yield fd, pieces[-1]
        except OSError as error:
            raise RootedError(error.strerror or "input/output error", where=path) from error
        finally:
            if fd >= 0:
                os.close(fd)

    def read(self, path: str, size_max: int = 1 << 20, *, uid: int | None = None) -> bytes | None:
        """Content of a regular file, None if there is none. A link as the last name counts as none, and so does, if
        ``uid`` is given, a file that is not that user's alone (a second hard link could lead to another's). Cut one
        byte after ``size_max``. Raises RootedError."""
        try:
            with self.parent(path) as (folder, name):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
                try:
                    found = os.fstat(fd)
                    if not stat.S_ISREG(found.st_mode):
                        return None
                    if uid is not None and (found.st_uid, found.st_nlink) != (uid, 1):
                        return None
                    return _content(fd, size_max + 1)
                finally:
                    os.close(fd)
        except RootedError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError) or _is_loop(error.__cause__):
                return None
            raise

    def status(self, path: str) -> os.stat_result | None:
        """lstat, None if there is nothing. Raises RootedError."""
        try:
            with self.parent(path) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except RootedError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise

    def link_target(self, path: str) -> str | None:
        """Where a symbolic link points, None if there is none. Raises RootedError."""
        found = self.status(path)
        if found is None or not stat.S_ISLNK(found.st_mode):
            return None
        with self.parent(path) as (folder, name):
            return os.readlink(name, dir_fd=folder)

    def remove(self, path: str) -> None:
        """Remove a file or link, if it is there. Raises RootedError."""
        try:
            with self.parent(path) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except RootedError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise

    def remove_folder(self, path: str) -> None:
        """Remove a folder if it is there and empty."""
        try:
            with self.parent(path) as (folder, name):
                os.rmdir(name, dir_fd=folder)
        except RootedError:
            return

    def _walk(self, pieces: list[str], path: str, made: list[str] | None) -> int:
        """Open the folder ``pieces`` below the root; the caller closes it."""
        # The folders from the root to here, as descriptors: `..` in a link's target goes back one, never above the
        # first.
        trail = [os.dup(self._fd)]
        names: list[str] = []
        todo = list(reversed(pieces))
        links = 0
        try:
            while todo:
                piece = todo.pop()
                if piece in ("", "."):
                    continue
                if piece == "..":
                    if not names:
                        raise RootedError("a symbolic link on the way leads out of the root", where=path)
                    os.close(trail.pop())
                    names.pop()
                    continue
                try:
                    found = os.stat(piece, dir_fd=trail[-1], follow_symlinks=False)
                except FileNotFoundError:
                    if made is None:
                        raise
                    os.mkdir(piece, 0o700, dir_fd=trail[-1])
                    made.append("/" + "/".join((*names, piece)))
                    above = os.fstat(trail[-1])
                    _settle(trail[-1], piece, 0o755, above.st_uid, above.st_gid)
                    found = os.stat(piece, dir_fd=trail[-1], follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > LINKS_MAX:
                        raise RootedError("too many symbolic links on the way", where=path)
                    if found.st_uid not in self._trusted:
                        raise RootedError("a symbolic link on the way is not root's", where=path)
                    target = os.readlink(piece, dir_fd=trail[-1])
                    if target.startswith("/"):
                        while len(trail) > 1:
                            os.close(trail.pop())
                        names.clear()
                    todo.extend(reversed(target.split("/")))
                    continue
                trail.append(os.open(piece, _DIRECTORY, dir_fd=trail[-1]))
                names.append(piece)
            return os.dup(trail[-1])
        finally:
            for fd in trail:
                os.close(fd)


class Staging:
    """A set of changes under a root; use it in ``with``: left without :meth:`commit`, nothing of it stays."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._renames: list[tuple[str, str]] = []  # temporary path, path
        self._removals: list[str] = []
        self._folders: list[str] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary, _path in self._renames:
            self._root.remove(temporary)
        for folder in reversed(self._folders):
            self._root.remove_folder(folder)

    @property
    def own(self) -> tuple[int, int]:
        """Our own user and group id: root's on a node, a tester's in a folder."""
        return os.geteuid(), os.getegid()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that will change."""
        return (*(path for _temporary, path in self._renames), *self._removals)

    def folder(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Make a folder if it is missing; one that is there stays as it is. Raises RootedError."""
        if self._root.status(path) is not None:
            return
        with self._root.parent(path, self._folders) as (above, name):
            os.mkdir(name, 0o700, dir_fd=above)
            self._folders.append(path)
            _settle(above, name, mode, uid, gid)

    def file(self, path: str, content: bytes, mode: int, uid: int, gid: int) -> bool:
        """Stage a file; False if it is there already as wanted. Raises RootedError."""
        uid, gid = _possible(uid, gid)
        found = self._target(path)
        if (
            found is not None
            and stat.S_ISREG(found.st_mode)
            and (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, uid, gid)
            and found.st_size == len(content)
            and self._root.read(path, len(content)) == content
        ):
            return False
        with self._root.parent(path, self._folders) as (folder, _name):
            temporary = self._temporary(folder, path)
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                # Owner before mode: a change of owner clears setuid.
                if (uid, gid) != (os.geteuid(), os.getegid()):
                    os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                os.fsync(fd)
        return True

    def link(self, path: str, target: str) -> bool:
        """Stage a symbolic link; False if it is there already. Raises RootedError."""
        self._target(path)
        if self._root.link_target(path) == target:
            return False
        with self._root.parent(path, self._folders) as (folder, _name):
            os.symlink(target, self._temporary(folder, path), dir_fd=folder)
        return True

    def removal(self, path: str) -> None:
        """Stage that a file or link goes away."""
        self._removals.append(path)

    def commit(self) -> None:
        """Let all changes show. Raises RootedError."""
        while self._renames:
            temporary, path = self._renames[0]
            with self._root.parent(path) as (folder, name):
                os.rename(temporary.rpartition("/")[2], name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            self._renames.pop(0)
        while self._removals:
            self._root.remove(self._removals[0])
            self._removals.pop(0)
        self._folders.clear()

    def _target(self, path: str) -> os.stat_result | None:
        found = self._root.status(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise RootedError("is a folder", where=path)
        return found

    def _temporary(self, folder: int, path: str) -> str:
        """A name of its own beside ``path``.

        The same at each run, so that what a power cut left is not left for ever."""
        name = f".cloudconfig-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        self._renames.append((f"{path.rpartition('/')[0]}/{name}", path))
        return name


def _possible(uid: int, gid: int) -> tuple[int, int]:
    """Only root gives files away; all others write into a folder of theirs, as themselves."""
    return (uid, gid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def _settle(above: int, name: str, mode: int, uid: int, gid: int) -> None:
    """Give a folder that was just made its owner and mode."""
    uid, gid = _possible(uid, gid)
    fd = os.open(name, _DIRECTORY, dir_fd=above)
    try:
        if (uid, gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _content(fd: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size > 0:
        piece = os.read(fd, min(size, 1 << 20))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _is_loop(error: BaseException | None) -> bool:
    """ELOOP: O_NOFOLLOW met a link."""
    import errno

    return isinstance(error, OSError) and error.errno == errno.ELOOP
