"""What the linter says: places, words, the nearest name, and which mistakes are errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unitfile.systemd import Systemd
from unitfile import whole
from unitfile.lint import ERROR, FINDINGS_MAX, WARNING, Finding, lint
from unitfile.name import SUFFIXES
from unitfile.text import SIZE_MAX

ROOT = Path(__file__).parents[2]
CLEAN = "[Service]\nExecStart=/bin/true\n"


def places(text: str, name: str = "a.service") -> list[tuple[int, int, str]]:
    """Where there are findings, and how bad they are."""
    return [(each.line, each.column, each.severity) for each in lint(name, text)]


def only(text: str, name: str = "a.service") -> Finding:
    """The one finding that there is."""
    (one,) = lint(name, text)
    return one


def test_nothing_to_say() -> None:
    assert lint("a.service", CLEAN) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (CLEAN + "Foo=1\n", (3, 1, WARNING)),
        (CLEAN + " \t Foo = 1\n", (3, 4, WARNING)),
        (CLEAN + "Restart =  x\n", (3, 12, WARNING)),
        (CLEAN + "[Srvice]\n", (3, 1, WARNING)),
        ("\ufeff[Srvice]\n" + CLEAN, (1, 1, WARNING)),
        (CLEAN.replace("\n", "\r\n") + "\r\nFoo=1\r\n", (4, 1, WARNING)),
        (CLEAN + "Environment=A=b \\\n  # c\n  c\n", (3, 13, WARNING)),
        ("[Service]\nExecStart=bin/true\n", (2, 11, ERROR)),
        ("[Service]\nExecStart=/a\nExecStart=/b\n", (3, 11, ERROR)),
        ("[Service]\nType=oneshot\n", (0, 0, ERROR)),
        ("x\n", (1, 1, ERROR)),
        (CLEAN + "a=\\\n", (3, 1, WARNING)),
    ],
)
def test_places(text: str, place: tuple[int, int, str]) -> None:
    assert places(text) == [place]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("ExecStrat=/x", "did you mean ExecStart=?"),
        ("execstart=/x", "did you mean ExecStart=?"),
        ("Enviroment=A=b", "did you mean Environment=?"),
        ("Descripton=x", ""),
        ("Description=x", "it belongs in [Unit]"),
        ("WantedBy=x.target", "it belongs in [Install]"),
        ("OnCalendar=daily", "it belongs in [Timer]"),
        ("Zzzzzz=1", "names of your own begin with X-"),
        (f"{'E' * 5000}=1", "names of your own begin with X-"),
    ],
)
def test_the_nearest_name(line: str, hint: str) -> None:
    found = only(CLEAN + line + "\n")
    assert found.hint.startswith(hint)
    assert len(found.message) < 200


@pytest.mark.parametrize(
    ("name", "section", "hint"),
    [
        ("a.service", "service", "did you mean [Service]?"),
        ("a.service", "Sevice", "did you mean [Service]?"),
        ("a.timer", "Service", "its sections are [Unit] [Timer] [Install]"),
        ("a.service", "Foo", "sections of your own begin with X-"),
    ],
)
def test_a_section_that_does_nothing(name: str, section: str, hint: str) -> None:
    base = CLEAN if name == "a.service" else "[Timer]\nOnBootSec=1\n"
    found = only(f"{base}[{section}]\nExecStart=/x\n", name)
    assert (found.line, found.severity, found.hint) == (3, WARNING, hint)


def test_what_is_not_systemd_s_is_left_alone() -> None:
    assert lint("a.service", CLEAN + "X-Note=1\n[X-Mine]\na=b\n[X-Fleet]\nGlobal=true\nX-Conflicts=a\n") == []


def test_a_misspelt_word_of_fleet() -> None:
    assert only(CLEAN + "[X-Fleet]\nConflict=a\n").hint == "did you mean Conflicts=?"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a", "does not end in a type"),
        ("a.exe", "does not end in a type"),
        ("a@1.mount", "no template or instance"),
        ("a.scope", "reads no file"),
        ("../a.service", "slash"),
    ],
)
def test_names_that_no_unit_file_has(name: str, message: str) -> None:
    found = only("[Unit]\nDescription=x\n", name)
    assert (found.line, found.severity) == (0, ERROR)
    assert message in found.message


def test_an_instance_is_needed_for_its_specifier() -> None:
    text = "[Service]\nExecStart=/bin/echo %i %%i\n"
    assert places(text) == [(2, 11, WARNING)]
    assert places(text, "a@.service") == places(text, "a@b.service") == []
    assert places("[Service]\nExecStart=/bin/echo %%i\n") == []


def test_a_drop_in_says_only_a_part() -> None:
    assert lint("a.service", "[Service]\nRestart=always\n", is_drop_in=True) == []
    assert lint("a.service", "[Unit]\nDescription=a\n", drop_ins=[CLEAN]) == []
    assert lint("a.service", CLEAN, drop_ins=["[Service]\nExecStart=\n"])[0].line == 0
    assert lint("a.service", CLEAN, drop_ins=["nonsense"]) == []


PROGRAMS = frozenset({"/usr/bin/sh", "/usr/sbin/sshd"})


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("ExecStart=/bin/sh", None),
        ("ExecStart=/usr/bin/sh", None),
        ("ExecStart=//usr/./bin/sh", None),
        ("ExecStart=@/bin/sh -sh", None),
        ("ExecStart=sh -c true", None),
        ("ExecStart=/opt/bin/own", None),
        ("ExecStart=/usr/bin/%H", None),
        ("ExecStart=/usr/bin/nothing", ERROR),
        ("ExecStart=nothing", ERROR),
        ("ExecStart=-/usr/bin/nothing", WARNING),
        ("ExecStart=/bin/sh\nExecStop=/usr/bin/nothing", WARNING),
        ("ExecStart=/bin/sh\nExecStartPre=/sbin/nothing", ERROR),
        ("ExecStart=/usr/bin/nothing\nRootDirectory=/srv/root", None),
    ],
)
def test_programs_of_the_image(line: str, severity: str | None) -> None:
    text = f"[Service]\n{line}\n"
    assert [each.severity for each in lint("a.service", text, PROGRAMS)] == ([severity] if severity else [])
    assert lint("a.service", text) == []


def test_findings_are_counted_and_hostile_text_is_no_work() -> None:
    text = CLEAN + "".join(f"Foo{number}=1\n" for number in range(SIZE_MAX // 12))
    found = lint("a.service", text)
    assert len(found) == FINDINGS_MAX + 1
    assert found[-1].message.startswith("more than")


@given(
    st.text(st.sampled_from("[]ServicUnt=\n\\ %i/\"';-@#ExecStart!"), max_size=120), st.sampled_from(sorted(SUFFIXES))
)
def test_any_text_is_judged(text: str, suffix: str) -> None:
    lines = text.count("\n") + 1
    for found in lint(f"a.{suffix}", "[Service]\nExecStart=" + text, frozenset()):
        assert 0 <= found.line <= lines + 1
        assert (found.column > 0) == (found.line > 0)
        assert found.severity in (ERROR, WARNING)


def test_rendered() -> None:
    assert only(CLEAN + "ExecStrat=1\n").render("a.service").splitlines() == [
        "a.service:3:1: warning: systemd knows no ExecStrat= in [Service] and ignores it",
        "    hint: did you mean ExecStart=?",
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "units").rglob("*.*")), ids=lambda path: path.name)
def test_our_own_units_are_clean(path: Path) -> None:
    assert lint(path.name, path.read_text("utf-8")) == []


def test_the_units_of_systemd_are_clean_but_for_what_is_newer_than_its_own_rules(systemd: Systemd) -> None:
    """Some hundred units of the best source there is: nothing may be called an error."""
    units = [
        path for path in sorted((systemd.root / "usr/lib/systemd/system").iterdir()) if path.suffix[1:] in SUFFIXES
    ]
    assert len(units) > 100
    found = {path.name: lint(path.name, path.read_text("utf-8")) for path in units if path.is_file()}
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "path", ["/", "/srv", "/srv/my data", "/a-b/c", "/.hidden", "/a//b/", "/é", "/a/.b", "/x:y_z.w", "/a/./b", "/\\"]
)
def test_a_path_as_a_unit_s_name(systemd: Systemd, path: str) -> None:
    done = systemd.run("usr/bin/systemd-escape", "--path", path)
    assert done.stdout.rstrip("\n") == whole.path_stem(path), done.stderr


def test_errors_come_before_warnings_when_there_are_too_many() -> None:
    text = "[Unit]\n" + "Foo=1\n" * FINDINGS_MAX + "[Service]\nType=simple\n"
    found = lint("a.service", text)
    assert len(found) == FINDINGS_MAX + 1
    assert found[0].severity == ERROR
