"""The stacks that all services include: /etc/pam.d/common-*.

Replaces the work of: libpam-runtime and libpam-systemd (pam-auth-update).

A profile (/usr/share/pam-configs) is a list of ``Field: value`` lines in the manner of a Debian control file, with the
module lines of a stack as continuation lines; the format is described in pam-auth-update(8). A template
(/usr/share/pam/common-*) has two marked blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from builder.core.tree import Kind, Patch, Tree, file
from terminal import Failure

STACKS: Final = (
    ("common-auth", "Auth", "auth"),
    ("common-account", "Account", "account"),
    ("common-password", "Password", "password"),
    ("common-session", "Session", "session"),
    ("common-session-noninteractive", "Session", "session"),
)
"""File, the prefix of the fields in a profile, and the first field of each line of the file."""

BLOCKS: Final = re.compile(
    r"""(?mx)
    (?P<primary>^\#\ here\ are\ the\ per-package\ modules\ \(the\ "Primary"\ block\)\n)  .*?
    (?P<fallback>^\#\ here's\ the\ fallback\ if\ no\ module\ succeeds\n (?s:.*?)
        ^\#\ and\ here\ are\ more\ per-package\ modules\ \(the\ "Additional"\ block\)\n)  .*?
    (?P<end>^\#\ end\ of\ pam-auth-update\ config)""",
    re.DOTALL,
)

JUMP: Final = re.compile(r"(?<==)end(?=[ \]])")
"""The jump target ``end``, in ``[success=end ...]``."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One file of /usr/share/pam-configs: its path, and its fields with lists of lines."""

    path: str
    fields: Mapping[str, tuple[str, ...]]

    def word(self, name: str) -> str:
        """A field of one word, or the empty string."""
        return " ".join(self.fields.get(name, ()))

    @property
    def priority(self) -> int:
        """Higher comes first."""
        return int(self.word("Priority") or 0)

    def lines(self, stack: str, first: bool) -> tuple[str, ...]:
        """The module lines for ``stack``; the first profile of a block may have others (it asks for the password)."""
        initial = self.fields.get(f"{stack}-Initial", ())
        return initial if first and initial else self.fields.get(stack, ())


def parse_profile(path: str, text: str) -> Profile:
    """Read one profile. Raises :class:`Failure` with the line if it is invalid."""
    fields: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace():
            if current is None:
                raise Failure("a continuation line before any field", where=f"/{path}:{number}")
            current.append(line.strip())
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise Failure("expected 'Field: value'", where=f"/{path}:{number}")
        current = fields.setdefault(name, [])
        if value.strip():
            current.append(value.strip())
    return Profile(path, {name: tuple(lines) for name, lines in fields.items()})


def pam(tree: Tree) -> Patch:
    """The five common-* files, rendered from the templates with every profile of the tree that is on by default.

    Raises :class:`Failure` if a template has lost its marks, or a line names a module that is not in the tree: such a
    line would lock out all users.
    """
    profiles = [
        parse_profile(entry.path, entry.content.read().decode())
        for entry in tree.below("usr/share/pam-configs")
        if entry.kind is Kind.FILE
    ]
    chosen = sorted(
        (profile for profile in profiles if profile.word("Default") == "yes"),
        key=lambda profile: (-profile.priority, profile.path),
    )
    present = {entry.path.rpartition("/")[2] for entry in tree.glob("usr/lib/*/security/pam_*.so")}
    put = []
    for name, field, word in STACKS:
        template = f"usr/share/pam/{name}"
        if template not in tree:
            raise Failure("a PAM template is missing", where="/" + template, hint="add the package libpam-runtime")
        interactive = not name.endswith("-noninteractive")
        usable = [profile for profile in chosen if interactive or profile.word("Session-Interactive-Only") != "yes"]
        text = _fill(template, tree.read(template).decode(), usable, field, word)
        _check_modules(name, text, present)
        put.append(file(f"etc/pam.d/{name}", text))
    return Patch(tuple(put))


def _fill(path: str, template: str, profiles: list[Profile], field: str, word: str) -> str:
    marks = BLOCKS.search(template)
    if marks is None:
        raise Failure("a PAM template without the marks of its blocks", where="/" + path)
    primary = _block(profiles, field, word, "Primary") or f"{word}\t[default=1]\t\t\tpam_permit.so\n"
    additional = _block(profiles, field, word, "Additional")
    return (
        template[: marks.start()]
        + marks["primary"]
        + primary
        + marks["fallback"]
        + additional
        + template[marks.start("end") :]
    )


def _block(profiles: list[Profile], field: str, word: str, kind: str) -> str:
    members = [profile for profile in profiles if profile.word(f"{field}-Type") == kind]
    lines = [line for index, profile in enumerate(members) for line in profile.lines(field, index == 0)]
    # 'end' jumps behind the block: over the lines that follow and, after a primary block, over the fallback that
    # denies.
    past = 0 if kind == "Primary" else 1
    return "".join(f"{word}\t{JUMP.sub(str(len(lines) - index - past), line)}\n" for index, line in enumerate(lines))


def _check_modules(name: str, text: str, present: set[str]) -> None:
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        for module in re.findall(r"\bpam_\w+\.so\b", line):
            if module not in present:
                raise Failure(
                    f"the line '{line}' needs {module}, which is not in the tree",
                    where=f"/etc/pam.d/{name}",
                    hint="add the package that brings it (libpam-modules, libpam-systemd)",
                )
