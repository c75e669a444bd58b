"""Databases that systemd would bring up to date at boot, and the marks that say there is nothing to do.

Replaces the work of: udev (systemd-hwdb update), systemd (journalctl --update-catalog), and the ConditionNeedsUpdate= services.

Decided:

* **No hwdb.bin.** It tells vendor names, keyboard maps and power quirks of plain hardware; udev works without it, and a machine of the cloud
  kernel has nothing to look up. 12 MB saved. ``slim`` drops its sources as well.
* **No catalog.** It only feeds the explanations of ``journalctl -x``.
* **Nothing is updated at boot.** What sysusers, ldconfig, the hwdb and the catalog would write is in the image or left out, so their services
  are masked, and ``.updated`` in /etc and /var is as new as /usr, so ConditionNeedsUpdate= is false for the services of others, too.
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
    """Masks for the update services that the tree has, and /etc/.updated and /var/.updated with the time ``epoch`` (seconds), which is to be the
    modification time of /usr in the image as well.

    systemd compares seconds first and, if they are equal and /usr has no nanoseconds, the stamp inside. Runs after ``presets`` (which clears
    links it does not know) and before ``writable`` (which takes /var along).
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
