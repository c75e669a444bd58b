"""The review of maintainer scripts: none ever runs, so each is read by a person once, and again whenever it changes.

``scripts.json`` beside the definition holds one entry for each script: the sha256 of its text, the finishing steps that
do its work (``covered``), and the findings, above all what is left undone on purpose (``reviewed``). This module is
pure except :func:`load`; the verbs that use it are in :mod:`builder.cli.lock`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from builder import finish
from terminal import Failure, record

FORMAT_VERSION: Final = 1

SHOWN_LINES_MAX: Final = 60
"""Lines shown of a script without a former version; ``osbuild scripts --show`` prints all."""

_HELPERS: Final = frozenset({"elf", "pyc"})
STEPS: Final = frozenset(module.name for module in pkgutil.iter_modules(finish.__path__)) - _HELPERS
"""The finishing steps that an entry may name."""

# Irrelevant changes of every rebuild of a package: the version of debhelper that wrote a part, and the kernel's own
# release.
_DEBHELPER: Final = re.compile(r"(?m)^(# (?:Automatically|Triggers) added by [\w-]+)/\S+$")
_KERNEL: Final = re.compile(r"\b\d+\.\d+\.\d+\\?\+deb\d+(?:\.\d+)*")

Kind = Literal["new", "changed", "stale"]


class ReviewFailure(Failure):
    """The review cannot be read, or does not cover what is to be locked."""


@dataclass(frozen=True, slots=True, order=True)
class Script:
    """One maintainer script; ``package`` and ``text`` in the form that :func:`canonical` gives."""

    package: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text, in hex."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class Review:
    """The review of one script; ``covered`` are finishing steps."""

    package: str
    script: str
    sha256: str
    covered: tuple[str, ...]
    reviewed: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A ``new`` or ``changed`` script without a review, or a ``stale`` entry of a script that is gone."""

    kind: Kind
    package: str
    script: str
    now: Script | None = None


def canonical(package: str, name: str, text: str) -> Script:
    """The script without the changes of every rebuild: debhelper's version in comments and, for kernels, the release.

    So an update of the kernel, whose package is named after its release, needs a review only when a script really
    changed.
    """
    text = _DEBHELPER.sub(r"\1", text)
    if package.startswith("linux-image-"):
        package, text = _KERNEL.sub("RELEASE", package), _KERNEL.sub("RELEASE", text)
    return Script(package, name, text)


def check(scripts: Iterable[Script], reviews: Iterable[Review]) -> tuple[Finding, ...]:
    """The ``scripts`` without an entry in ``reviews``, and the entries without a script, sorted."""
    present = set(scripts)
    known: dict[tuple[str, str], set[str]] = {}
    for review in reviews:
        known.setdefault((review.package, review.script), set()).add(review.sha256)
    found = []
    for script in sorted(present):
        hashes = known.get((script.package, script.name), set())
        if script.sha256 not in hashes:
            found.append(Finding("changed" if hashes else "new", script.package, script.name, script))
    live = {(script.package, script.name, script.sha256) for script in present}
    gone = {
        (package, name)
        for (package, name), hashes in known.items()
        for each in hashes
        if (package, name, each) not in live
    }
    open_ = {(finding.package, finding.script) for finding in found}
    found += [Finding("stale", package, name) for package, name in sorted(gone - open_)]
    return tuple(found)


def accept(
    reviews: Iterable[Review],
    scripts: Iterable[Script],
    packages: Iterable[str],
    *,
    covered: Sequence[str],
    reviewed: str,
) -> tuple[Review, ...]:
    """``reviews`` with entries for all open scripts of ``packages``, and without stale entries of these packages.

    ``scripts`` are all scripts of the reviews, so that entries that another lock still needs stay.
    """
    chosen = set(packages)
    present = [script for script in scripts if script.package in chosen]
    live = {(script.package, script.name, script.sha256) for script in present}
    kept = [each for each in reviews if each.package not in chosen or (each.package, each.script, each.sha256) in live]
    known = {(each.package, each.script, each.sha256) for each in kept}
    added = {
        Review(script.package, script.name, script.sha256, tuple(sorted(covered)), reviewed)
        for script in present
        if (script.package, script.name, script.sha256) not in known
    }
    return tuple(sorted({*kept, *added}))


def show(finding: Finding, before: Script | None) -> str:
    """The finding as text: a unified diff from ``before`` (the currently locked script), or the first lines."""
    title = f"{finding.package}: {finding.script} is {finding.kind}"
    if finding.now is None:
        return title
    new = finding.now.text.splitlines()
    if before is not None and before.text != finding.now.text:
        lines = list(difflib.unified_diff(before.text.splitlines(), new, "locked", "new", lineterm=""))
    else:
        lines = new[:SHOWN_LINES_MAX]
        if len(new) > SHOWN_LINES_MAX:
            lines.append(f"... {len(new) - SHOWN_LINES_MAX} more lines: osbuild scripts --show {finding.package}")
    return "\n".join([title, *(f"    {line}".rstrip() for line in lines)])


def load(path: Path) -> tuple[Review, ...]:
    """The reviews in the file at ``path``; none if there is no such file. Raises :class:`ReviewFailure`."""
    try:
        return parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise ReviewFailure(
            f"the review of maintainer scripts cannot be read: {error}",
            where=str(path),
            hint="correct it by hand, or take the file from version control again ('git checkout')",
        ) from None


def parse(text: str) -> tuple[Review, ...]:
    """The reviews in ``text``. Raises ``ValueError`` with the place."""
    data = record.parse(text)
    if not isinstance(data, dict) or data.get("version") != FORMAT_VERSION or not isinstance(data.get("scripts"), list):
        raise ValueError(f"not an object with 'version': {FORMAT_VERSION} and a list 'scripts'")
    return tuple(_review(f"scripts[{i}]", item) for i, item in enumerate(data["scripts"]))


def dump(reviews: Iterable[Review]) -> str:
    """The reviews as text, one entry a line, sorted."""
    lines = ",\n".join("    " + json.dumps(asdict(review), ensure_ascii=False) for review in sorted(set(reviews)))
    body = f"[\n{lines}\n  ]" if lines else "[]"
    return f'{{\n  "version": {FORMAT_VERSION},\n  "scripts": {body}\n}}\n'


def _review(where: str, item: Any) -> Review:
    names = [field.name for field in fields(Review)]
    if not isinstance(item, dict) or sorted(item) != sorted(names):
        raise ValueError(f"{where}: not an object with {', '.join(names)}")
    covered = item["covered"]
    if not isinstance(covered, list) or not all(isinstance(item[name], str) for name in names if name != "covered"):
        raise ValueError(f"{where}: 'covered' is to be a list, all else text")
    check_steps(covered, where)
    if not covered and not item["reviewed"].strip():
        raise ValueError(f"{where}: neither covered by a step nor reviewed with a reason")
    return Review(item["package"], item["script"], item["sha256"], tuple(covered), item["reviewed"])


def check_steps(names: Iterable[object], where: str) -> None:
    """Raise ``ValueError`` if one of ``names`` is not a finishing step."""
    for name in names:
        if name not in STEPS:
            raise ValueError(f"{where}: {name!r} is no finishing step; there are {', '.join(sorted(STEPS))}")
