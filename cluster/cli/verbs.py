"""How commands are declared: every verb has a help text with examples, and a cluster that it is about."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

from cluster.client.fault import Fault
from terminal import Parser

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TIME = re.compile(r"([-+]?\d{1,9}(?:\.\d{1,9})?)(ms|[smhd])?")
Run = Callable[[argparse.Namespace], int]


class Verbs:
    """A table of verbs to add to: of ``cluster``, or of one of its verbs that has verbs of its own."""

    def __init__(self, parent: argparse.ArgumentParser, title: str, metavar: str) -> None:
        """Verbs of ``parent``, shown under ``title``."""
        self._subparsers = parent.add_subparsers(title=title, metavar=metavar, required=True)

    def add(
        self, name: str, text: str, run: Run | None = None, *, examples: str | None = None, named: bool = True
    ) -> argparse.ArgumentParser:
        """Add the verb ``name``, described by ``text`` and carried out by ``run``.

        ``named`` verbs are about one cluster.
        """
        parser = self._subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=examples,
        )
        if named:
            name_argument(parser)
        if run is not None:
            parser.set_defaults(run=run)
        return parser


def new_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command of its own."""
    return Parser(prog=prog, description=description, epilog=examples)


def name_argument(parser: argparse.ArgumentParser) -> None:
    """``--name``: which cluster."""
    default = os.environ.get("FLOTILLA_CLUSTER") or "default"
    parser.add_argument("--name", default=default, help=f"the cluster ({default}; FLOTILLA_CLUSTER sets it)")


def json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="for machines")


def byte_count(text: str) -> int:
    """A number of bytes as people write it: "4096", "512K", "1M" (1024 each).

    For argparse: raises ArgumentTypeError.
    """
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes: 4096, 512K, 1M, 2G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def seconds(text: str) -> float:
    """A time as people write it, in seconds: "500ms", "-3600s", "90m", "1h", "2d".

    For argparse: raises ArgumentTypeError.
    """
    match = TIME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 500ms, -3600s, 90m, 1h, 2d")
    return float(match[1]) * UNITS_S[match[2] or "s"]


def with_name(text: str, name: str) -> str:
    """The command ``text`` as it must be typed for the cluster called ``name``."""
    return text if name == "default" else f"{text} --name {name}"


def report_fault(arguments: argparse.Namespace, fault: Fault) -> int:
    """Print what is broken now, and how to heal it."""
    print(f"{fault}; it lasts until: {with_name('cluster fault heal', arguments.name)}")
    return 0
