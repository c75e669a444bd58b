"""``cloudconfig render --trust``: a node's certificates in its user-data, and nowhere else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

import trust
from cloudconfig.check import validate
from cloudconfig.cli import main
from cloudconfig.plan import etcdctl
from cloudconfig.text import finding
from etcd import credentials
from tests.cluster.commands import call
from trust import overview
from trust.profile import NODE_FILES, NODE_FOLDER

TEMPLATE = """\
#cloud-config
hostname: {{ node.name }}
write_files:
{% for file in trust.files %}
  - {{ file | tojson }}
{% endfor %}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trust.create(Path("lab"))
    Path("node.yaml.j2").write_text(TEMPLATE)


def render(*words: str) -> int:
    usual = ["--set", "node.name=node-1", "--set", "node.private_ipv4=10.0.0.1", "--trust", "lab", "-o", "out.yaml"]
    return call(main, "render", "node.yaml.j2", *usual, *words)


def test_each_file_has_its_owner_and_mode_and_is_the_node_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert render("--set", "node.public_ipv6=fd00::1") == 0
    assert capsys.readouterr() == ("", "")
    assert stat.S_IMODE(Path("out.yaml").stat().st_mode) == 0o600
    text = Path("out.yaml").read_bytes()
    assert finding.errors(validate.validate(text)) == ()
    found = {one["path"].rpartition("/"): one for one in yaml.safe_load(text)["write_files"]}
    assert sorted(found) == sorted(("/etc/flotilla/trust", "/", name) for name in NODE_FILES)
    special = {
        "etcd-peer.key": ("etcd:etcd", "0600"),
        "etcd-server.key": ("etcd:etcd", "0600"),
        "etcd-client.key": ("root:fleet", "0640"),
        "fleet-server.key": ("root:root", "0600"),
    }
    for (_, _, name), one in found.items():
        assert (one["owner"], one["permissions"]) == special.get(name, ("root:root", "0644")), name
        assert one["content"].startswith("-----BEGIN PRIVATE KEY" if name in special else "-----BEGIN ")
    issued = overview.read(Path("lab")).issued
    assert {(one.name, one.addresses) for one in issued} == {("node-1", ("10.0.0.1", "fd00::1"))}
    assert len(issued) == 4


@pytest.mark.parametrize(
    ("words", "template", "code", "message"),
    [
        ([], "#cloud-config\nhostname: {{ node.name }}\n", 1, "no place for the certificates"),
        ([], TEMPLATE + "{{ nothing }}\n", 1, "'nothing' is undefined"),
        ([], TEMPLATE + "users: 1\n", 1, "users"),
        (["--set", "node.private_ipv4="], TEMPLATE, 1, "the node has no address"),
        (["--set", "node.private_ipv4=10.0.0.300"], TEMPLATE, 2, "neither an IP address nor a host name"),
        (["--set", "node={}"], TEMPLATE, 1, "certificates are for a node"),
        (["--trust", "nowhere"], TEMPLATE, 1, "there is no such folder"),
    ],
)
def test_a_mistake_issues_nothing(
    words: list[str], template: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("node.yaml.j2").write_text(template)
    assert render(*words) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "PRIVATE KEY" not in printed.out + printed.err
    assert overview.read(Path("lab")).issued == ()
    assert not Path("out.yaml").exists()


def test_keys_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "render", "node.yaml.j2", "--set", "node.name=node-1", "--trust", "lab") == 2
    assert "private keys are not printed" in capsys.readouterr().err


def test_an_error_that_only_the_real_texts_show_prints_none_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """A template may do anything with them; what it fails with is its line, and no value."""
    Path("node.yaml.j2").write_text(TEMPLATE + "# {{ {'': 1}[trust.files[7].content] }}\n")
    assert render() == 1
    printed = capsys.readouterr().err
    assert "template line 7: the template renders with empty certificates, and not with real ones" in printed
    assert "PRIVATE KEY" not in printed


def test_who_issues_certificates_and_who_uses_them_have_one_folder_for_them() -> None:
    """Rooms that may not import each other, so that each has its name."""
    assert str(credentials.FOLDER) == NODE_FOLDER == etcdctl.FOLDER
