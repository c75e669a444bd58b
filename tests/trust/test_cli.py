"""The command ``trust``, as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.commands import call
from trust.cli import main


def run(*words: str | Path) -> int:
    return call(main, *map(str, words))


def listed(folder: str) -> list[str]:
    return sorted(one.name for one in Path(folder).iterdir())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_story_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "lab") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "AUTHORITY",
        "etcd-peers",
        "etcd-clients",
        "fleet",
    ]
    assert run("issue", "lab", "--node", "node-1", "--address", "10.0.0.1", "fd00::1", "--out", "n1") == 0
    out = capsys.readouterr().out
    assert out.startswith("n1: 14 files of node-1, valid until ")
    assert out.endswith("; their place on it is /etc/flotilla/trust\n")
    assert len(listed("n1")) == 14
    assert run("issue", "lab", "--user", "kim", "--role", "operator", "--days", "7", "--etcd", "--out", "kim", "--json") == 0  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert (printed["name"], printed["role"], printed["folder"]) == ("kim", "operator", "kim")
    assert printed["files"] == listed("kim")
    assert run("renew", "lab", "--node", "node-1", "--out", "n1.new") == 0
    assert Path("n1/fleet-server.key").read_text() != Path("n1.new/fleet-server.key").read_text()
    assert run("revoke", "lab", "--user", "kim", "--json") == 0
    capsys.readouterr()
    assert run("revoke", "lab", "--user", "kim") == 0
    assert capsys.readouterr().out == "kim: all were revoked before\n"
    assert run("show", "lab", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in shown["authorities"]] == ["etcd-peers", "etcd-clients", "fleet"]
    issued = [(each["name"], each["profile"], each["state"]) for each in shown["certificates"]]
    node = [("node-1", name, "valid") for name in ("etcd-peer", "etcd-server", "etcd-client", "fleet-server")]
    assert issued == [*node, ("kim", "fleet-client", "revoked"), ("kim", "etcd-client", "revoked"), *node]
    assert all(each["addresses"] == ["10.0.0.1", "fd00::1"] for each in shown["certificates"] if each["role"] == "node")
    assert run("show", "lab") == 0
    assert "PRIVATE" not in capsys.readouterr().out


def test_a_renewal_is_like_the_last_issue(capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "lab")
    run("issue", "lab", "--user", "lee", "--role", "operator", "--days", "7", "--etcd", "--out", "lee")
    assert run("renew", "lab", "--user", "lee", "--out", "lee.new", "--json") == 0
    assert listed("lee") == listed("lee.new")
    capsys.readouterr()
    run("show", "lab", "--json")
    issued = json.loads(capsys.readouterr().out)["certificates"]
    assert len(issued) == 4
    assert len({(each["role"], each["not_after"][:10]) for each in issued}) == 1
    run("revoke", "lab", "--user", "lee")
    assert run("renew", "lab", "--user", "lee", "--out", "lee.more") == 1
    assert "lee: its certificates were revoked" in capsys.readouterr().err
    assert not Path("lee.more").exists()
    assert run("issue", "lab", "--user", "lee", "--role", "reader", "--out", "lee.more") == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("init lab", 1, "lab: is there already"),
        ("show nowhere", 1, "nowhere: there is no such folder"),
        ("show .", 1, ".: not a trust folder"),
        ("issue lab --node node-1 --address 10.0.0.1 --out new", 1, "node-1: it has certificates that are valid"),
        ("issue lab --node node-2 --address 10.0.0.2 --out n1", 1, "n1: is there already"),
        ("issue lab --node node-2 --address 10.0.0.2 --out no/where", 1, "no/where: cannot be written: No such file"),
        ("issue lab --node node-2 --out new", 2, "node-2: no address"),
        ("issue lab --node node-2 --address 10.0.0.0/8 --out new", 2, "'10.0.0.0/8': neither an IP address nor a host"),
        ("issue lab --node node_2 --address 10.0.0.2 --out new", 2, "'node_2': no name of a node"),
        ("issue lab --node node-2 --address 10.0.0.2 --days 0 --out new", 2, "0: not a number of days"),
        ("issue lab --node node-2 --address 10.0.0.2 --role reader --out new", 2, "a node has no role"),
        ("issue lab --user kim --out new", 2, "a user needs a role"),
        ("issue lab --user kim --role reader --etcd --out new", 2, "a reader gets no certificate for etcd"),
        ("issue lab --user kim --role reader --address 10.0.0.2 --out new", 2, "a user has no address"),
        ("issue lab --user kim --role root --out new", 2, "invalid choice"),
        ("issue lab --user kim --node node-2 --role reader --out new", 2, "not allowed with"),
        ("issue lab --user kim --role reader", 2, "--out"),
        ("renew lab --user node-1 --out new", 1, "node-1: no user of this name has a certificate"),
        ("renew lab --node node-7 --out new", 1, "did you mean node-1?"),
        ("revoke lab --user kim", 1, "kim: no user of this name has a certificate"),
        ("revoke lab", 2, "required"),
    ],
)
def test_a_mistake_is_named_and_issues_nothing(
    words: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("init", "lab")
    run("issue", "lab", "--node", "node-1", "--address", "10.0.0.1", "--out", "n1")
    before = Path("lab/trust.json").read_text()
    capsys.readouterr()
    assert run(*words.split()) == code
    assert message in capsys.readouterr().err
    assert Path("lab/trust.json").read_text() == before
    assert listed(".") == ["lab", "n1"]
