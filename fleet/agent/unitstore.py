"""Unit files of fleet on a machine.

The disk holds all that the agent knows, so that a restarted daemon knows it too.

``units/`` holds the unit files, ``launched/`` an empty file for each unit that was started; both are under
``/run/fleet``, so that a reboot forgets them as it forgets the units. systemd finds a unit file by a link in
``/run/systemd/system``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from terminal import Failure
from unitfile.name import UnitName, UnitNameError


class StoreError(Failure):
    """A file could not be written or removed."""


class UnitStore:
    """The unit files in ``folder``, linked into ``systemd_folder``.

    Each method is safe to repeat, also when it was cut short.

    Names that have a unit file in one of ``host_folders`` are the machine's own: a unit of fleet must not stand in for
    its docker.service, nor stop it when it is destroyed.
    """

    def __init__(self, folder: Path, systemd_folder: Path, host_folders: Sequence[Path] = ()) -> None:
        self._units = folder / "units"
        self._launched = folder / "launched"
        self._systemd = systemd_folder
        self._host_folders = host_folders

    def prepare(self) -> None:
        """Make the folders. Raises :class:`StoreError`."""
        for folder in (self._units, self._launched, self._systemd):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError("cannot make a folder for unit files", where=str(folder)) from error

    def units(self) -> dict[str, str]:
        """The hash of each unit file that is here, by unit name. Other files are not ours; one without its link is half
        written or half removed, and counts as none."""
        found: dict[str, str] = {}
        for path in sorted(self._units.iterdir()):
            try:
                UnitName.parse(path.name)
                if (self._systemd / path.name).readlink() != path:
                    continue
                found[path.name] = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
            except (UnitNameError, OSError):
                continue
        return found

    def is_ours(self, name: str, path: str) -> bool:
        """Whether ``path`` is where the unit file or its link is, or was: systemd may not know yet that it was
        removed."""
        return Path(path) in (self._units / name, self._systemd / name)

    def is_launched(self, name: str) -> bool:
        """Whether the unit was started and not stopped since, by us."""
        return (self._launched / name).exists()

    def write(self, name: str, text: str) -> None:
        """Store a unit file and link it. Raises :class:`StoreError`."""
        path = self._units / str(UnitName.parse(name))
        link = self._systemd / name
        try:
            theirs = [each for folder in self._host_folders if _is_there(each := folder / name)]
            if _is_there(link) and not (link.is_symlink() and link.readlink() == path):
                theirs.append(link)
            if theirs:
                raise StoreError(
                    "this machine has a unit of that name already",
                    where=str(theirs[0]),
                    hint="give the unit another name",
                )
            partial = path.with_name(f".{name}.new"[:255])
            partial.write_text(text, encoding="utf-8")
            partial.chmod(0o644)
            partial.replace(path)
            if not link.is_symlink():
                link.symlink_to(path)
        except OSError as error:
            raise StoreError("cannot write the unit file", where=str(path)) from error

    def remove(self, name: str) -> None:
        """Remove a unit file, its link and its mark. Raises :class:`StoreError`."""
        path = self._units / str(UnitName.parse(name))
        link = self._systemd / name
        try:
            if link.is_symlink() and link.readlink() == path:
                link.unlink()
            (self._launched / name).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError("cannot remove the unit file", where=str(path)) from error

    def mark_launched(self, name: str, launched: bool) -> None:
        """Record that a unit was started, or stopped. Raises :class:`StoreError`."""
        mark = self._launched / str(UnitName.parse(name))
        try:
            if launched:
                mark.touch()
            else:
                mark.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError("cannot mark the unit", where=str(mark)) from error


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
