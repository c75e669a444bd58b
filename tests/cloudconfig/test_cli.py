"""The command through its real entry: exit code, standard output, standard error."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudconfig import cli
from cloudconfig.node import status
from cloudconfig.node.status import Status, Trouble
from terminal import Failure, command

GOLDEN = Path(__file__).parent / "golden"
BAD = "#cloud-config\nhostnam: a\nhostname: a b\n"


def run(*arguments: str) -> int:
    return command("cloudconfig", cli.run, arguments)


def test_validate_prints_findings_and_hints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("u.yaml").write_text(BAD)
    assert run("validate", "u.yaml") == 1
    assert (
        capsys.readouterr().out
        == """\
u.yaml:2:1: warning: hostnam: unknown key, ignored
    hint: did you mean hostname?
u.yaml:3:11: error: hostname: not a host name
    hint: letters, digits and inner hyphens, 63 at most between dots
"""
    )


def test_validate_clean_and_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "u.yaml"
    path.write_text("#cloud-config\nhostnam: a\n")
    assert run("validate", str(path)) == 0
    assert run("validate", "--strict", str(path)) == 1
    assert "error: hostnam" in capsys.readouterr().out
    path.write_text("#cloud-config\nhostname: a\n")
    assert run("validate", "--strict", str(path)) == 0
    assert capsys.readouterr().out == ""


def test_validate_reads_network_config_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, network = tmp_path / "u.yaml", tmp_path / "network-config"
    good.write_text("#cloud-config\nhostname: n\n")
    network.write_text("version: 2\nethernets:\n  lan: {match: {name: 'en*'}, dhcp4: true}\n")
    assert run("validate", str(good), "--network-config", str(network)) == 0
    assert capsys.readouterr().out == ""
    network.write_text("version: 2\nethernets:\n  lan: {addresses: [10.0.0.300/24]}\n")
    assert run("validate", str(good), "--network-config", str(network)) == 1
    assert capsys.readouterr().out.startswith(f"{network}:3:")
    assert run("validate", "--json", str(good), "--network-config", str(network)) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["file"] == str(network)
    assert run("validate", str(good), "--network-config", str(tmp_path / "none")) != 0
    assert "cannot be read" in capsys.readouterr().err
    assert run("validate", "-", "--network-config", "-") == 2
    assert "standard input is one file" in capsys.readouterr().err


def test_validate_json_from_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert run("validate", "--json", "-") == 1
    value = json.loads(capsys.readouterr().out)
    assert (value["v"], value["valid"]) == (1, False)
    assert [(one["severity"], one["path"], one["line"], one["column"]) for one in value["findings"]] == [
        ("warning", "hostnam", 2, 1),
        ("error", "hostname", 3, 11),
    ]


def test_wrong_usage() -> None:
    for arguments in ((), ("validate",), ("frobnicate",)):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    assert run("apply", "--datasource", "ec2,nocloud", "--root", "/nonexistent") == 2


@pytest.mark.parametrize("name", ["validate", "render", "apply", "status"])
def test_help_teaches_by_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(name, "--help")
    assert caught.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "/no/such") == 1
    assert run("render", "/no/such") == 1
    assert capsys.readouterr().err.count("cloudconfig: error: /no/such: cannot be read: No such file") == 2


def test_render_writes_a_private_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "node.yaml"
    arguments = ("render", "default", "--vars", str(GOLDEN / "node.vars.yaml"), "--node", "node-2")
    assert run(*arguments) == 0
    assert capsys.readouterr().out == (GOLDEN / "node-2.yaml").read_text()
    assert run(*arguments, "-o", str(out)) == 0
    assert out.read_text() == (GOLDEN / "node-2.yaml").read_text()
    assert out.stat().st_mode & 0o777 == 0o600
    assert run(*arguments, "-o", str(tmp_path / "no/such/folder")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["node.yaml"]


def test_render_writes_nothing_that_is_not_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template, out = tmp_path / "t", tmp_path / "out"
    template.write_text("#cloud-config\nhostname: {{ name }}\nusers: x\n")
    assert run("render", str(template), "--set", "name=a b", "-o", str(out)) == 1
    assert not out.exists()
    printed = capsys.readouterr().err
    assert "rendered:2:11: error: hostname: not a host name" in printed
    assert "rendered:3:8: error: users: must be a list" in printed
    assert run("render", str(template), "-o", str(out)) == 1
    assert "template line 2: 'name' is undefined" in capsys.readouterr().err


def test_apply_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    user_data = tmp_path / "u.yaml"
    user_data.write_text("#cloud-config\nhostname: n1\n")
    (tmp_path / "root").mkdir()
    arguments = ("apply", "--datasource", f"file:{user_data}", "--root", str(tmp_path / "root"))
    assert run(*arguments) == 0
    assert capsys.readouterr().out.startswith(f"cloudconfig: done: file:{user_data}, 1 paths changed")
    assert (tmp_path / "root/etc/hostname").read_text() == "n1\n"
    user_data.write_text("#cloud-config\nhostname: n1\nusers: x\n")
    assert run(*arguments) == 1
    assert "cloudconfig: error: users: must be a list, is text (line 3)" in capsys.readouterr().out


def test_apply_to_this_machine_is_for_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("apply", "--datasource", "none") == 1
    assert "only root may apply" in capsys.readouterr().err


def test_apply_is_for_nodes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli, "NODE_CODE", str(tmp_path / "none"))
    assert run("apply", "--datasource", "none") == 1
    assert "this machine is no node" in capsys.readouterr().err


def test_a_wrong_word_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("apply", "--datasource", "floppy", "--root", str(tmp_path)) == 2
    assert run("status", "--wait", "--timeout", "nan") == 2
    template = tmp_path / "t"
    template.write_text("#cloud-config\n")
    assert run("render", str(template), "-o", "") == 2
    assert capsys.readouterr().err.count("hint: ") == 3
    assert list(tmp_path.iterdir()) == [template]


def test_anybody_may_write_into_an_empty_folder_of_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without accounts in it, and without the right to give files away."""
    user_data = tmp_path / "u.yaml"
    user_data.write_text(
        "#cloud-config\nwrite_files: [{path: /etc/x, content: x, owner: '7:7'}]\ncoreos: {etcd2: {name: a}}\n"
    )
    (tmp_path / "root").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "fchown", None)
    assert run("apply", "--datasource", f"file:{user_data}", "--root", str(tmp_path / "root")) == 0
    assert (tmp_path / "root/run/systemd/system/etcd.service.d/20-cloudinit.conf").stat().st_mode & 0o777 == 0o600


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    monkeypatch.setattr(status, "PATH", str(path))
    monkeypatch.setattr(status.read, "__defaults__", (str(path),))
    monkeypatch.setattr(status.wait, "__defaults__", (str(path),))
    assert run("status") == 1
    assert "no apply has ended since boot" in capsys.readouterr().err
    assert run("status", "--wait", "--timeout", "0") == 1
    assert "no apply has ended after 0 s" in capsys.readouterr().err
    outcome = Status("degraded", "nocloud", "i-1", "", ("/etc/hostname",), (Trouble("users", "is bad"),), 1.25)
    path.write_text(outcome.as_json())
    assert run("status", "--wait") == 1
    assert (
        capsys.readouterr().out
        == "degraded: nocloud, 1 paths changed, 1.2 s\nerror: users: is bad\n" + status.REPAIR + "\n"
    )
    assert run("status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["result"] == "degraded"
    path.write_text(Status("none", "none").as_json())
    assert run("status") == 0
    for broken in ("{", "[]", '{"v": 1}', '{"v": 7}'):
        path.write_text(broken)
        assert run("status") == 1


def test_waiting_ends_when_the_file_comes(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1:
            path.write_text(Status("done", "nocloud").as_json())

    assert status.wait(path, timeout_s=9, clock=lambda: now[0], sleep=sleep).result == "done"
    path.unlink()
    with pytest.raises(Failure, match="no apply has ended after 3 s"):
        status.wait(path, timeout_s=3, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))


def test_a_node_imports_little(tmp_path: Path) -> None:
    """On an emulated CPU a module costs what ten cost elsewhere: apply loads none of the host's."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from cloudconfig.cli import run\n"
        "run(['apply', '--datasource', 'file:' + sys.argv[3], '--root', sys.argv[4]])\n"
        "heavy = {'jinja2', 'pycdlib', 'email', 'difflib', 'pydantic', 'rich', 'subprocess', 'urllib3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    import yaml

    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("core:x:0:0::/home/core:/bin/sh\n")
    here = Path(__file__).parents[2]
    packages = Path(yaml.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(here), str(packages), str(GOLDEN / "node-2.yaml"), str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_the_reference_names_every_option() -> None:
    """docs/cloudconfig.md lists what the parser knows, no more and no less."""
    from cloudconfig.text import schema

    text = (Path(__file__).parents[2] / "docs" / "cloudconfig.md").read_text()
    for section, known in (("etcd2", schema.ETCD), ("fleet", schema.FLEET)):
        listed = text.partition(f"\n- {section}: ")[2].partition("\n- ")[0].partition("\n\n")[0]
        assert sorted(listed.replace("\n", " ").replace(" ", "").split(",")) == sorted(known)
