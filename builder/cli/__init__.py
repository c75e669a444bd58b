"""The command ``osbuild``; each module here has verbs, and is imported when one of them is called.

Checking whether anything changed takes less time than importing what all verbs need.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from builder.cli.verb import Verb
from terminal import Parser, command

_MODULES: Final = {
    "builder.cli.image": ("image", "container"),
    "builder.cli.verify": ("verify",),
    "builder.cli.lock": ("lock", "scripts"),
    "builder.cli.store": ("tools", "cache"),
    "builder.cli.schema": ("schema",),
    "builder.cli.new": ("new",),
    "builder.cli.inspect": ("inspect",),
    "builder.cli.diff": ("diff",),
    "builder.cli.plan": ("plan",),
    "builder.cli.budget": ("budget",),
}
"""The modules of the verbs.

Each has ``EXAMPLES``, a text by verb, and ``add_verbs(verb)``, which makes a parser of each verb with
``verb(name, text)`` and sets with ``set_defaults(run=...)`` what runs it: a function of the arguments that returns the
exit code.
"""


def main() -> int:
    """Console script."""
    return command("osbuild", run)


def run(argv: Sequence[str]) -> int:
    """Run ``osbuild`` with these arguments; returns the exit code."""
    arguments = new_parser(argv[0] if argv else "").parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def new_parser(wanted: str = "") -> Parser:
    """The parser of the verb ``wanted``; of all verbs if there is no such verb."""
    names = [name for name, verbs in _MODULES.items() if wanted in verbs] or _MODULES
    modules = [import_module(name) for name in names]
    examples = {verb: text for module in modules for verb, text in module.EXAMPLES.items()}
    parser = Parser(
        prog="osbuild",
        description="Build node images and containers from Debian packages: no root, no dpkg, from a hash lock.",
        epilog="examples:" + "".join(examples.values()),
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verb = Verb(verbs, examples)
    for module in modules:
        module.add_verbs(verb)
    return parser
