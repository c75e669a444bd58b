"""Python's compiled modules, so that nothing is compiled on a node: its file system is read-only, and its processor may be emulated.

Replaces the work of: py_compile in libpython3.13-minimal, python3.13-minimal and python3.13, and py3compile in every python3-* package.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from builder.finish.toolbox import Toolbox, run
from builder.tree import Entry, Kind, Patch, Tree, directory, file
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
"""Patterns below the standard library's folder: nothing that runs at boot or in our daemons imports these, and their bytecode is a hundredth of an
image. They work as any source does, a moment slower."""

INTERPRETER: Final = "python3.13"


def bytecode(
    tree: Tree,
    toolbox: Toolbox,
    scratch: Path,
    folders: Iterable[str] = FOLDERS,
    interpreter: str = INTERPRETER,
    workers: int = 2,
) -> Patch:
    """A ``.pyc`` in ``__pycache__`` for every ``.py`` file below ``folders`` but those of :data:`SELDOM`, made by ``interpreter`` of the tools closure.

    The files are of the kind "unchecked hash" (PEP 552): never compared with their source, the same bytes whenever they are made, and with the path
    on the node inside. ``scratch`` is an empty directory to work in; it is left empty. Raises :class:`Failure` if a file has a
    syntax error, with Python's words.
    """
    sources = [
        entry
        for folder in folders
        for entry in tree.below(folder)
        if entry.kind is Kind.FILE and entry.path.endswith(".py") and not is_seldom(entry.path)
    ]
    scratch.mkdir(parents=True, exist_ok=True)
    root = scratch / "root"
    try:
        for entry in sources:
            path = root / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content.read())
        tag = _compile(toolbox, interpreter, root, sources, workers) if sources else ""
        return Patch(tuple(_collect(root, sources, tag)))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def is_seldom(path: str) -> bool:
    """Is the source at ``path`` one of :data:`SELDOM`, which get no bytecode?"""
    library, _, name = path.partition(LIBRARY + "/")
    return not library and any(fnmatch.fnmatchcase(name, pattern) for pattern in SELDOM)


def _compile(toolbox: Toolbox, interpreter: str, root: Path, sources: list[Entry], workers: int) -> str:
    """Compile ``sources``, which lie below ``root``, by ``workers`` processes with a share of the files each; returns the tag of their names."""
    # -P, -s, -S: nothing but the standard library is looked at.
    program = ["-P", "-s", "-S", str(Path(__file__).with_name("pyc.py"))]

    def share(number: int) -> str:
        listed = root / f"files-{number}"
        listed.write_text("".join(f"/{entry.path}\n" for entry in sources[number::workers]), "utf-8", "surrogateescape")
        return run(toolbox, interpreter, [*program, str(root), str(listed)], directory=root).strip()

    try:
        with ThreadPoolExecutor(workers) as pool:
            (tag,) = set(pool.map(share, range(workers)))
    except Failure as error:
        raise Failure("a Python file of the tree does not compile", hint="see the cause; it names the file") from error
    return tag


def _collect(root: Path, sources: list[Entry], tag: str) -> Iterable[Entry]:
    """The compiled files as entries that belong to the package of their source."""
    folders: set[str] = set()
    for entry in sources:
        parent, _, name = entry.path.rpartition("/")
        if parent not in folders:
            folders.add(parent)
            yield _owned(directory(f"{parent}/__pycache__"), entry)
        compiled = f"{parent}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
        yield _owned(file(compiled, (root / f"{entry.path}c").read_bytes()), entry)


def _owned(made: Entry, source: Entry) -> Entry:
    return Entry(made.path, made.kind, made.mode, mtime=source.mtime, content=made.content, owner=source.owner)
