"""The initrd's archive, read back field by field as the kernel's init/initramfs.c does."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from builder.core.tree import Entry, Inline, Kind, directory, file, symlink
from builder.formats import cpio

FIELDS = ["ino", "mode", "uid", "gid", "nlink", "mtime", "filesize"]


def read_back(data: bytes) -> list[tuple[str, dict[str, int], bytes]]:
    """(name, fields, content) of each record; insists on magic, alignment and the trailer."""
    found: list[tuple[str, dict[str, int], bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        size, length = numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        start = at + -(-(110 + length) // 4) * 4
        at = start + -(-size // 4) * 4
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return found
        fields = dict(zip(FIELDS, numbers, strict=False))
        found.append((name[:-1].decode(), fields, data[start : start + size]))


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_files_come_back_with_their_bytes(contents: list[bytes]) -> None:
    entries = [file(f"f{'x' * number}", content, 0o640, uid=7) for number, content in enumerate(contents)]
    read = read_back(b"".join(cpio.archive(entries)))
    assert [(name, content) for name, _, content in read] == [(entry.path, entry.content.read()) for entry in entries]
    assert [fields["ino"] for _, fields, _ in read] == list(range(1, len(entries) + 1))
    assert all(stat.S_ISREG(fields["mode"]) and fields["uid"] == 7 for _, fields, _ in read)


def test_kinds_modes_and_times() -> None:
    entries = [
        directory("bin", 0o755),
        symlink("bin/sh", "busybox"),
        Entry("x", Kind.FILE, 0o755, mtime=99, content=Inline(b"")),
    ]
    (_, folder, _), (_, link, target), (_, script, _) = read_back(b"".join(cpio.archive(entries)))
    assert stat.filemode(folder["mode"]) == "drwxr-xr-x"
    assert folder["nlink"] == 2
    assert (stat.filemode(link["mode"]), target) == ("lrwxrwxrwx", b"busybox")
    assert (stat.filemode(script["mode"]), script["mtime"]) == ("-rwxr-xr-x", 0)


def test_nothing_is_an_archive_too() -> None:
    assert read_back(b"".join(cpio.archive([]))) == []
