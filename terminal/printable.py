"""Foreign text on this terminal: descriptions, metadata, errors of peers, names from archives and state files."""

from __future__ import annotations


def printable(text: str, keep: str = "", instead: str = "?") -> str:
    """``text`` with ``instead`` of each character that could control the terminal or reorder text, except ``keep``."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else instead for each in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which may have tabs."""
    return printable(text, keep="\n\t")
