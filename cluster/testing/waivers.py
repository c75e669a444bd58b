"""Known trouble that a test, or a project, accepts for a while. Each waiver has a reason and a day on which it ends.

A file of waivers is YAML:

    - pattern: 'traceback.*ConnectionRefusedError'    # searched for in "KIND on NODE: TEXT"
      reason: issue 41, the agent logs it twice
      until: 2027-01-31                               # the last day on which it holds
      test: test_partition                            # optional: searched for in the test's id
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.testing.scan import Finding
from terminal import UsageFailure

if TYPE_CHECKING:
    import yaml

KEYS = ("pattern", "reason", "until", "test")


@dataclass(frozen=True, slots=True)
class Waiver:
    """``where`` is its origin: a file and line, or a test."""

    pattern: re.Pattern[str]
    reason: str
    until: dt.date
    test: re.Pattern[str]
    where: str

    def covers(self, finding: Finding, test: str) -> bool:
        """Is this ``finding`` of the test with the id ``test`` waived?"""
        text = f"{finding.kind} on {finding.node}: {finding.text}"
        return self.test.search(test) is not None and self.pattern.search(text) is not None

    def require_valid(self, today: dt.date) -> None:
        """Raise :class:`UsageFailure` if its day is over: it must be looked at again, not forgotten."""
        if today > self.until:
            raise UsageFailure(
                f"the waiver of {self.pattern.pattern!r} ended on {self.until} (its reason: {self.reason})",
                where=self.where,
                hint="fix the cause and remove it, or set a later date",
            )


def waiver(pattern: object, reason: object, until: object, where: str, test: object = "") -> Waiver:
    """A waiver from what a person wrote. Raises :class:`UsageFailure` with what is wrong with it."""
    if not isinstance(reason, str) or not reason.strip():
        raise UsageFailure("a waiver needs a reason", where=where, hint='reason="issue 41: ..."')
    return Waiver(_regex(pattern, "pattern", where), reason, _day(until, where), _regex(test, "test", where), where)


def load(path: Path) -> list[Waiver]:
    """The waivers in the file ``path``. Raises :class:`UsageFailure` with file and line of what is wrong."""
    import yaml

    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageFailure("the waivers cannot be read", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageFailure("the waivers are no YAML", where=str(path)) from error
    if root is None:
        return []
    if not isinstance(root, yaml.SequenceNode):
        raise UsageFailure("waivers are a list", where=str(path), hint="- pattern: ...")
    return [_entry(node, f"{path}:{node.start_mark.line + 1}") for node in root.value]


def unwaived(findings: Iterable[Finding], waivers: Sequence[Waiver], test: str) -> list[Finding]:
    """``findings`` that none of ``waivers`` covers in the test with the id ``test``."""
    return [finding for finding in findings if not any(each.covers(finding, test) for each in waivers)]


def _entry(node: yaml.Node, where: str) -> Waiver:
    from yaml import SafeLoader

    loader = SafeLoader("")
    try:
        entry = loader.construct_document(node)
    finally:
        loader.dispose()
    if not isinstance(entry, dict):
        raise UsageFailure("a waiver is a mapping", where=where, hint=f"with {', '.join(KEYS)}")
    if unknown := sorted(str(key) for key in entry if key not in KEYS):
        raise UsageFailure(
            f"a waiver has no {', '.join(unknown)}",
            where=where,
            hint=f"it has {', '.join(KEYS)} (test may be left out)",
        )
    return waiver(entry.get("pattern"), entry.get("reason"), entry.get("until"), where, entry.get("test", ""))


def _regex(text: object, name: str, where: str) -> re.Pattern[str]:
    if not isinstance(text, str) or (name == "pattern" and not text):
        raise UsageFailure(f"a waiver needs a {name}: a regular expression", where=where)
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageFailure(f"{text!r} is no regular expression: {error}", where=where) from None


def _day(until: object, where: str) -> dt.date:
    if isinstance(until, dt.date) and not isinstance(until, dt.datetime):
        return until
    try:
        return dt.date.fromisoformat(str(until))
    except ValueError:
        raise UsageFailure(
            "a waiver needs the last day on which it holds" if until is None else f"{until!r} is no day",
            where=where,
            hint="until: 2027-01-31",
        ) from None
