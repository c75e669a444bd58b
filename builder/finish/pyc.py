"""Byte-compiles modules: a program for the closure's interpreter, not a part of ours.

    python3.13 -P -s -S pyc.py ROOT LIST

LIST is a file with a path, ``/usr/lib/x.py``, on each line; the compiled form of the file of that path below ROOT is written beside it, as ``x.pyc``.
Prints the interpreter's tag (``cpython-313``).

The bytes of a compiled module depend a little on what else the interpreter holds, since marshal tells what is used once from what is used twice. So this
imports only what is built in or frozen, which also saves most of compileall's time: the closure keeps no byte code, not even of compileall.
"""

import sys
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps


def compiled(source: bytes, path: str) -> bytes:
    """The ``.pyc`` of the module at ``path`` on the node, of the kind that is never compared with its source ("unchecked hash", PEP 552).

    Raises ``SyntaxError``, and ``ValueError`` for a source with NULs.
    """
    code = compile(source, path, "exec", dont_inherit=True)
    unchecked = (1).to_bytes(4, "little")
    return MAGIC_NUMBER + unchecked + source_hash(source) + dumps(code)


def main() -> None:
    """Compile what the arguments say."""
    root, listed = sys.argv[1:]
    with open(listed, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123 - pathlib is not frozen
        paths = lines.read().splitlines()
    for path in paths:
        with open(root + path, "rb") as file:  # noqa: PTH123
            source = file.read()
        with open(f"{root}{path}c", "wb") as file:  # noqa: PTH123
            file.write(compiled(source, path))
    print(sys.implementation.cache_tag)


if __name__ == "__main__":
    main()
