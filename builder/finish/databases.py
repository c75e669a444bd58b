"""Databases that systemd would update at boot, and the marks that prevent it.

Replaces the work of: udev (systemd-hwdb update), systemd (journalctl --update-catalog), and the ConditionNeedsUpdate=
services.

Decided:

* **No hwdb.bin.** It has vendor names, keyboard maps and power quirks of plain hardware; udev works without it, and a
  machine with the cloud kernel looks up nothing in it. This saves 12 MB. ``slim`` drops its sources as well.
* **No catalog.** Only the explanations of ``journalctl -x`` use it.
* **Nothing is updated at boot.** What sysusers, ldconfig, the hwdb and the catalog would write is in the image or left
  out, so their services are masked, and ``.updated`` in /etc and /var is as new as /usr, so ConditionNeedsUpdate= is
  false for the services of others, too.
"""

from __future__ import annotations

from typing import Final

from builder.core.tree import Entry, Kind, Patch, Tree, file, symlink

UPDATERS: Final = (
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
)


def databases(tree: Tree, epoch: int) -> Patch:
    """Masks for the update services of the tree, and /etc/.updated and /var/.updated.

    Their time is ``epoch`` (seconds), which must also be the modification time of /usr in the image.

    systemd compares seconds first and, if they are equal and /usr has no nanoseconds, the stamp inside the file. Runs
    after ``presets`` (which clears links it does not know) and before ``writable`` (which takes /var along).
    """
    masks = [
        symlink(f"etc/systemd/system/{name}", "/dev/null")
        for name in UPDATERS
        if f"usr/lib/systemd/system/{name}" in tree
    ]
    text = f"# Made by the builder: nothing to update.\nTIMESTAMP_NSEC={epoch}000000000\n"
    marks = [_dated(file(f"{folder}/.updated", text), epoch) for folder in ("etc", "var")]
    return Patch((*masks, *marks))


def _dated(entry: Entry, epoch: int) -> Entry:
    return Entry(entry.path, Kind.FILE, entry.mode, mtime=epoch, content=entry.content)
