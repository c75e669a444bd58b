"""Contents that are compressed once: a change of one file of a root does not compress all others again.

mksquashfs packs every content of the packages into a :class:`Pool`, which the store keeps. A root is then the pool's
data as it is, the contents that the pool lacks (our overlay, units and code: a few megabytes) as they are, and tables
that map paths to blocks (:mod:`builder.formats.squashfs`). Equal trees give equal bytes, whether the pool was in the
store or not; a root is some two megabytes larger than one that mksquashfs packs as a whole, as for releases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core import verity
from builder.core.store import Store, identify
from builder.core.toolbox import Closure
from builder.core.tree import Content, Entry, Kind, Tree
from builder.formats import filesystem, squashfs
from builder.formats.squashfs import Blocks
from terminal import record

VERSION: Final = 1
"""Version of what is kept; part of its id."""

_IMAGE: Final = "image"
_BLOCKS: Final = "blocks.json"
_HASHES: Final = "hashes"

_HARMLESS: Final = ("-comp", "-b", "-no-fragments")


@dataclass(frozen=True)
class Pool:
    """A folder of the store with compressed contents.

    It has ``image`` (a squashfs of contents without paths), ``blocks.json`` (the place of each content by its hash),
    and the hashes of its blocks for dm-verity.
    """

    folder: Path
    blocks: dict[str, Blocks]

    def assemble(self, tree: Tree, output: Path, epoch: int) -> None:
        """Write ``tree`` as the new file ``output``; times are those of :func:`builder.formats.filesystem.modified`.

        Raises :class:`terminal.Failure` for a content that the store no longer has, and ``OSError`` for a full disk.
        """
        squashfs.assemble(tree, contents(tree), self.folder / _IMAGE, self.blocks, output, epoch)

    def protect(self, root: Path) -> verity.Verity:
        """As :func:`builder.core.verity.protect`, for a ``root`` that was assembled from this pool.

        Of the blocks of the pool's data only the first one differs.
        """
        return verity.protect(root, (self.folder / _HASHES).read_bytes())


def fits(kind: str, options: Sequence[str]) -> bool:
    """Can a file system of ``kind`` with the writer's ``options`` be assembled?

    Only if the options affect nothing but the compression of data, since a pool has neither paths nor owners.
    """
    words = [word for word in options if word.startswith("-")]
    return kind == "squashfs" and all(word in _HARMLESS or word.startswith("-X") for word in words)


def pool(base: Tree, options: Sequence[str], tools: Closure, store: Store) -> Pool:
    """The pool of the contents of ``base``, packed with mksquashfs's ``options``: from ``store``, or made now.

    Raises :class:`terminal.Failure` as :func:`builder.formats.filesystem.pack` does.
    """
    found = contents(base)
    key = pool_id(found, options, tools.root.name)
    if not store.has("steps", key):
        with store.making("steps", key) as work:
            _make(found, options, work, tools)
    folder = store.path("steps", key)
    rows = record.parse((folder / _BLOCKS).read_text())
    return Pool(
        folder, {name: Blocks(start, fragment, offset, tuple(sizes)) for name, start, fragment, offset, *sizes in rows}
    )


def pool_id(found: Sequence[Content], options: Sequence[str], closure: str) -> str:
    """The id of the pool of the contents ``found`` in a base, packed with ``options`` by the tools ``closure`` (an id).

    It depends on contents and not on what made them, so that a change of the builder's code that changes none of them
    compresses nothing again.
    """
    return identify("pool", VERSION, [closure, list(options), [content.sha256 for content in found]])


def contents(tree: Tree) -> list[Content]:
    """Each content of ``tree`` once, in the order of the paths."""
    return list({entry.content.sha256: entry.content for entry in tree if entry.size}.values())


def _make(found: Sequence[Content], options: Sequence[str], folder: Path, tools: Closure) -> None:
    names = [f"{number:08d}" for number in range(len(found))]
    flat = Tree.of(Entry(name, Kind.FILE, content=content) for name, content in zip(names, found, strict=True))
    image = folder / _IMAGE
    # Tables are not compressed, so that they can be read; no search for duplicates, since there are none.
    always = ("-noI", "-no-exports", "-no-xattrs", "-no-duplicates", "-nopad")
    filesystem.pack(flat, "squashfs", [*options, *always], image, 0, tools)
    blocks, end = squashfs.read(image)
    rows = []
    for name, content in zip(names, found, strict=True):
        lies = blocks[name.encode()]
        rows.append((content.sha256, lies.start, lies.fragment, lies.offset, *lies.sizes))
    (folder / _BLOCKS).write_text(json.dumps(rows))
    with image.open("rb") as file:
        (folder / _HASHES).write_bytes(verity.hashes(file, 0, end // verity.BLOCK))
