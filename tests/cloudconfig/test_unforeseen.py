"""An unforeseen exception in every function that an apply calls: host name, keys and status are there all the
same.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from cloudconfig.host import seed
from cloudconfig.node import apply as apply_module
from cloudconfig.node import datasource, guard, status
from cloudconfig.node.status import Trouble
from tests.cloudconfig.test_apply import KEY, Node
from tests.cloudconfig.test_essentials import CORE_KEYS, OPS, OPS_KEYS, Accounts

pytestmark = pytest.mark.slow

ROOM = Path(apply_module.__file__).parent.parent
CONFIG = f"""\
#cloud-config
hostname: n1
manage_etc_hosts: true
ssh_authorized_keys: ['{KEY}']
groups: [crew]
users:
- {{name: ops, groups: [sudo], ssh_authorized_keys: ['{OPS}']}}
write_files:
- {{path: /etc/x, content: '$private_ipv4'}}
- {{path: /etc/motd, content: more, append: true}}
- {{path: /etc/docker/daemon.json, content: '{{}}'}}
runcmd: [["true"]]
bootcmd: [["true"]]
swap: {{filename: /var/swap, size: 1M}}
final_message: up
coreos:
  etcd2: {{discovery: 'http://10.0.0.1/x', name: a}}
  units:
  - {{name: a.service, enable: true, command: start, content: "[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n"}}
"""
USER_DATA = f"""\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=X

--X
Content-Type: text/x-shellscript

#!/bin/sh
--X
Content-Type: text/cloud-config

{CONFIG}
--X
Content-Type: text/cloud-config

#cloud-config
merge_how: list(append)
locale: C.UTF-8
--X--
"""
FILES = {
    "user-data": USER_DATA,
    "meta-data": "instance-id: i-1\nlocal-ipv4: 10.0.0.5\n",
    "network-config": "version: 2\nethernets: {eth0: {addresses: [10.0.0.5/24]}}\n",
}
BEFORE = {
    "_Apply.__init__", "_Apply._attempt", "_Apply.run", "_applied", "apply", "attempt", "Root.__init__", "Root.close", "Status.as_json"
}  # fmt: skip
"""What has to work once for anything to be done, besides the datasource, which has to give user-data."""


class Nodes:
    """New nodes, each of which finds user-data on a volume, and what is called in an apply."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def apply(self, trace: Callable[[FrameType, str, Any], None]) -> list[str]:
        """Applies, with ``trace`` called for each function that is entered. Returns what is not there then."""
        path = self._folder / str(next(self._numbers))
        path.mkdir()
        node = Node(path)
        node.machine = Accounts(node)
        node.write("etc/group", node.read("etc/group") + "sudo:x:27:core\n")
        node.write("etc/motd", "welcome\n")
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            apply_module.apply("nocloud", str(path), node.machine)
        finally:
            sys.settrace(before)
        assert status.read(path / "run/cloudconfig/status.json")
        there = {
            "host name": node.machine.hostname == "n1" and node.read("etc/hostname") == "n1\n",
            "keys of core": (path / CORE_KEYS).exists() and KEY in node.read(CORE_KEYS),
            "keys of ops": (path / OPS_KEYS).exists() and OPS in node.read(OPS_KEYS),
        }
        return [what for what, is_there in there.items() if not is_there]

    def called(self) -> list[CodeType]:
        """Our functions that an apply calls."""
        found: dict[CodeType, None] = {}

        def trace(frame: FrameType, _event: str, _argument: object) -> None:
            code = frame.f_code
            if Path(code.co_filename).is_relative_to(ROOM) and not code.co_name.startswith("<"):
                found.setdefault(code)

        assert self.apply(trace) == []
        return list(found)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    (tmp_path / "cidata").write_bytes(seed.volume(dict(FILES)))
    monkeypatch.setattr(datasource, "find_device", lambda _system: tmp_path / "cidata")
    return Nodes(tmp_path)


def errors() -> Iterator[Exception]:
    return itertools.cycle((KeyError("x"), MemoryError(), RecursionError()))


def raising(code: CodeType, error: Exception) -> Callable[[FrameType, str, Any], None]:
    def trace(frame: FrameType, _event: str, _argument: object) -> None:
        if frame.f_code is code:
            raise error  # Python then traces no more

    return trace


def name(code: CodeType) -> str:
    return f"{Path(code.co_filename).name} {code.co_qualname}"


def test_a_function_that_fails_once(nodes: Nodes) -> None:
    """As when memory runs out, and is there again when the rest has given up."""
    codes = [
        code
        for code in nodes.called()
        if code.co_qualname not in BEFORE and Path(code.co_filename).name not in ("datasource.py", "iso.py")
    ]
    assert len(codes) > 200
    lacking = {name(code): nodes.apply(raising(code, error)) for code, error in zip(codes, errors(), strict=False)}
    assert {where: what for where, what in lacking.items() if what} == {}


def test_a_function_that_fails_always(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that the essentials themselves need, when nothing else is applied."""
    codes = nodes.called()
    with monkeypatch.context() as patch:
        patch.setattr(apply_module, "judge", lambda _contents: 1 // 0)
        own = set(nodes.called())
    codes = [code for code in codes if code not in own]
    assert len(codes) > 100
    trouble = guard.trouble

    def again(error: Exception) -> Trouble:
        """Once an exception has been reported, the function that raised it raises again."""
        sys.settrace(None)
        reported = trouble(error)
        sys.settrace(current)
        return reported

    monkeypatch.setattr(guard, "trouble", again)
    lacking = {}
    for code, error in zip(codes, errors(), strict=False):
        current = raising(code, error)
        lacking[name(code)] = nodes.apply(current)
    assert {where: what for where, what in lacking.items() if what} == {}
