"""Pages that a browser shows from a file: each is one file, which fetches nothing and is not allowed to.

The parts lie in ``builder/core/pages``: styles and scripts, each page's own after the shared one. A policy in the
page's head allows exactly these, by their hashes, so that no file name is ever run, whatever it contains.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

_PARTS: Final = Path(__file__).parent / "pages"

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src '{style_hash}'; script-src '{script_hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(name: str, title: str, body: str, data: object, parts: Path = _PARTS) -> str:
    """The page ``name`` with ``title`` (text), ``body`` (markup), and ``data`` for its script.

    Its styles and scripts are those of that name in the folder ``parts``.
    """
    style, script = (_joined(parts / name, suffix) for suffix in ("css", "js"))
    return _PAGE.format(
        title=escape(title),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        body=body,
        # An end tag in a name would end the data.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _joined(own: Path, suffix: str) -> str:
    return "\n" + "\n".join(part.with_suffix(f".{suffix}").read_text("utf-8") for part in (_PARTS / "base", own))


def _hash(text: str) -> str:
    """The form in which the policy names what it allows (Content Security Policy, level 2, section 7.17)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of texts; the columns ``numbers`` hold numbers and are aligned right."""
    kinds = [' class="number"' if column in numbers else "" for column in range(len(header))]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, header, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
