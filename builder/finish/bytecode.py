"""Python's compiled modules, so that nothing is compiled on a node.

A node's file system is read-only, and its processor may be emulated.

Replaces the work of: py_compile in libpython3.13-minimal, python3.13-minimal and python3.13, and py3compile in every
python3-* package.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from builder.core.toolbox import Toolbox, run
from builder.core.tree import Entry, Kind, Patch, Tree, directory, file
from terminal import Failure

LIBRARY: Final = "usr/lib/python3.13"
FOLDERS: Final = (LIBRARY, "usr/lib/python3", "usr/lib/flotilla")
SELDOM: Final = (
    *(
        "unittest/*",
        "doctest.py",
        "_pyrepl/*",
        "pdb.py",
        "bdb.py",
        "cmd.py",
        "code.py",
        "codeop.py",
        "pydoc.py",
        "trace.py",
    ),
    *(
        "profile.py",
        "cProfile.py",
        "pstats.py",
        "tracemalloc.py",
        "timeit.py",
        "pickletools.py",
        "symtable.py",
        "pyclbr.py",
    ),
    *(
        "modulefinder.py",
        "tabnanny.py",
        "compileall.py",
        "py_compile.py",
        "venv/*",
        "zipapp.py",
        "turtle.py",
        "curses/*",
    ),
    *(
        "xml/*",
        "xmlrpc/*",
        "wsgiref/*",
        "dbm/*",
        "sqlite3/*",
        "mailbox.py",
        "imaplib.py",
        "smtplib.py",
        "ftplib.py",
        "poplib.py",
    ),
    *("webbrowser.py", "plistlib.py", "optparse.py", "statistics.py", "fractions.py", "wave.py", "colorsys.py"),
    # what is written in C as well, and character sets other than these
    *(
        "_pydecimal.py",
        "_pydatetime.py",
        "_pyio.py",
        "_pylong.py",
        "encodings/[!_ailu]*",
        "encodings/iso*",
        "encodings/_*/*",
    ),
)
"""Patterns below the standard library's folder of modules without bytecode.

Nothing that runs at boot or in our daemons imports them, and their bytecode is a hundredth of an image. They work like
any source, slightly slower.
"""

INTERPRETER: Final = "python3.13"


def bytecode(
    tree: Tree,
    toolbox: Toolbox,
    folders: Iterable[str] = FOLDERS,
    interpreter: str = INTERPRETER,
    workers: int = 2,
) -> Patch:
    """A ``.pyc`` in ``__pycache__`` for every ``.py`` file below ``folders`` except those of :data:`SELDOM`.

    They are made by ``interpreter`` of the tools closure.

    The files are of the kind "unchecked hash" (PEP 552): never compared with their source, the same bytes whenever they
    are made, and with the path on the node inside. Raises :class:`Failure` with Python's message if a file has a syntax
    error.
    """
    sources = [
        entry
        for folder in folders
        for entry in tree.below(folder)
        if entry.kind is Kind.FILE and entry.path.endswith(".py") and not is_seldom(entry.path)
    ]
    return Patch(tuple(_placed(sources, *_compile(toolbox, interpreter, sources, workers)) if sources else ()))


def is_seldom(path: str) -> bool:
    """Is the source at ``path`` one of :data:`SELDOM`, which get no bytecode?"""
    library, _, name = path.partition(LIBRARY + "/")
    return not library and any(fnmatch.fnmatchcase(name, pattern) for pattern in SELDOM)


def _compile(
    toolbox: Toolbox, interpreter: str, sources: Sequence[Entry], workers: int
) -> tuple[str, dict[str, bytes]]:
    """Compile ``sources`` with ``workers`` processes; return the tag of their names, and the compiled form by path."""
    # -P, -s, -S: only the standard library is used.
    program = ["-P", "-s", "-S", str(Path(__file__).with_name("pyc.py"))]
    shares = [sources[number::workers] for number in range(workers)]
    try:
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(lambda share: run(toolbox, interpreter, program, feed=_input(share)), shares))
    except Failure as error:
        raise Failure("a Python file of the tree does not compile", hint="see the cause; it names the file") from error
    tags, made = set(), {}
    for share, answer in zip(shares, answers, strict=True):
        end = answer.index(b"\n") + 1
        tags.add(answer[: end - 1].decode())
        for entry in share:
            begin = end + 4
            end = begin + int.from_bytes(answer[end:begin], "little")
            made[entry.path] = answer[begin:end]
    (name,) = tags
    return name, made


def _input(share: Iterable[Entry]) -> bytes:
    """The input of pyc.py."""
    parts = []
    for entry in share:
        path, source = f"/{entry.path}".encode("utf-8", "surrogateescape"), entry.content.read()
        parts += [len(path).to_bytes(4, "little"), len(source).to_bytes(4, "little"), path, source]
    return b"".join(parts)


def _placed(sources: Iterable[Entry], tag: str, made: Mapping[str, bytes]) -> Iterator[Entry]:
    """The compiled forms as entries that belong to the package of their source."""
    folders: set[str] = set()
    for entry in sources:
        parent, _, name = entry.path.rpartition("/")
        if parent not in folders:
            folders.add(parent)
            yield _owned(directory(f"{parent}/__pycache__"), entry)
        compiled = f"{parent}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
        yield _owned(file(compiled, made[entry.path]), entry)


def _owned(made: Entry, source: Entry) -> Entry:
    return Entry(made.path, made.kind, made.mode, mtime=source.mtime, content=made.content, owner=source.owner)
