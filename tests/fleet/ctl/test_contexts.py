"""Contexts: the file, the command, and which of command line, context, environment and default counts."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trust
from fleet.ctl import contexts
from fleet.ctl.contexts import Contexts
from terminal import Failure
from tests import trusted
from tests.fleet.ctl.conftest import A, Fleetctl

DEFAULTS = {name: f"default {name}" for name in (*contexts.WAY, *contexts.OTHERS)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def kim(home: Path) -> Path:
    trust.create(home / "lab")
    return trusted.laid(home / "kim", trust.issue_user(home / "lab", "kim", "operator"))


def test_a_context_leads_to_its_cluster(fleetctl: Fleetctl, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETCTL_ENDPOINT")
    said = fleetctl("context", "add", "here", "--endpoint", f"unix://{fleetctl.socket}", "--request-timeout", "20")
    assert (said.code, said.out) == (0, "context here is there, and in use\n")
    assert fleetctl("list-machines", "--full", "--no-legend", "--fields", "machine").out.startswith(A)
    said = fleetctl("context", "add", "away", "--endpoint", "unix:///nonexistent")
    assert said.out == "context away is there; fleetctl context use away\n"
    assert "unix:///nonexistent: cannot talk" in fleetctl("--context", "away", "list-machines").err
    monkeypatch.setenv("FLEETCTL_CONTEXT", "away")
    assert "unix:///nonexistent: cannot talk" in fleetctl("list-machines").err
    assert fleetctl("--context", "here", "list-machines").code == 0
    monkeypatch.delenv("FLEETCTL_CONTEXT")
    assert fleetctl("context", "use", "away").code == 0
    assert "unix:///nonexistent: cannot talk" in fleetctl("list-machines").err
    assert fleetctl("--endpoint", f"unix://{fleetctl.socket}", "list-machines").code == 0, "it says where"
    assert fleetctl("context", "use").out == "no context is in use\n"
    assert fleetctl("context", "remove", "here").code == 0
    said = fleetctl("--context", "her", "list-machines")
    assert (said.code, "her: there is no context of this name" in said.err) == (1, True)


def test_list_and_show(fleetctl: Fleetctl, kim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fleetctl("context", "list").out == "no contexts; fleetctl context add makes one\n"
    assert fleetctl("context", "show").code == 2
    monkeypatch.chdir(kim.parent)
    said = fleetctl(
        "context", "add", "lab", "--endpoint", "https://10.0.0.1:2378,https://n2:2378", "--certificates", "kim"
    )
    assert said.code == 0, said
    fleetctl("context", "add", "far", "--tunnel", "192.0.2.1", "--ssh-username", "kim")
    listed = fleetctl("context", "list").out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["far", "192.0.2.1"], ["*", "lab"]]
    assert str(kim / "fleet-client.crt") in listed[2], "a path from the root on, wherever it was added"
    rows = json.loads(fleetctl("context", "list", "--json").out)
    assert [(row["name"], row["current"]) for row in rows] == [("far", False), ("lab", True)]
    shown = json.loads(fleetctl("context", "show", "--json").out)
    assert shown == {
        "name": "lab",
        "current": True,
        "endpoint": "https://10.0.0.1:2378,https://n2:2378",
        "ca-file": str(kim / "fleet-ca.crt"),
        "cert-file": str(kim / "fleet-client.crt"),
        "key-file": str(kim / "fleet-client.key"),
    }
    assert fleetctl("context", "show", "far").out == "far\n  --ssh-username kim\n  --tunnel 192.0.2.1\n"
    file = kim.parent / "config/flotilla/contexts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "PRIVATE" not in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add"], 2, "which context?"),
        (["add", "a/b", "--tunnel", "h"], 2, "no name of a context"),
        (["add", "x"], 2, "where is the cluster?"),
        (["add", "x", "--tunnel", "h:99999"], 2, "not of the form HOST[:PORT]"),
        (["add", "x", "--endpoint", "https://h:2378"], 2, "the API shows a certificate and asks for one"),
        (["add", "x", "--endpoint", "https://h", "--certificates", "/nonexistent"], 1, "there is no such file"),
        (["add", "x", "--tunnel", "h", "--ssh-identity-file", "/nonexistent"], 1, "there is no such file"),
        (["use", "x"], 1, "there is no context of this name"),
        (["remove", "x"], 1, "there is no context of this name"),
        (["list", "--endpoint", "unix:///x"], 2, "--endpoint is for 'context add'"),
        (["frob"], 2, "invalid choice"),
    ],
)
def test_wrong(fleetctl: Fleetctl, home: Path, arguments: list[str], code: int, message: str) -> None:
    said = fleetctl("context", *arguments)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert not (home / "config/flotilla/contexts.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"v": 2}',
        '{"v": 1, "contexts": {"a": {"endpont": "x"}}}',
        '{"v": 1, "contexts": {"a": []}}',
        '{"v": 1, "contexts": {"../a": {}}}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_is_an_error_only_where_it_counts(
    fleetctl: Fleetctl, home: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "config/flotilla/contexts.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert fleetctl("list-machines").code == 0, "the environment says where"
    monkeypatch.delenv("FLEETCTL_ENDPOINT")
    said = fleetctl("list-machines")
    assert (said.code, f"{file}: this is no file of contexts" in said.err) == (1, True)
    assert fleetctl("context", "add", "x", "--tunnel", "h").code == 1
    assert file.read_text() == text


def test_a_folder_that_cannot_be_made(home: Path) -> None:
    (home / "config").write_text("no folder")
    path = contexts.file({"XDG_CONFIG_HOME": str(home / "config")})
    assert contexts.load(path) == Contexts()
    with pytest.raises(Failure, match="cannot be written"), contexts.changing(path):
        raise AssertionError("there are none to change")


def test_where_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/kim")
    assert contexts.file({}) == Path("/home/kim/.config/flotilla/contexts.json")
    assert contexts.file({"XDG_CONFIG_HOME": "relative"}) == Path("/home/kim/.config/flotilla/contexts.json")
    assert contexts.file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/flotilla/contexts.json")


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "flotilla/contexts.json"

    def add(number: int) -> None:
        with contexts.changing(path) as known:
            known[0] = known[0].with_one(f"c{number}", {"tunnel": "h"})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert contexts.load(path).contexts.keys() == {f"c{number}" for number in range(20)}


options = st.dictionaries(st.sampled_from([*contexts.WAY, *contexts.OTHERS]), st.text("xyz", min_size=1, max_size=3))


@given(
    given=options,
    outside=options,
    context=options,
    named=st.sampled_from(["", "line", "variable"]),
    is_used=st.booleans(),
)
def test_which_counts(
    tmp_path_factory: pytest.TempPathFactory,
    given: dict[str, str],
    outside: dict[str, str],
    context: dict[str, str],
    named: str,
    is_used: bool,
) -> None:
    """The command line goes first, and ways are never mixed of an environment and a context."""
    folder = tmp_path_factory.mktemp("config")
    environment = {contexts.variable(name): value for name, value in outside.items()}
    environment["XDG_CONFIG_HOME"] = str(folder)
    with contexts.changing(contexts.file(environment)) as known:
        known[0] = known[0].with_one("lab", context).used("lab" if is_used else "")
    if named == "variable":
        environment["FLEETCTL_CONTEXT"] = "lab"
    line = {**given, **({"context": "lab"} if named == "line" else {})}
    found, chosen = contexts.settled(line, environment, DEFAULTS)
    assert found.items() >= given.items()
    says_where = any(source.keys() & {"endpoint", "tunnel"} for source in (given, outside))
    assert chosen == ("lab" if named or (is_used and not says_where) else "")
    for name in contexts.WAY:
        if name in given:
            continue
        if not chosen:
            assert found[name] == outside.get(name, DEFAULTS[name])
        else:
            assert found[name] in (context.get(name), DEFAULTS[name])
