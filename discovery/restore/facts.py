"""What each survivor and each backup has, which of them to start from, and the token that confirms that. Pure."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from discovery.backup.shelf import Backup
from terminal import Failure

DATA: Final = "data"
"""The source that is this node's own data."""


class Survivor(NamedTuple):
    """A member that was looked at. ``raft_index`` and ``revision`` are None if it does not answer; ``is_here`` on this
    node; ``has_quorum``: it reads through a leader."""

    name: str
    url: str
    raft_index: int | None = None
    revision: int | None = None
    is_here: bool = False
    has_quorum: bool = False


class Facts(NamedTuple):
    """``trouble`` is why this node's own data cannot be used, empty if it can; ``backups`` are the newest first."""

    survivors: tuple[Survivor, ...]
    backups: tuple[Backup, ...]
    trouble: str = ""

    @property
    def here(self) -> Survivor | None:
        """This node's own member."""
        return next((each for each in self.survivors if each.is_here), None)


class Source(NamedTuple):
    """What to start from: a backup, or, if that is None, this node's own data."""

    name: str
    revision: int
    raft_index: int
    backup: Backup | None = None


def require_lost(facts: Facts) -> None:
    """Raises Failure while a quorum is alive."""
    alive = [each.name for each in facts.survivors if each.has_quorum]
    if alive:
        raise Failure(
            "etcd has a quorum: there is nothing to restore, and a second cluster would split its data",
            where=", ".join(alive),
            hint="members that are lost are replaced while a quorum lives: docs/etcd.md",
        )


def sources(facts: Facts) -> tuple[Source, ...]:
    """All that may be started from on this node, the best first: the one with the latest revision."""
    found = [Source(each.name, each.revision, each.raft_index, each) for each in facts.backups]
    here = facts.here
    if here is not None and here.revision is not None and here.raft_index is not None and not facts.trouble:
        found.append(Source(DATA, here.revision, here.raft_index))
    # The data itself before a backup of the same revision; of two such backups the newer one.
    return tuple(sorted(found, key=lambda each: (each.revision, each.backup is None, each.backup or ()), reverse=True))


def chosen(facts: Facts, name: str = "") -> Source:
    """The source called ``name``, or the best one (empty). Raises Failure if there is none, or a better survivor."""
    found = sources(facts)
    if name:
        for each in found:
            if each.name == name:
                return each
        raise Failure("there is no such source", where=name, hint=f"one of: {', '.join(each.name for each in found)}")
    if not found:
        raise Failure(
            "there is nothing to restore from on this node",
            where=facts.trouble or None,
            hint="copy a backup into its folder (--directory), or run this on a node that has one",
        )
    best = found[0]
    others = [each for each in facts.survivors if not each.is_here and each.revision is not None]
    for other in sorted(others, key=lambda each: -(each.raft_index or 0)):
        if (other.revision or 0) > best.revision or (best.backup is None and (other.raft_index or 0) > best.raft_index):
            raise Failure(
                f"{other.name} has more than this node: revision {other.revision}, raft index {other.raft_index}",
                where=other.url,
                hint=f"run this there, or, if that member cannot be used, choose here: --from {best.name}",
            )
    return best


def token(facts: Facts, source: Source) -> str:
    """What confirms this restore, of this source, with these survivors, and no other."""
    seen = [f"{each.name} {each.raft_index} {each.revision} {each.has_quorum}" for each in facts.survivors]
    text = "\n".join([f"{source.name} {source.revision} {source.raft_index}", *sorted(seen)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
