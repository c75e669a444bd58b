"""Host name, keys and status are there after an apply, whatever went wrong: in the text, on the node, or in our own
code.
"""

from __future__ import annotations

import base64
import gzip
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from cloudconfig.node import apply as apply_module
from cloudconfig.node import datasource, status
from tests.cloudconfig.test_apply import KEY, KEYS, OWN, Node, Recorder

OPS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJm ops"
CORE_KEYS = "var/home/core/.ssh/authorized_keys"
OPS_KEYS = "var/home/ops/.ssh/authorized_keys"


class Accounts(Recorder):
    """A machine whose useradd makes the account, with the ids of whoever runs the test."""

    def __init__(self, node: Node, refuse: str = "") -> None:
        super().__init__(refuse)
        self.node = node

    def run(self, argv: Sequence[str], secret: str = "") -> None:
        words = list(argv)
        super().run(words, secret)
        if words[0] == "useradd":
            uid, gid = OWN
            passwd = self.node.read("etc/passwd")
            self.node.write("etc/passwd", f"{passwd}{words[-1]}:x:{uid}:{gid}::/home/{words[-1]}:/bin/bash\n")
            (self.node.path / "var/home" / words[-1]).mkdir()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.machine = Accounts(made)
    made.write("etc/group", made.read("etc/group") + "sudo:x:27:core\n")
    return made


ADMIN = f"users:\n- name: ops\n  groups: [sudo]\n  ssh_authorized_keys: ['{OPS}']\n"


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def step(*_: object, **__: object) -> NoReturn:
        raise error

    return step


@pytest.mark.parametrize(
    "error", [RecursionError(), MemoryError(), KeyError("secret-value"), AssertionError("secret-value")]
)
@pytest.mark.parametrize(
    "where",
    ["text.userdata.read", "text.parse.parse_all", "check.validate.check", "plan.merge.combine", "plan.plan.make",
     "node.manifest.read", "node.accounts.apply", "node.manifest.claim", "node.accounts.shadows"],
)  # fmt: skip
def test_an_unforeseen_exception(node: Node, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = where.rpartition(".")
    monkeypatch.setattr(importlib.import_module(f"cloudconfig.{module}"), name, raising(error))
    outcome = node.apply(KEYS + ADMIN + "write_files: [{path: /etc/x, content: hi}]\nmerge_how: list(append)\n")
    assert outcome.result == "degraded"
    assert node.machine.hostname == "n1"
    assert KEY in node.read(CORE_KEYS)
    assert OPS in node.read(OPS_KEYS)
    assert not (node.path / "etc/x").exists()
    assert f"an error of cloudconfig itself: {type(error).__name__} at" in outcome.errors[0].message
    assert "secret-value" not in outcome.as_json()


def test_a_datasource_that_fails_with_an_unforeseen_exception(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasource, "fetch", raising(ZeroDivisionError()))
    outcome = apply_module.apply("test", str(node.path), node.machine)
    assert outcome.result == "failed"
    assert status.read(node.path / "run/cloudconfig/status.json") == outcome


def test_one_essential_does_not_keep_another_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.machine, "set_hostname", raising(OSError(1, "no")))
    outcome = node.apply(KEYS)
    assert KEY in node.read(CORE_KEYS)
    assert outcome.result == "degraded"


def mime(*parts: str, end: str = "--X--\n") -> str:
    head = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=X\n\n"
    return head + "".join(f"--X\n{part}\n" for part in parts) + end


CONFIG = f"Content-Type: text/cloud-config\n\n{KEYS}{ADMIN}"
BROKEN = "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!!"


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    "data",
    [
        KEYS + ADMIN + "unknown: 1\n",
        (KEYS + ADMIN).replace("\n", "\r\n"),
        (KEYS + ADMIN).rstrip("\n"),
        "\ufeff" + KEYS + ADMIN,
        gzip.compress((KEYS + ADMIN).encode(), mtime=0),
    ],
    ids=["unknown-key", "crlf", "no-newline", "bom", "gzip"],
)
def test_what_editors_and_tools_do_to_a_text_harms_nothing(node: Node, data: str | bytes) -> None:
    outcome = node.apply(data)
    assert outcome.result == "done"
    assert node.machine.hostname == "n1"
    assert KEY in node.read(CORE_KEYS)
    assert OPS in node.read(OPS_KEYS)


@pytest.mark.parametrize(
    "data",
    [
        mime(CONFIG, BROKEN),
        mime(BROKEN, CONFIG),
        mime(CONFIG, end=""),
        mime(CONFIG).replace("--X", "--Y"),
        mime(CONFIG.replace("text/cloud-config\n\n", "text/cloud-config\n")),
        mime(CONFIG, "Content-Type: text/x-include-url\n\nhttp://127.0.0.1/"),
        mime(CONFIG, "Content-Type: text/cloud-config\n\nhostname: [\n"),
        mime(CONFIG, "Content-Type: text/cloud-config\n\nhostname: other\n"),
        mime(CONFIG, *["Content-Type: text/x-shellscript\n\n#!/bin/sh\n"] * 99),
        mime(CONFIG, "Content-Type: message/rfc822\n\n" * 1000),
        mime(CONFIG, "Content-Type: text/cloud-config\n\nmerge_how: oops\nhostname: n1\n"),
        gzip.compress((KEYS + ADMIN).encode(), mtime=0) + b"junk",
        gzip.compress((KEYS + ADMIN + "#" * 9000).encode(), 0, mtime=0)[:-2000],
        KEYS + ADMIN + "coreos: {units: [{name: 'no unit name'}]}\n",
        KEYS + ADMIN + "a: " + "[" * 99,
        KEYS + ADMIN + "motd: 'open\n",
        "motd\n" + KEYS + ADMIN,
        "## template: jinja\n" + KEYS + ADMIN + "a: {{ nothing }}\n",
        KEYS.replace("#cloud-config", "#cloud-confg") + ADMIN,
        KEYS.encode() + ADMIN.encode() + b"a: \xff\n",
        KEYS + ADMIN + "motd:\n\t- tabbed\n",
        KEYS + ADMIN + BOMB,
        KEYS + ADMIN + "#" * (10 << 20),
    ],
)
def test_whatever_is_damaged_the_essentials_are_applied(node: Node, data: str | bytes) -> None:
    outcome = node.apply(data)
    assert outcome.result == "degraded"
    assert node.machine.hostname == "n1"
    assert KEY in node.read(CORE_KEYS)
    assert OPS in node.read(OPS_KEYS)
    assert node.machine.ran == ["useradd --create-home --groups sudo --shell /bin/bash ops"]


def test_a_doll_of_a_thousand_messages(node: Node) -> None:
    outcome = node.apply("MIME-Version: 1.0\n" + "Content-Type: message/rfc822\n\n" * 1000, keys=(KEY,), hostname="n1")
    assert outcome.result == "degraded"
    assert (node.machine.hostname, KEY in node.read(CORE_KEYS)) == ("n1", True)


def test_keys_of_core_wherever_they_stand(node: Node) -> None:
    outcome = node.apply(
        f"#cloud-config\nusers: [{{name: core, ssh_authorized_keys: ['{OPS}']}}]\nssh_authorized_keys: ['{KEY}']\n"
    )
    assert outcome.result == "done"
    assert node.read(CORE_KEYS).splitlines()[1:3] == [KEY, OPS]


def test_a_useradd_that_fails_keeps_no_other_back(node: Node) -> None:
    node.machine = Accounts(node, refuse="joe")
    outcome = node.apply(KEYS + ADMIN + "- {name: joe, groups: [sudo], ssh_authorized_keys: ['" + KEY + "']}\n")
    assert outcome.result == "degraded"
    assert OPS in node.read(OPS_KEYS)
    assert KEY in node.read(CORE_KEYS)


def test_broken_meta_data_keeps_user_data_s_keys_not_back(node: Node) -> None:
    outcome = node.apply(
        KEYS + "write_files: [{path: /etc/x}]\n", damage=(status.Trouble("meta-data line 1", "broken"),)
    )
    assert [trouble.path for trouble in outcome.errors] == ["meta-data line 1"]
    assert (node.machine.hostname, KEY in node.read(CORE_KEYS)) == ("n1", True)
    assert not (node.path / "etc/x").exists(), "whose instance is it?"


def test_notes_of_the_datasource_are_warnings(node: Node) -> None:
    outcome = node.apply(KEYS, notes=("vendor-data is there and not read: only user-data is",))
    assert (outcome.result, [trouble.message for trouble in outcome.warnings]) == (
        "done",
        ["vendor-data is there and not read: only user-data is"],
    )


def test_no_key_of_a_script_is_taken(node: Node) -> None:
    script = f"Content-Type: text/x-shellscript\n\n#!/bin/sh\ncat > x <<E\nssh_authorized_keys:\n- {OPS}\nE\n"
    node.apply(mime(CONFIG.replace(ADMIN, ""), script, BROKEN))
    assert OPS not in node.read(CORE_KEYS)


def test_scripts_run_when_their_type_says(node: Node) -> None:
    texts = {name: f"#!/bin/sh\n# {name}\n" for name in ("per-boot", "per-instance", "per-once")}
    parts = [f"Content-Type: text/x-shellscript-{name}\n\n{text}" for name, text in texts.items()]
    data = mime(
        *parts,
        "Content-Type: text/cloud-boothook\n\n#cloud-boothook\n#!/bin/sh\n",
        "Content-Type: text/cloud-config\n\ncoreos: {units: [{name: a.service, command: start}]}\n",
    )

    def ran() -> list[str]:
        words = [line.split() for line in node.machine.ran]
        node.machine.ran = []
        return [
            line[-1].rpartition("-")[2] + ("!" if "--property=DefaultDependencies=no" in line else "") for line in words
        ]

    node.apply(data, instance_id="i-1")
    assert ran() == ["4!", "a.service", "1", "2", "3"], "the boothook comes before everything else that is started"
    node.apply(data, instance_id="i-1")
    assert ran() == ["a.service"], "again in one boot"
    node.reboot()
    node.machine = Accounts(node)
    node.apply(data, instance_id="i-1")
    assert ran() == ["4!", "a.service", "1"]
    node.reboot()
    node.apply(data, instance_id="i-2")
    assert ran() == ["4!", "a.service", "1", "2"]
    assert "# per-once" in node.read("var/lib/cloudconfig/scripts/user-data-3")


def test_base64_of_a_part_is_checked_by_the_node_too(node: Node) -> None:
    good = base64.b64encode(KEYS.encode()).decode()
    part = "Content-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\n"
    assert node.apply(mime(part + good)).result == "done"
    outcome = node.apply(mime(part + good[:-9] + "!"))
    assert "MIME part 1: not base64" in outcome.errors[0].message
