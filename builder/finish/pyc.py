"""Byte-compiles modules: a program for the closure's interpreter, not a module of ours.

    python3.13 -P -s -S pyc.py < SOURCES > COMPILED

SOURCES is a sequence of modules: the lengths of a path (``/usr/lib/x.py``) and of its source, both as four
little-endian bytes; the path; the source. COMPILED is a line with the interpreter's tag (``cpython-313``), then the
compiled form of each, after its length in four bytes. No file is written: a thousand temporary files took as long as
compiling them.

The bytes of a compiled module depend slightly on the interpreter's other objects, since marshal distinguishes objects
with one reference from shared ones. So this imports only built-in or frozen modules, which also saves most of
compileall's time: the closure keeps no byte code, not even of compileall.
"""

import sys
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps


def compiled(source: bytes, path: str) -> bytes:
    """The ``.pyc`` of the module at ``path`` on the node, never compared with its source ("unchecked hash", PEP 552).

    Raises ``SyntaxError``, and ``ValueError`` for a source with NULs.
    """
    code = compile(source, path, "exec", dont_inherit=True)
    unchecked = (1).to_bytes(4, "little")
    return MAGIC_NUMBER + unchecked + source_hash(source) + dumps(code)


def main() -> None:
    """Compile the sources on standard input."""
    given, made = sys.stdin.buffer, sys.stdout.buffer
    made.write(f"{sys.implementation.cache_tag}\n".encode())
    while head := given.read(8):
        path = given.read(int.from_bytes(head[:4], "little")).decode("utf-8", "surrogateescape")
        data = compiled(given.read(int.from_bytes(head[4:], "little")), path)
        made.write(len(data).to_bytes(4, "little") + data)


if __name__ == "__main__":
    main()
