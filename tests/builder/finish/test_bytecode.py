"""Bytecode: where it goes, whose path is inside, that it never changes, and what a syntax error looks like."""

from __future__ import annotations

import fnmatch
import marshal
import subprocess
import sys
import sysconfig
from types import CodeType

import pytest

from builder.core.tree import Entry, Inline, Kind, Tree, file
from builder.finish.bytecode import SELDOM, bytecode
from terminal import Failure

TAG = sys.implementation.cache_tag


class Toolbox:
    """The interpreter that runs this test, in the place of the closure's."""

    def command(self, name: str) -> list[str]:
        return [sys.executable]

    def environment(self, name: str) -> dict[str, str]:
        return {"LC_ALL": "C.UTF-8"}


def tree_of() -> Tree:
    """Two packages with a module each, one of ours, and things that are not to be compiled."""
    return Tree(
        [
            Entry(
                "usr/lib/python3.13/json/x.py", Kind.FILE, 0o644, mtime=7, content=Inline(b"A = 1\n"), owner="stdlib"
            ),
            file("usr/lib/python3/dist-packages/y.py", "def f(): return 2\n"),
            file("usr/lib/flotilla/fleet/z.py", "B = 3\n"),
            file("usr/lib/python3/data.txt", "not python"),
            file("usr/share/doc/example.py", "not requested"),
        ]
    )


def test_one_file_a_source_beside_it_owned_by_its_package() -> None:
    put = {entry.path: entry for entry in bytecode(tree_of(), Toolbox()).put}
    assert sorted(put) == [
        "usr/lib/flotilla/fleet/__pycache__",
        f"usr/lib/flotilla/fleet/__pycache__/z.{TAG}.pyc",
        "usr/lib/python3.13/json/__pycache__",
        f"usr/lib/python3.13/json/__pycache__/x.{TAG}.pyc",
        "usr/lib/python3/dist-packages/__pycache__",
        f"usr/lib/python3/dist-packages/__pycache__/y.{TAG}.pyc",
    ]
    made = put[f"usr/lib/python3.13/json/__pycache__/x.{TAG}.pyc"]
    assert (made.owner, made.mtime, made.mode) == ("stdlib", 7, 0o644)


def test_unchecked_with_the_path_on_the_node() -> None:
    put = {entry.path: entry for entry in bytecode(tree_of(), Toolbox()).put}
    data = put[f"usr/lib/flotilla/fleet/__pycache__/z.{TAG}.pyc"].content.read()
    assert int.from_bytes(data[4:8], "little") == 0b01  # PEP 552: by hash, not checked
    code = marshal.loads(data[16:])
    assert isinstance(code, CodeType)
    assert code.co_filename == "/usr/lib/flotilla/fleet/z.py"


def test_twice_is_the_same_with_other_workers() -> None:
    one = bytecode(tree_of(), Toolbox(), workers=1)
    two = bytecode(tree_of(), Toolbox(), workers=3)
    assert one == two


def test_nothing_to_compile() -> None:
    assert bytecode(Tree(), Toolbox()).put == ()


def test_a_syntax_error_is_reported_with_the_file() -> None:
    tree = tree_of()
    tree.put(file("usr/lib/flotilla/fleet/z.py", "def broken(:\n"))
    with pytest.raises(Failure, match="does not compile") as caught:
        bytecode(tree, Toolbox())
    assert "/usr/lib/flotilla/fleet/z.py" in str(caught.value.__cause__)


def test_what_is_seldom_used_stays_source() -> None:
    library, elsewhere = "usr/lib/python3.13/", "usr/lib/python3/dist-packages/"
    names = ["unittest/case.py", "encodings/cp1252.py", "encodings/utf_8.py", "encodings/__init__.py", "enum.py"]
    tree = Tree(file(place + name, "A = 1\n") for place in (library, elsewhere) for name in names)
    put = [entry.path for entry in bytecode(tree, Toolbox()).put if entry.path.endswith(".pyc")]
    compiled = [path.replace("__pycache__/", "").replace(f".{TAG}.pyc", ".py") for path in put]
    assert sorted(compiled) == sorted([*(elsewhere + name for name in names), *(library + name for name in names[2:])])


def test_our_code_on_the_node_imports_nothing_that_is_seldom_used() -> None:
    script = (
        "import pkgutil, sys\n"
        "for name in ('cloudconfig', 'discovery', 'etcd', 'fleet', 'terminal', 'unitfile'):\n"
        "    for each in pkgutil.walk_packages(__import__(name).__path__, name + '.'):\n"
        "        __import__(each.name)\n"
        "print(*sorted(str(getattr(each, '__file__', None)) for each in sys.modules.values()), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    library = sysconfig.get_path("stdlib") + "/"
    names = [line.removeprefix(library) for line in done.stdout.splitlines() if line.startswith(library)]
    assert "json/__init__.py" in names
    assert [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in SELDOM)] == []
