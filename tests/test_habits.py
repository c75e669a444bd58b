"""The house rules, held by a test: tools first (format, lint, types, imports), then what no tool knows.

Each message says what to do instead. ``scripts/test`` runs nothing besides pytest, so this is the one place where the
tools run.
"""

from __future__ import annotations

import ast
import graphlib
import re
import stat
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

MODULE_LINES_MAX = 500
MODULES_MAX = 20  # in a folder
FLOORS_MAX = 12  # of a room: modules in its longest chain of imports
TEST_MODULE_LINES_MAX = 800  # a test file follows the module it tests, and cases are lines
# A module above the limit is asking to be two. Reviewed exceptions, each with its reason; an entry that is not needed
# fails.
LONG_MODULES: dict[str, str] = {}


def listed(*patterns: str, kinds: Sequence[str]) -> list[Path]:
    """What git lists of this checkout."""
    # CI may run as another user than the one who cloned; git would refuse to look.
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z", *kinds, "--", *patterns]
    done = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    assert paths, f"no file matches {patterns}: this test looks at nothing"
    return paths


def tracked(*patterns: str) -> list[Path]:
    """The files of this checkout that are, or would be, in git (ignored ones are not ours to judge)."""
    paths = listed(*patterns, kinds=["--cached", "--others", "--exclude-standard"])
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def text_of(path: Path) -> str:
    """A text file's; nothing of a binary one."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file."""
    name = path.relative_to(ROOT)
    for number, line in enumerate(text_of(path).splitlines(), 1):
        yield f"{name}:{number}", line


def found(pattern: re.Pattern[str], *patterns: str) -> list[str]:
    """Where ``pattern`` occurs in the tracked files, this one excepted."""
    return [
        f"{place}: {line.strip()}"
        for path in tracked(*patterns)
        if path != Path(__file__)
        and pattern.search(text_of(path))  # in most files is nothing, and it takes long to look by line
        for place, line in lines_of(path)
        if pattern.search(line)
    ]


# --- the tools -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["ruff", "format", "--check"], "run .venv/bin/ruff format"),
        (["ruff", "check"], "run .venv/bin/ruff check --fix"),
        (["mypy", "--no-error-summary"], "types are checked with --strict"),
        (["lint-imports"], "DESIGN.md says which room may know which"),
    ],
    ids=["format", "lint", "types", "imports"],
)
def test_tools_agree(arguments: list[str], advice: str) -> None:
    done = subprocess.run([BIN / arguments[0], *arguments[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)} ({advice}):\n{done.stdout}{done.stderr}"


def rooms() -> list[str]:
    """The packages that import-linter holds apart."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return list(settings["tool"]["importlinter"]["root_packages"])


@pytest.mark.parametrize("room", rooms())
def test_no_module_circle_and_no_tower(room: str) -> None:
    """Rooms and their layers are held by import-linter; this holds what it does not say.

    Its graph counts imports in functions and under TYPE_CHECKING, too: a reader follows them all the same.
    """
    graph = grimp.build_graph(room, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    chains: dict[str, tuple[str, ...]] = {}
    for module in graphlib.TopologicalSorter(imports).static_order():  # CycleError names the circle
        chains[module] = (module, *max((chains[each] for each in imports[module]), key=len, default=()))
    longest = max(chains.values(), key=len)
    assert len(longest) <= FLOORS_MAX, f"{len(longest)} floors: {' -> '.join(longest)}"


def test_no_folder_of_drawers() -> None:
    modules = [path.relative_to(ROOT) for path in tracked("*.py") if path.name != "__init__.py"]
    folders = Counter(path.parent for path in modules if path.parts[0] not in ("tests", "vm-tests", "bench"))
    assert max(folders.values()) <= MODULES_MAX, folders.most_common(1)


# --- what is committed -----------------------------------------------------------------------------------------------


def test_no_registry_is_named() -> None:
    """Mirrors are the host's own affair: its apt sources and its pip configuration say where things come from."""
    hosts = [
        *(f"{name}.{domain}" for name in ("deb", "ftp", "security", "snapshot") for domain in ("debian" + "[.]org",)),
        *(f"{name}.{domain}" for name in ("archive", "security") for domain in ("ubuntu" + "[.]com",)),
        "pypi" + "[.]org",
        "python" + "hosted[.]org",
        "npm" + "js[.](?:org|com)",
        "quay" + "[.]io",
        "gcr" + "[.]io",
        "gh" + "cr[.]io",
        "docker" + "[.]com",
        "proxy[.]golang" + "[.]org",
    ]
    assert found(re.compile("|".join(hosts))) == []


def test_nothing_is_left_to_do() -> None:
    """A thing is done, or it is an issue."""
    assert (
        found(re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b"), "*.py", "*.md", "*.yaml", "*.toml", "scripts/*")
        == []
    )


PLAIN_WORDS = {
    "told": "reported, printed, named; a variable: parsed, printed, reply",
    "nobody": "no one, no process, no user, no caller",
    "anew": "again",
}


def test_plain_words() -> None:
    """Prose and identifiers have the words of the field: CONTRIBUTING.md, "How we write"."""
    # An account's line in passwd, and its key in JSON, may have the name of uid 65534.
    ours = re.compile(rf"(?<![a-z])(?:{'|'.join(PLAIN_WORDS)})(?![a-z:]|\":)", re.IGNORECASE)
    texts = ("*.py", "*.md", "*.js", "*.css", "*.yaml", "scripts/*", "units/*", "image/overlay/*", "image/initrd/*")
    assert found(ours, *texts, "Vagrantfile", "pyproject.toml") == [], f"say instead: {PLAIN_WORDS}"


LINE_MAX = 120


def prose_of(page: str) -> Iterator[tuple[int, str]]:
    """(number, line) of a Markdown page, without code: a command cannot be broken."""
    is_fenced = is_indented = False
    before = ""
    for number, line in enumerate(page.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        # An indented line behind a blank one is code; behind text it goes on with a list's item.
        is_indented = line.startswith("    ") and (is_indented or not before) if line else is_indented
        before = line
        if not (is_fenced or is_indented):
            yield number, line


def test_prose_ends_at_120() -> None:
    """As code does, which ruff holds: a page is read in a terminal and in a diff, too."""
    page = "a\n\n    b\n\n    c\n* d\n    e\n```\nf\n```\n|g|"
    assert "".join(line.strip() for _, line in prose_of(page)) == "a* de```|g|"
    long = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns"
        for path in tracked("docs/*.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "bench/README.md")
        for number, line in prose_of(text_of(path))
        if len(line) > LINE_MAX
    ]
    assert long == [], f"break these lines at {LINE_MAX}; a table with longer rows is a list"


def test_no_test_is_switched_off() -> None:
    """A test that cannot run fails and says what is missing."""
    switched_off = re.compile(r"pytest\.(?:skip|xfail|importorskip)|mark\.(?:skip|skipif|xfail)|unittest\.skip")
    assert found(switched_off, "tests/*", "vm-tests/*", "bench/*", "conftest.py") == []


def test_rooms_have_no_drawers() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "lib"}
    names = [path.relative_to(ROOT) for path in tracked("*.py")]
    in_drawers = [str(path) for path in names if drawers & {*path.parts, path.stem}]
    assert in_drawers == [], "a thing lives in the room that it is about"


def test_modules_are_short() -> None:
    long = {}
    for path in tracked("*.py"):
        name = path.relative_to(ROOT)
        limit = TEST_MODULE_LINES_MAX if name.parts[0] in ("tests", "vm-tests") else MODULE_LINES_MAX
        length = len(path.read_text("utf-8").splitlines())
        if length > limit:
            long[str(name)] = length
    assert set(long) == set(LONG_MODULES), f"too long: {long}; reviewed: {sorted(LONG_MODULES)}"


CATCHES_EVERYTHING = {
    # A node's host name, keys and status come before the traceback of a mistake of ours.
    Path("cloudconfig/node/guard.py"),
    # One request's bug is its client's 500 and a traceback in the log; the others are served.
    Path("webserver/server.py"),
}


def test_no_error_is_swallowed_and_no_shell_is_started() -> None:
    """Named errors are caught; the rest is a traceback, but for what must go on. Programs are run by argument list."""
    complaints = []
    suspicious = re.compile(r"\bexcept\s*:|\bexcept\b.*\bException\b|\bshell\s*=", re.DOTALL)
    for path in tracked("*.py"):
        text = path.read_text("utf-8")
        if not suspicious.search(text):
            continue  # to parse and walk all files takes longer than all else here
        for node in ast.walk(ast.parse(text, filename=str(path))):
            if (
                isinstance(node, ast.ExceptHandler)
                and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
                and path.relative_to(ROOT) not in CATCHES_EVERYTHING
            ):
                complaints.append(f"{path.relative_to(ROOT)}:{node.lineno}: catches everything")
            # An account has a shell, too; only a literal True asks subprocess for one.
            if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) == "True":
                complaints.append(f"{path.relative_to(ROOT)}:{node.lineno}: starts a shell")
    assert complaints == []


READS_JSON = ("terminal/record.py", "guest/lines.py", "cluster/machines/namespaces/boot.py")
"""The second knows nothing of ours, and does the same; the third neither, and reads what its own driver wrote."""


def test_json_is_read_without_trust() -> None:
    """Python's reader lets Infinity, NaN and a RecursionError out, and whoever reads a file of the user's or an answer
    forgets one of them.
    """
    places = found(re.compile(r"\bjson\.loads?\("), *(f"{room}/**.py" for room in rooms()))
    assert [place for place in places if place.partition(":")[0] not in READS_JSON] == [], "use terminal.record.parse"


def test_programs_that_python_runs_in_isolation_import_nothing_of_ours() -> None:
    """Under ``python -I -S`` no folder of ours is on the path: an import of ours would show only when a node boots."""
    programs = [path for path in tracked("cluster/*.py", "cluster/**/*.py") if "python -I -S" in text_of(path)]
    assert len(programs) >= 4
    for path in programs:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(path)!r})"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{path}: {done.stderr}"


def test_the_wheel_can_carry_the_data() -> None:
    """A wheel knows no symbolic links; those of the image are written down in node.yaml."""
    links = [path for path in listed("image", "units", kinds=["--cached"]) if path.is_symlink()]
    assert links == []


# --- scripts ---------------------------------------------------------------------------------------------------------


def shebang(path: Path) -> str:
    """The interpreter's name, or nothing."""
    first = path.read_bytes()[:80].split(b"\n")[0].decode("ascii", "replace")
    return first.split("/")[-1].removeprefix("env ") if first.startswith("#!") else ""


def test_scripts_are_executable_and_parse() -> None:
    complaints = []
    for path in tracked("scripts/*", ".ci/*"):
        if not path.stat().st_mode & stat.S_IXUSR:
            complaints.append(f"{path}: not executable")
        interpreter = shebang(path)
        if interpreter in ("sh", "bash"):
            done = subprocess.run([interpreter, "-n", path], capture_output=True, text=True)
            complaints.extend(done.stderr.splitlines())
        elif not interpreter.startswith("python3"):
            complaints.append(f"{path}: what runs it?")
    assert complaints == []


def test_ci_runs_the_tests_and_nothing_else() -> None:
    code = [line for line in (ROOT / ".ci/run").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert code == ['exec env CI=true "$(dirname "$0")/../scripts/test"']


def test_the_license_is_there() -> None:
    assert (ROOT / "LICENSE").read_text("utf-8").lstrip().startswith("Apache License")


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\(([^)#\s]+)")
    broken = [
        f"{place}: {target}"
        for path in tracked("*.md")
        for place, line in lines_of(path)
        for target in link.findall(line)
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []
