"""Nothing is brought up to date at boot."""

from __future__ import annotations

from builder.core.tree import Tree, file, symlink
from builder.finish.databases import databases


def test_masks_what_is_there_and_dates_the_marks_like_usr() -> None:
    tree = Tree([file("usr/lib/systemd/system/ldconfig.service", "")])
    masks, etc, var = databases(tree, 1_700_000_000).put
    assert masks == symlink("etc/systemd/system/ldconfig.service", "/dev/null")
    assert (etc.path, var.path) == ("etc/.updated", "var/.updated")
    assert etc.mtime == var.mtime == 1_700_000_000
    assert b"TIMESTAMP_NSEC=1700000000000000000\n" in etc.content.read()
