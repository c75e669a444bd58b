"""Budgets: the size limits of a build, and which owners made it larger.

    the definition's budget + what was measured  --excesses()-->  the parts that are too large, and the owners that grew
    <definition>.sizes.json                      --load()------>  the owners' bytes of an accepted build

The second is a small file beside the definition, committed with it and written by ``osbuild budget --accept``, so that
a fresh clone without a former build has it, too. Limits count bytes as delivered; owners are compared by their bytes
before compression, since several owners share a compressed byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from builder.definition.definition import Definition, Limits
from terminal import Failure, record, table

OWNERS_SHOWN: Final = 10
SUFFIX: Final = ".sizes.json"
VERSION: Final = 1

Level = Literal["release", "fast"]
"""With ``--release`` or without; a container counts as a release."""

Budget = Mapping[Level, Limits]
"""Limits by level, as in definitions."""

Owners = Mapping[str, int]
"""Bytes before compression, by package; by file for what no package delivers unchanged."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One part of a build: its bytes as delivered, and the bytes of each owner before compression."""

    bytes: int
    owners: Owners


@dataclass(frozen=True, slots=True)
class Growth:
    """An owner that differs: ``old`` is None where nothing is known of former builds."""

    owner: str
    old: int | None
    new: int


@dataclass(frozen=True, slots=True)
class Excess:
    """A part that is too large, with the key of its limit and the owners that grew, most first.

    Without known former sizes (``known`` is false) these are the largest owners. Sizes are in bytes.
    """

    part: str
    key: str
    bytes: int
    limit: int
    known: bool
    grown: tuple[Growth, ...]


def measured(sizes: Mapping[str, int], owners: Owners, boot: Owners) -> dict[str, Measured]:
    """The parts of a build from its manifest: ``sizes`` by part, ``owners`` of the tree, and contents of ``boot``."""
    return {part: Measured(count, boot if part == "boot" else owners) for part, count in sizes.items()}


def limit(budget: Budget, part: str, level: Level) -> int | None:
    """The limit of ``part`` in bytes; None if it has none."""
    found: int | None = getattr(budget[level], part) if level in budget else None
    return found


def excesses(
    budget: Budget, level: Level, measured: Mapping[str, Measured], baseline: Mapping[str, Owners]
) -> Iterator[Excess]:
    """The parts in ``measured`` that exceed their limits.

    ``baseline`` has the owners' former bytes, by part, as far as they are known.
    """
    for part, found in measured.items():
        held = limit(budget, part, level)
        if held is not None and found.bytes > held:
            before = baseline.get(part)
            grown = growth(before, found.owners)[:OWNERS_SHOWN]
            yield Excess(part, f"budget.{level}.{part}", found.bytes, held, before is not None, grown)


def growth(before: Owners | None, now: Owners) -> tuple[Growth, ...]:
    """The owners that grew since ``before``, most first; if that is unknown (None), all owners, largest first."""
    if before is None:
        found = [Growth(owner, None, count) for owner, count in now.items()]
    else:
        found = [Growth(owner, before.get(owner, 0), now[owner]) for owner in now if now[owner] > before.get(owner, 0)]
    return tuple(sorted(found, key=lambda each: ((each.old or 0) - each.new, each.owner)))


def check(what: Definition, path: Path, level: Level, measured: Mapping[str, Measured]) -> None:
    """Raise :class:`Failure`, naming owners, if a part is larger than the definition at ``path`` allows."""
    beside = baseline_path(path)
    found = list(excesses(what.budget, level, measured, load(beside, what.architecture)))
    if found:
        raise Failure(
            "\n".join("\n  ".join(_described(each, beside)) for each in found),
            where=str(path),
            hint="take something out (packages, remove, kernel.modules), or raise the limit in the definition; after a build that is as it"
            " should be, 'osbuild budget --accept' records its sizes",
        )


def _described(excess: Excess, beside: Path) -> Iterator[str]:
    over = excess.bytes - excess.limit
    yield f"{excess.part} has {_mega(excess.bytes)}, {_mega(over)} more than {excess.key} allows ({_mega(excess.limit)})"
    if not excess.known:
        yield f"{beside.name} has nothing to compare with; the largest owners, before compression:"
    elif excess.grown:
        yield f"the owners that grew most since {beside.name}, before compression:"
    else:
        yield f"no owner grew since {beside.name}: look at the options of the compression"
    if excess.grown:
        yield from describe(excess.grown).splitlines()


def describe(grown: tuple[Growth, ...]) -> str:
    """A table of owners; without columns for the past where it is not known."""
    if grown[0].old is None:
        return table([[each.owner, _mega(each.new)] for each in grown], ["owner", "size"])
    rows = [
        [each.owner, _mega(each.old or 0), _mega(each.new), "+" + _mega(each.new - (each.old or 0))] for each in grown
    ]
    return table(rows, ["owner", "before", "now", "grew"])


def _mega(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def baseline_path(definition: Path) -> Path:
    """Where the accepted sizes of the definition at this path are: ``node.sizes.json`` for ``node.yaml``."""
    return definition.with_suffix(SUFFIX)


def load(path: Path, architecture: str) -> dict[str, Owners]:
    """The accepted bytes of each part's owners; empty if none were accepted for this architecture yet.

    Raises :class:`Failure` for a file that is not what :func:`accept` writes.
    """
    parts = _read(path).get(architecture, {})
    try:
        return {part: {owner: _count(bytes_) for owner, bytes_ in owners.items()} for part, owners in parts.items()}
    except (TypeError, ValueError, AttributeError):
        raise _broken(path) from None


def accept(path: Path, architecture: str, measured: Mapping[str, Measured]) -> None:
    """Write the owners of ``measured`` as accepted for ``architecture`` into the file at ``path``; others stay."""
    content = {
        **_read(path),
        "version": VERSION,
        architecture: {part: dict(sorted(each.owners.items())) for part, each in measured.items()},
    }
    try:
        path.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise Failure(f"cannot write the accepted sizes: {error.strerror}", where=str(path)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        parsed = record.parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Failure(f"cannot read the accepted sizes: {error.strerror}", where=str(path)) from error
    except ValueError:
        raise _broken(path) from None
    if not isinstance(parsed, dict) or parsed.get("version") != VERSION:
        raise _broken(path)
    return parsed


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _broken(path: Path) -> Failure:
    return Failure(
        "these are no accepted sizes that this program can read",
        where=str(path),
        hint="remove the file, and 'osbuild budget --accept' writes it again",
    )
