"""Any 1 MiB of user-data is judged within 64 MiB and a few seconds of CPU, however it is packed.

The time is CPU time, so that other work on the machine does not count, and generous: what these inputs cost once was
minutes or for ever.
"""

from __future__ import annotations

import base64
import gzip
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.node import salvage
from cloudconfig.text import finding, mime, userdata

pytestmark = pytest.mark.slow

SIZE = 1 << 20
MEMORY_MAX = 64 << 20
CPU_MAX_S = 5.0
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl joe"


def filled(piece: str | bytes, head: str = "", tail: str = "", size: int = SIZE) -> bytes:
    """``piece`` again and again, 1 MiB of it."""
    data = piece.encode() if isinstance(piece, str) else piece
    return head.encode() + data * ((size - len(head) - len(tail)) // len(data)) + tail.encode()


def multipart(*parts: bytes, boundary: str = "X") -> bytes:
    head = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{boundary}"\n\n'.encode()
    mark = f"--{boundary}".encode()
    return head + b"".join(mark + b"\n" + part + b"\n" for part in parts) + mark + b"--\n"


def gzipped(data: bytes) -> bytes:
    return b"Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + base64.b64encode(
        gzip.compress(data, mtime=0)
    )


def russian_doll() -> bytes:
    """MIME of gzip of MIME of gzip: 2.7 KB that unpack to 251 MiB."""
    inner = multipart(*[gzipped(filled("#" * 63 + "\n", "#cloud-config\n"))] * 16)
    return multipart(*[gzipped(inner)] * 16)


def gz_files() -> bytes:
    """Files in a cloud-config that unpack to 1 MiB each."""
    content = base64.b64encode(gzip.compress(bytes(SIZE), mtime=0)).decode()
    return filled(
        f"- {{path: /etc/a, encoding: gz+b64, content: {content}}}\n", "#cloud-config\nwrite_files:\n", size=700_000
    )


def many_configs(line: str) -> bytes:
    part = b"Content-Type: text/cloud-config\n\n"
    return multipart(*[part + filled(line, "#cloud-config\n", size=SIZE // 64 - 64)] * mime.PARTS_MAX)


HEAD = "#cloud-config\n"
MULTIPART = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="X"\n\n'
HOSTILE: dict[str, Callable[[], bytes]] = {
    "equal keys": lambda: filled("hostname: a\n", HEAD),
    "equal keys, broken": lambda: filled("hostname: a\n", HEAD, "["),
    "equal lists of keys, broken": lambda: filled(f"ssh_authorized_keys: [{KEY}]\n", HEAD, "["),
    "equal users, broken": lambda: filled("users: [{name: a, sudo: ALL}]\n", HEAD, "["),
    "entries of users, broken": lambda: filled("- name: a\n  groups: sudo\n", HEAD + "users:\n", "- ["),
    "unknown keys": lambda: HEAD.encode() + b"".join(b"hostnam%d: 1\n" % n for n in range(70_000)),
    "unknown keys of users": lambda: (
        HEAD.encode() + b"users:\n- name: a\n" + b"".join(b"  nam%d: 1\n" % n for n in range(70_000))
    ),
    "bad keys": lambda: filled("- a\n", HEAD + "ssh_authorized_keys:\n"),
    "a million values": lambda: filled("a,", HEAD + "a: [", "]"),
    "open brackets": lambda: filled("[", HEAD),
    "open braces": lambda: filled("{a: ", HEAD),
    "one scalar": lambda: filled("a ", HEAD + "a: "),
    "one quote": lambda: filled("a\n", HEAD + 'a: "'),
    "one block": lambda: filled("  a\n", HEAD + "hostname: |\n"),
    "dashes": lambda: filled("- ", HEAD),
    "dash lines": lambda: filled("-\n", HEAD),
    "questions": lambda: filled("? ", HEAD),
    "blanks": lambda: filled(" ", HEAD + "a:"),
    "lines": lambda: filled("\n", HEAD),
    "comments": lambda: filled("#\n", HEAD),
    "wide characters": lambda: filled("\U0001f600", HEAD + "a: "),
    "no header": lambda: filled("hostname: a\n"),
    "base64 of nothing": lambda: filled("A"),
    "hashes": lambda: filled("#"),
    "open braces, JSON": lambda: filled("{"),
    "web page": lambda: filled("<a>", "<html>"),
    "zero bytes": lambda: bytes(SIZE),
    "russian doll": russian_doll,
    "compressed files": gz_files,
    "gzip of nothing": lambda: filled(gzip.compress(b"", mtime=0)),
    "gzip of gzip of nothing": lambda: gzip.compress(filled(gzip.compress(b"", mtime=0)), mtime=0),
    "gzip bomb": lambda: gzip.compress(bytes(1 << 28), mtime=0),
    "empty parts": lambda: filled("--X\n", MULTIPART),
    "empty parts with types": lambda: filled("--X\nContent-Type: text/plain\n\n\n", MULTIPART, "--X--\n"),
    "nested rfc822": lambda: filled("Content-Type: message/rfc822\n\n", "MIME-Version: 1.0\n"),
    "nested multiparts": lambda: filled("Content-Type: multipart/mixed; boundary=X\n\n--X\n", "MIME-Version: 1.0\n"),
    "closing boundaries": lambda: filled("--X--\n", MULTIPART),
    "nearly boundaries": lambda: filled("--X-\n", MULTIPART),
    "boundary and blanks": lambda: filled("--X" + " " * 1000 + "a\n", MULTIPART),
    "one header": lambda: filled(" a\n", "MIME-Version: 1.0\n"),
    "many headers": lambda: filled("a:b\n", "MIME-Version: 1.0\n"),
    "parameters": lambda: multipart(*[filled(';a="', "Content-Type: text/plain", "\n\na", size=8000)] * 64),
    "quoted-printable": lambda: filled("=\n", "MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n"),
    "quoted blanks": lambda: filled(" ", "MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n", "a"),
    "values in 64 parts": lambda: many_configs("- a\n"),
    "keys in 64 parts": lambda: many_configs("ssh_authorized_keys: [" + "a," * 20 + "]\n"),
    "users in 64 parts": lambda: many_configs("users: [{name: a}]\n"),
    "merged 64 parts": lambda: many_configs(
        "merge_how: list(append)+dict(recurse_list)+str(append)\nusers: [{name: a}]\n"
    ),
    "template": lambda: filled("{{ a }}", "## template: jinja\n#cloud-config\n"),
    "template without end": lambda: filled("{{", "## template: jinja\n#cloud-config\n"),
    "template of one expression": lambda: filled("[", "## template: jinja\n#cloud-config\n{{", "}}"),
    "template of one text": lambda: filled("a\n", "## template: jinja\n#cloud-config\n"),
    "template that grows": lambda: b"## template: jinja\n{% for a in range(9**5) %}{{ a * 9 }}\n{% endfor %}",
    "template of a product": lambda: b"## template: jinja\n{{ 'a' * 9**9 }}",
    "template of a width": lambda: b"## template: jinja\n{{ '%999999999d' % 1 }}",
}


def judged(data: bytes) -> None:
    """All that host and node do with user-data before they write anything."""
    contents = userdata.read(data, dict)
    salvage.essentials((*(part.text for part in contents.parts), *contents.ruins))
    validate.validate(data)


def costs(data: bytes) -> tuple[int, float]:
    """Bytes at the peak, above what there is already, and seconds of CPU without the accounting of memory."""
    begin = time.process_time()
    judged(data)
    spent = time.process_time() - begin
    tracemalloc.start()
    try:
        judged(data)
        return tracemalloc.get_traced_memory()[1], spent
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_costs_little(name: str) -> None:
    memory, spent = costs(HOSTILE[name]())
    assert memory <= MEMORY_MAX
    assert spent <= CPU_MAX_S


PIECES = st.sampled_from(
    ["hostname: a\n", "- ", "[", "{", "a: ", '"', "'", "|\n", " ", "\n", "  - a: b\n", ":", "#", "--X\n", "--X--\n", "=3D",
     "Content-Type: text/plain\n\n", "Content-Type: multipart/mixed; boundary=X\n\n", "é", "\t", "%", "users:\n", ","]
)  # fmt: skip


@given(st.sampled_from(["", HEAD, MULTIPART, "#!/bin/sh\n"]), st.lists(PIECES, min_size=1, max_size=4), PIECES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_megabyte_of_anything_costs_little(head: str, pieces: list[str], tail: str) -> None:
    memory, spent = costs(filled("".join(pieces), head, tail))
    assert memory <= MEMORY_MAX
    assert spent <= CPU_MAX_S


def test_what_is_over_budget_is_said() -> None:
    for name, message in (
        ("russian doll", "unpack to more than 4 MiB"),
        ("empty parts", "more than 64 parts"),
        ("nested rfc822", "packed more than 4 times"),
        ("compressed files", "the files unpack to more than 4 MiB together"),
        ("gzip of nothing", "more than 1024 members"),
        ("values in 64 parts", "more than 20000 values"),
        ("open brackets", "nested deeper than 32 levels"),
    ):
        messages = [one.message for one in finding.errors(validate.validate(HOSTILE[name]()))]
        assert any(message in one for one in messages), (name, messages)


def test_findings_are_capped_and_errors_are_not_lost_among_warnings() -> None:
    found = validate.validate(HEAD.encode() + b"".join(b"k%d: 1\n" % n for n in range(9000)) + b"hostname: a b\n")
    assert len(found) == finding.FINDINGS_MAX + 1
    assert [one.path for one in finding.errors(found)] == ["hostname"]
    assert "more of them are not listed" in found[-2].message
