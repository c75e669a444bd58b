"""Command lines of units, ``ExecStart=`` and similar.

Source: systemd.service(5), "Command lines"; prefixes as systemd 257 takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from unitfile.name import UnitName

SEARCHED: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""Where systemd looks for a program that is named without its folder."""

_BLANK: Final = " \t\n\r"
# Quotes may begin anywhere in a word. No part can match in two ways, and nothing is given back: linear.
_WORD: Final = re.compile(r"""(?:[^ \t\n\r'"\\]++|\\.|'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+")++""", re.DOTALL)
_QUOTED: Final = re.compile(r"""'((?:[^'\\]++|\\.)*+)'|"((?:[^"\\]++|\\.)*+)\"""", re.DOTALL)
_FILE_NAME_MAX: Final = 255
_ESCAPED: Final = re.compile(r"""\\(?:([\\"'])|x([0-9A-Fa-f]{2}))""")
_SPECIAL: Final = re.compile(r"""["'\\\x00-\x1f\x7f]""")
# Specifiers that do not depend on the name alone.
_FOREIGN: Final = re.compile(r"(?<!%)(?:%%)*%(?![%nNpij])")


class Command(NamedTuple):
    """One program to run: its path or bare name, and whether its failure counts (no ``-`` before it).

    ``program`` is "" where only the machine knows it.
    """

    program: str
    counts: bool


class Problem(NamedTuple):
    """What is wrong with a line.

    ``fatal`` if systemd then refuses the whole unit, ``used`` if it takes the value all the same.

    Otherwise it ignores the line.
    """

    message: str
    hint: str
    fatal: bool
    used: bool = False


class OpenQuoteError(ValueError):
    """A quote is not closed, or a backslash has nothing behind it."""


def words(text: str) -> Iterator[str]:
    """The words of ``text`` with their quotes and escapes as written.

    Raises :class:`OpenQuoteError` where they end badly."""
    place = 0
    while True:
        while place < len(text) and text[place] in _BLANK:
            place += 1
        if place == len(text):
            return
        match = _WORD.match(text, place)
        if match is None or (match.end() < len(text) and text[match.end()] not in _BLANK):
            raise OpenQuoteError(place)
        yield match[0]
        place = match.end()


def unquoted(word: str) -> str:
    """``word`` without its quotes; escapes stay as they are."""
    return _QUOTED.sub(lambda match: match[1] if match[1] is not None else match[2], word)


def read(value: str, unit: UnitName) -> tuple[list[Command], Problem | None]:
    """The commands of one assignment of ``unit``, several with ``;`` between, and the first problem.

    What systemd ignores is left out."""
    found: list[Command] = []
    begin, counts, arguments = True, False, words(value)
    try:
        for word in arguments:
            if word == ";":
                begin = True
            elif begin:
                begin, bare = False, unquoted(word)
                counts = "-" not in bare[: len(bare) - len(bare.lstrip("-@:+!"))]
                command, problem = _command(word, arguments, unit)
                if problem is not None:
                    return found, problem
                found.append(command)
    except OpenQuoteError:
        # In the first word systemd ignores the command; in a later one it refuses the unit, if the command's failure
        # counts.
        fatal = not begin and counts
        return found, Problem("a quote is not closed", 'close it, or write \\" for itself', fatal)
    return found, None


def _command(word: str, arguments: Iterator[str], unit: UnitName) -> tuple[Command, Problem | None]:
    text = _ESCAPED.sub(_unescaped, unquoted(word))
    counts, named, place = True, False, 0
    seen: set[str] = set()
    while place < len(text) and text[place] in "-@:+!" and _fits(text[place], seen):
        counts = counts and text[place] != "-"
        named = named or text[place] == "@"
        seen.add("!!" if text[place] == "!" and "!" in seen else text[place])
        place += 1
    is_known = not (unit.is_template and "%" in text) and not _FOREIGN.search(text, place)
    # Specifiers come after the prefixes.
    program = unit.expand(text[place:]) if is_known else ""
    command = Command(program, counts)
    if named and next(arguments, ";") == ";":
        return command, Problem("@ wants the program's path and then the name to give it", "write @/path name", counts)
    if not is_known:
        return command, None
    if not program:
        return command, Problem("names no program", "write its absolute path", counts)
    if _SPECIAL.search(program):
        return command, Problem("names a program with quotes, backslashes or control characters", "rename it", counts)
    if program.endswith("/"):
        return command, Problem("names a folder, not a program", "write the program's absolute path", counts)
    if not program.startswith("/") and ("/" in program or program in (".", "..") or len(program) > _FILE_NAME_MAX):
        hint = "write an absolute path, or a bare name that is found in " + ":".join(SEARCHED)
        if program.startswith("|"):
            hint = "the prefix | came with systemd 258; write /bin/sh -c '...'"
        return command, Problem("the program's path is not absolute", hint, counts)
    return command, None


def _unescaped(match: re.Match[str]) -> str:
    return match[1] or chr(int(match[2], 16))


def _fits(prefix: str, seen: set[str]) -> bool:
    """Whether systemd accepts ``prefix`` after those in ``seen``: each once, and only one of +, ! and !!."""
    if prefix == "!":
        return "+" not in seen and "!!" not in seen
    if prefix == "+":
        return not seen & {"+", "!", "!!"}
    return prefix not in seen
