"""How the verbs of ``osbuild`` get their parsers, and the options that several have."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from terminal import Parser


class Verb:
    """Makes the parser of a verb."""

    def __init__(self, verbs: argparse._SubParsersAction[Parser], examples: Mapping[str, str]) -> None:
        self._verbs = verbs
        self._examples = examples

    def __call__(self, name: str, text: str, further: str = "") -> argparse.ArgumentParser:
        """The parser of ``name``, described by ``text``; its help ends with ``further`` and its examples."""
        return self._verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"{further}examples:{self._examples[name]}",
        )


def add_mirror(parser: argparse.ArgumentParser) -> None:
    """Where packages are fetched from."""
    parser.add_argument("--mirror", metavar="URL", help="archive to fetch from (default: as the host's apt)")
    parser.add_argument("--snapshot", metavar="URL", help="archive for packages that the mirror no longer has")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of verbs that use the store."""
    parser.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
    parser.add_argument("--json", action="store_true", help="print the result for a machine")
    parser.add_argument("--quiet", action="store_true", help="no progress")
