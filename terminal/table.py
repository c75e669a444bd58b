"""Columns for people: plain text that also makes sense without colour."""

from __future__ import annotations

from collections.abc import Sequence

from terminal.printable import printable


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Align ``rows`` under ``header`` with two spaces between columns; no trailing spaces, no final newline.

    Cells are often foreign text: characters that could control the terminal become "?".

    Rows of different lengths raise ``ValueError``.
    """
    lines = [list(header)] if header is not None else []
    lines.extend([printable(cell) for cell in row] for row in rows)
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
