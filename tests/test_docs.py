"""What pages and docstrings name is there: modules, functions, files, headings, layers, rooms."""

from __future__ import annotations

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.test_habits import ROOT, lines_of, text_of, tracked

SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
ROOMS: list[str] = SETTINGS["root_packages"]
ARCHITECTURE = ROOT / "docs/architecture.md"
HISTORY = {ROOT / "CHANGELOG.md"}  # it names things as they were called then

WRAPPED = (
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/builder-internals.md",
    "docs/builder-reference.md",
    "docs/builder.md",
    "docs/cluster-internals.md",
)
LINE_MAX = 120

DATA = ("bench", "docs", "image", "scripts", "tests", "units", "vm-tests")
NOT_THERE = {"builder/targets/openstack.py"}  # the target that docs/targets.md adds
FILES = {"conf", "container", "json", "lock", "log", "service", "slice", "sock", "socket"}  # fleet.service is no module
CODE_PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "docs/*-internals.md")
"""Elsewhere ``fleet.agent_ttl`` is a variable of a template."""
PATH = re.compile(rf"`((?:{'|'.join([*ROOMS, *DATA])})/[\w/.-]*)`")
NAME = re.compile(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?:\(\))?`")
ROLE = re.compile(rf":(?:mod|func|class|meth|data|attr|exc):`~?((?:{'|'.join(ROOMS)})(?:\.\w+)+)`")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def pages() -> list[Path]:
    return [path for path in tracked("*.md") if path not in HISTORY]


def is_there(name: str) -> bool:
    """Is the dotted ``name`` a module of ours, or something in one? Fields of a class and of its instances count."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                # A field without a default, or one that only the constructor sets.
                is_field = isinstance(found, type) and re.search(
                    rf"\b{part}: |self\.{part}\b", inspect.getsource(found)
                )
                return part == parts[-1] and bool(is_field)
            found = getattr(found, part)
        return True
    return False


def test_files_that_pages_name_are_there() -> None:
    named = [(place, path) for page in pages() for place, line in lines_of(page) for path in PATH.findall(line)]
    assert len(named) > 50
    assert [f"{place}: {path}" for place, path in named if path not in NOT_THERE and not (ROOT / path).exists()] == []


def test_files_that_code_and_data_name_are_there() -> None:
    """Tests are left out: they make up files."""
    named = re.compile(rf"(?<![\w/.-])((?:docs|{'|'.join(ROOMS)})/[\w/.-]*\w\.(?:py|md))\b")
    folders = [f"{room}/*.py" for room in ROOMS]
    found = [
        (place, path)
        for file in tracked(*folders, "image/*.yaml", "image/scripts.json", "units/*", "scripts/*", "pyproject.toml")
        for place, line in lines_of(file)
        for path in named.findall(line)
    ]
    assert len(found) > 50
    assert [f"{place}: {path}" for place, path in found if not (ROOT / path).exists()] == []


def test_modules_and_functions_that_pages_name_are_there() -> None:
    named = [
        (place, name)
        for page in tracked(*CODE_PAGES)
        for place, line in lines_of(page)
        for name in NAME.findall(line)
        if name.rpartition(".")[2] not in FILES
    ]
    assert len(named) > 100
    assert [f"{place}: {name}" for place, name in named if not is_there(name)] == []


def test_modules_and_functions_that_docstrings_name_are_there() -> None:
    named = [
        (place, name)
        for room in (*ROOMS, "tests")
        for path in tracked(f"{room}/*.py")
        for place, line in lines_of(path)
        for name in ROLE.findall(line)
    ]
    assert len(named) > 100
    assert [f"{place}: {name}" for place, name in named if not is_there(name)] == []


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may lead to: its headings, as the web shows them."""
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text_of(page))]
    return {heading.replace(" ", "-") for heading in plain}


def test_links_lead_to_headings_that_are_there() -> None:
    link = re.compile(r"\]\(([^)#\s:]*)#([^)\s]+)\)")
    links = [(page, place, *each) for page in pages() for place, line in lines_of(page) for each in link.findall(line)]
    assert len(links) > 10
    wrong = [
        f"{place}: {target}#{anchor}"
        for page, place, target, anchor in links
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert wrong == []


def test_headings_that_code_names_are_there() -> None:
    """``docs/NAME.md, "Heading"``: how comments and messages say where to read on."""
    named = re.compile(r"docs/([\w-]+\.md)[^\n]{0,40}?[\"']([A-Z][\w ]+)[\"']")
    found = [
        (path, *each)
        for path in tracked("*.py", "*.yaml")
        if path != Path(__file__)
        for each in named.findall(text_of(path))
    ]
    assert len(found) > 1
    assert [
        each for each in found if each[2] not in HEADING.findall((ROOT / "docs" / each[1]).read_text("utf-8"))
    ] == []


def table(page: Path, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``first``, without head and rule."""
    lines = page.read_text("utf-8").splitlines()
    (begin,) = (number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_the_layers_on_the_page_are_those_of_the_contracts() -> None:
    head, *rows = table(ARCHITECTURE, "floor")
    shown = {
        room.strip("`/"): [set(cell.split(", ")) for cell in (row[column] for row in rows) if cell]
        for column, room in enumerate(head)
        if column
    }
    layered = [contract for contract in SETTINGS["contracts"] if contract["type"] == "layers"]
    held = {
        container: [set(re.split(r" \| ", layer)) for layer in contract["layers"]]
        for contract in layered
        for container in contract["containers"]
    }
    assert shown == held
    for container, floors in held.items():
        modules = {path.stem for path in (ROOT / container).glob("*.py")} - {"__init__"}
        rooms = {path.parent.name for path in (ROOT / container).glob("*/__init__.py")}
        assert set().union(*floors) == modules | rooms, f"{container}: every room has a floor"


def test_the_rooms_on_the_page_are_those_of_the_contracts() -> None:
    """CONTRIBUTING's table says who may import whom, as the contracts of pyproject.toml leave it."""
    forbidden: dict[str, set[str]] = {room: set() for room in ROOMS}
    for contract in SETTINGS["contracts"]:
        if contract["type"] == "forbidden":
            for room in forbidden.keys() & set(contract["source_modules"]):  # some hold a room within one
                forbidden[room] |= set(contract["forbidden_modules"])
    held = {room: set(ROOMS) - {room} - forbidden[room] for room in ROOMS}
    shown = {}
    for name, _, may in table(ROOT / "CONTRIBUTING.md", "room")[1:]:
        room = name.strip("`/")
        shown[room] = set(ROOMS) - {room} if may == "all" else set(re.findall(r"`(\w+)`", may))
    assert {room: shown.get(room) for room in ROOMS} == held


@pytest.mark.parametrize("name", WRAPPED)
def test_lines_of_pages_are_short(name: str) -> None:
    assert [place for place, line in lines_of(ROOT / name) if len(line) > LINE_MAX] == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text("utf-8")
    assert [
        path.name for path in tracked("docs/*.md") if path.name != "index.md" and f"({path.name}" not in index
    ] == []
