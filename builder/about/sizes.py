"""``sizes.html``: a map of the bytes of an image.

One self-contained page (:mod:`builder.core.page`). Its script draws a treemap in which every area is proportional to
bytes before compression: by the package that brought a file, then by folder; or by folder alone. The page contains the
data, all files by folder. The tables work without scripts, too. The same tree gives the same page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from builder.core.page import page, table
from builder.core.tree import OWNER_BUILDER, Kind, Tree
from builder.debian.deb import Package, fields

NAME: Final = "sizes.html"

LARGEST: Final = 10
"""Owners in the table above the fold; without scripts all are shown."""

KINDS: Final = {
    "system": "system",
    "libraries": "libraries",
    "network": "network",
    "kernel": "kernel",
    "languages": "languages",
    "tools": "tools",
    "ours": "our own",
    "other": "other",
}
"""The kinds of owners: style and name."""

_SECTIONS: Final = {
    "system": ("admin", "database", "metapackages", "otherosfs", "raku", "vcs"),
    "libraries": ("introspection", "libdevel", "libs", "oldlibs"),
    "network": ("comm", "httpd", "mail", "net", "news", "web"),
    "kernel": ("kernel",),
    "languages": ("devel", "golang", "haskell", "interpreters", "java", "javascript", "lisp", "ocaml", "perl", "php", "python", "ruby", "rust"),
    "tools": ("doc", "editors", "localization", "misc", "shells", "text", "utils"),
}  # fmt: skip
_KIND_OF_SECTION: Final = {section: kind for kind, sections in _SECTIONS.items() for section in sections}


def write(folder: Path, title: str, packages: Iterable[Package], tree: Tree) -> None:
    """Write the page about ``tree``, made of ``packages``, as :data:`NAME` into the ``folder`` of its artifacts."""
    artifacts = [(path.name, path.stat().st_size) for path in sorted(folder.iterdir()) if path.name != NAME]
    (folder / NAME).write_text(render(title, packages, tree, artifacts), "utf-8")


def kind(owner: str, section: str) -> str:
    """The kind (a key of :data:`KINDS`) of a package in this section of Debian's archive (Debian policy, 2.4)."""
    if owner == OWNER_BUILDER:
        return "ours"
    return _KIND_OF_SECTION.get(section.rpartition("/")[2], "other")


def render(title: str, packages: Iterable[Package], tree: Tree, artifacts: Sequence[tuple[str, int]]) -> str:
    """The whole page; ``artifacts`` are names and sizes in bytes."""
    bytes_of: Counter[str] = Counter()
    files = [entry for entry in tree if entry.kind is Kind.FILE and entry.size]
    for entry in files:
        bytes_of[entry.owner] += entry.size
    owners = sorted(bytes_of, key=lambda owner: (-bytes_of[owner], owner))
    total = bytes_of.total()
    control = {package.name: fields(package.control) for package in packages}
    versions = {owner: control.get(owner, {}).get("Version", "") for owner in owners}
    kinds = {owner: kind(owner, control.get(owner, {}).get("Section", "")) for owner in owners}

    def rows(some: Iterable[str]) -> list[list[str]]:
        return [
            [owner, versions[owner], KINDS[kinds[owner]], megabytes(bytes_of[owner]), _percent(bytes_of[owner], total)]
            for owner in some
        ]

    header, numbers = ["package", "version", "kind", "size", "share"], (3, 4)
    present = [each for each in KINDS if each in kinds.values()]
    of_kind = Counter({each: sum(bytes_of[owner] for owner in owners if kinds[owner] == each) for each in present})
    numbered = {owner: number for number, owner in enumerate(owners)}
    body = _BODY.format(
        title=escape(title),
        summary=escape(f"{megabytes(total)} in {len(files)} files of {len(owners)} packages, before compression"),
        legend="\n".join(
            f'<button type="button" class="{each}" value="{each}" aria-pressed="false"><i class="swatch"></i>'
            f"{escape(KINDS[each])} {megabytes(size)}</button>"
            for each, size in of_kind.most_common()
        ),
        largest=table(header, rows(owners[:LARGEST]), numbers),
        all=table(header, rows(owners), numbers),
        artifacts=table(["file", "size"], [[name, megabytes(size)] for name, size in artifacts], (1,)),
    )
    shown = list(KINDS.items())
    data = {
        "total": total,
        "kinds": shown,
        "owners": [[owner, versions[owner], [name for name, _ in shown].index(kinds[owner])] for owner in owners],
        "files": _nested((entry.path, entry.size, numbered[entry.owner]) for entry in files),
    }
    return page("sizes", f"Sizes of {title}", body, data)


def _nested(files: Iterable[tuple[str, int, int]]) -> list[Any]:
    """Files (path, size, number of the owner) by folder.

    A folder is ``[name, [contents]]``, a file ``[name, size, owner]``.
    """
    top: list[Any] = []
    inside: dict[str, list[Any]] = {"": top}

    def folder(path: str) -> list[Any]:
        if path not in inside:
            above, _, name = path.rpartition("/")
            inside[path] = []
            folder(above).append([name, inside[path]])
        return inside[path]

    for path, size, owner in files:
        above, _, name = path.rpartition("/")
        folder(above).append([name, size, owner])
    return top


def megabytes(size: int) -> str:
    """``size`` in bytes for people: 12.3 MB; 4.5 kB or 67 B where the larger unit would give 0.0."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


def _percent(size: int, total: int) -> str:
    return f"{100 * size / total:.1f} %"


_BODY: Final = """\
<header>
<h1>{title}</h1>
<p>{summary}</p>
</header>
<main>
<div id="explorer" hidden>
<div class="bar">
<span class="views" role="group" aria-label="arrange by"><button type="button" value="p">by package</button><button type="button" value="f">by folder</button></span>
<input id="search" type="search" placeholder="search files and packages" aria-label="search files and packages" autocomplete="off">
<span id="count" role="status"></span>
</div>
<div class="bar legend" role="group" aria-label="kinds of packages">
{legend}
</div>
<ol id="trail" class="trail" aria-label="where you are"></ol>
<div id="map" class="stage" role="group" aria-label="map of sizes"></div>
<p id="description" class="description" aria-live="polite"></p>
<ol id="found" aria-label="largest files found"></ol>
<p class="hint">Click to look inside, Escape to go back, arrows and Enter to move by keyboard, / to search.</p>
</div>
<noscript><p>The map needs scripts, which are switched off here; the tables say the same in words.</p></noscript>
<div class="tables">
<section>
<h2>Largest packages</h2>
{largest}
</section>
<section>
<h2>Files of this build</h2>
{artifacts}
</section>
</div>
<noscript>
<h2>All packages</h2>
{all}
</noscript>
</main>"""
