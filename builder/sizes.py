"""``sizes.html``: where the bytes of an image are, for people who would rather look than read.

One page that needs nothing else: no address, no script, and a policy in its head that forbids both. A treemap, first by owner (the package that
brought a file, or ``flotilla``), then by folder, in which every area is proportional to bytes before compression; below it a table of the
largest owners and one of the artifacts. The same tree gives the same page.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

from builder.lockfile import Lock
from builder.tree import Kind, Tree

NAME: Final = "sizes.html"

OWNERS_SHOWN: Final = 40
"""Rows of the table; what is below them is less than a per mille of an image each."""

SMALLEST_SHARE: Final = 1 / 4000
"""What is a smaller part of the whole has no area of its own: it would be a square of less than 20 pixels on a wide screen."""

FILES_NAMED: Final = 3
"""Of each folder's largest files, in the text that shows when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


WHOLE: Final = Box(0.0, 0.0, 1600.0, 900.0)
"""The map in pixels of a wide screen. The page says everything in percent, so only the proportions matter."""


@dataclass(slots=True)
class Share:
    """Some files together: how many bytes they are, and which of them are the largest."""

    bytes: int = 0
    files: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Share) -> None:
        """Have these files, too."""
        self.bytes += other.bytes
        self.files += other.files


def write(folder: Path, name: str, target: str, lock: Lock, tree: Tree) -> None:
    """Write the page about ``tree`` into ``folder``, whose other files are its artifacts, under :data:`NAME`."""
    artifacts = [(path.name, path.stat().st_size) for path in sorted(folder.iterdir()) if path.name != NAME]
    (folder / NAME).write_text(page(f"{name} ({target})", lock, tree, artifacts), "utf-8")


def squarify(weights: Sequence[float], box: Box) -> list[Box]:
    """``box`` cut into one box for each of ``weights`` (above zero, largest first), areas in proportion, shapes near to squares.

    Squarified treemaps: Bruls, Huizing and van Wijk, 2000. A row is laid along the shorter side of what is left, and gets one more box for as
    long as that makes the worst shape in it better.
    """
    scale = box.width * box.height / sum(weights) if weights else 0.0
    areas = [weight * scale for weight in weights]
    boxes: list[Box] = []
    while len(boxes) < len(areas):
        start = len(boxes)
        side = min(box.width, box.height)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(areas[start:end], side):
            end += 1
        row = areas[start:end]
        depth = sum(row) / side
        along = 0.0
        for area in row:
            length = area / depth
            if box.width >= box.height:
                boxes.append(Box(box.left, box.top + along, depth, length))
            else:
                boxes.append(Box(box.left + along, box.top, length, depth))
            along += length
        if box.width >= box.height:
            box = Box(box.left + depth, box.top, box.width - depth, box.height)
        else:
            box = Box(box.left, box.top + depth, box.width, box.height - depth)
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """How far from a square the worst box of a row is, laid along a side of that length; 1 is a square. ``row`` is largest first."""
    total = sum(row)
    return max(side * side * row[0] / (total * total), total * total / (side * side * row[-1]))


def folders(files: Iterable[tuple[str, int]], smallest: float) -> dict[str, Share]:
    """The bytes of ``files`` (path, size) by folder. A folder of less than ``smallest`` bytes counts as part of the one above it."""
    shares: defaultdict[str, Share] = defaultdict(Share)
    for path, size in files:
        shares[path.rpartition("/")[0]].add(Share(size, [(size, path)]))
    depths: defaultdict[int, set[str]] = defaultdict(set)
    for folder in shares:
        depths[_depth(folder)].add(folder)
    for depth in range(max(depths, default=0), 0, -1):
        for folder in sorted(depths[depth]):
            if shares[folder].bytes < smallest:
                above = folder.rpartition("/")[0]
                shares[above].add(shares.pop(folder))
                depths[depth - 1].add(above)
    return dict(shares)


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def page(title: str, lock: Lock, tree: Tree, artifacts: Sequence[tuple[str, int]]) -> str:
    """The whole page; ``artifacts`` are names and sizes in bytes."""
    files: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in tree:
        if entry.kind is Kind.FILE and entry.size:
            files[entry.owner].append((entry.path, entry.size))
    bytes_of = Counter({owner: sum(size for _, size in each) for owner, each in files.items()})
    owners = sorted(bytes_of, key=lambda owner: (-bytes_of[owner], owner))
    total = bytes_of.total()
    versions = {package.name: package.version for package in lock.packages}
    count = sum(map(len, files.values()))
    summary = f"{megabytes(total)} in {count} files of {len(owners)} owners, before compression"
    rows = [
        [owner, versions.get(owner, ""), megabytes(bytes_of[owner]), _percent(bytes_of[owner], total)]
        for owner in owners[:OWNERS_SHOWN]
    ]
    if rest := owners[OWNERS_SHOWN:]:
        size = sum(bytes_of[owner] for owner in rest)
        rows.append([f"{len(rest)} more", "", megabytes(size), _percent(size, total)])
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        summary=escape(summary),
        map="\n".join(_map(files, owners, bytes_of)),
        owners=_table(["owner", "version", "size", "share"], rows),
        artifacts=_table(["artifact", "size"], [[name, megabytes(size)] for name, size in artifacts]),
    )


def _map(files: dict[str, list[tuple[str, int]]], owners: Sequence[str], bytes_of: Counter[str]) -> Iterable[str]:
    """The divisions of the map, an owner a line."""
    smallest = bytes_of.total() * SMALLEST_SHARE
    large = [owner for owner in owners if bytes_of[owner] >= smallest]
    groups = [(owner, bytes_of[owner], files[owner]) for owner in large]
    if small := owners[len(large) :]:
        together = [each for owner in small for each in files[owner]]
        groups.append((f"{len(small)} smaller owners", sum(size for _, size in together), together))
        groups.sort(key=lambda group: -group[1])
    boxes = squarify([size for _, size, _ in groups], WHOLE)
    for (owner, size, content), box in zip(groups, boxes, strict=True):
        inner = "".join(_tiles(owner, content, smallest, box))
        label = f"<b>{escape(owner)} {megabytes(size)}</b>" if box.width > 70 and box.height > 34 else ""
        yield (
            f'<div class="owner" data-owner="{escape(owner)}" data-bytes="{size}" '
            f'style="--hue:{_hue(owner)};{_place(box, WHOLE)}">{inner}{label}</div>'
        )


def _tiles(owner: str, files: Sequence[tuple[str, int]], smallest: float, outer: Box) -> Iterable[str]:
    """The divisions inside an owner's, one a folder."""
    shares = sorted(folders(files, smallest).items(), key=lambda item: (-item[1].bytes, item[0]))
    boxes = squarify([share.bytes for _, share in shares], Box(0.0, 0.0, outer.width, outer.height))
    for (folder, share), box in zip(shares, boxes, strict=True):
        largest = sorted(share.files, key=lambda file: (-file[0], file[1]))
        words = [f"{owner}: /{folder}, {megabytes(share.bytes)} in {len(largest)} file{'s' * (len(largest) > 1)}"]
        words += [f"{megabytes(size)} /{path}" for size, path in largest[:FILES_NAMED]]
        label = f"<span>/{escape(folder)}</span>" if box.width > 60 and box.height > 50 else ""
        yield (
            f'<div class="folder" data-bytes="{share.bytes}" title="{escape(chr(10).join(words))}" '
            f'style="{_place(box, outer)}">{label}</div>'
        )


def _place(box: Box, outer: Box) -> str:
    """CSS that puts ``box`` (measured from the corner of ``outer``) where it belongs."""
    left, width = 100 * box.left / outer.width, 100 * box.width / outer.width
    top, height = 100 * box.top / outer.height, 100 * box.height / outer.height
    return f"left:{left:.4f}%;top:{top:.4f}%;width:{width:.4f}%;height:{height:.4f}%"


def _hue(owner: str) -> int:
    """A colour that an owner keeps from one build to the next."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:2], "big") % 360


def megabytes(size: int) -> str:
    """``size`` bytes for people: 12.3 MB; 4.5 kB or 67 B for what would be 0.0 of the larger unit."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


def _percent(size: int, total: int) -> str:
    return f"{100 * size / total:.1f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


_STYLE: Final = """\
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 1600px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; }
.map { position: relative; width: 100%; aspect-ratio: 16 / 9; margin: 1rem 0; background: #888; }
.map div { position: absolute; overflow: hidden; box-sizing: border-box; }
.folder { background: hsl(var(--hue) 50% 76%); box-shadow: inset 0 0 0 1px hsl(var(--hue) 40% 58%); color: #111; }
.folder:hover { background: hsl(var(--hue) 70% 88%); }
.folder span { position: absolute; bottom: 2px; left: 4px; font-size: 11px; white-space: nowrap; opacity: .75; }
.owner b { position: absolute; top: 2px; left: 4px; font-size: 12px; white-space: nowrap; color: #111; pointer-events: none; }
.owner { outline: 1px solid #222; outline-offset: -1px; }
.tables { display: flex; flex-wrap: wrap; gap: 3rem; align-items: flex-start; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #8884; }
td { font-variant-numeric: tabular-nums; }"""

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sizes: {title}</title>
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}. An area is an owner and the folders inside it; rest the pointer on one for its largest files.</p>
<div class="map" role="img" aria-label="The sizes that the tables below tell in words.">
{map}
</div>
<div class="tables">
{owners}
{artifacts}
</div>
</body>
</html>
"""
