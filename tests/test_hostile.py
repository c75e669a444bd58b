"""Any mebibyte of any input costs at most one second of processor and 64 MiB: a table of what we read, and of what an
enemy writes.

What has a test of its own: user-data (tests/cloudconfig/test_budget.py), unit text (tests/unitfile/test_hostile.py),
frames and questions of a guest (tests/cluster/services/test_hostile_frames.py), HTTP to the services
(test_hostile_http.py there), the root shell (tests/cluster/test_utterance.py, tests/guest/test_lines.py), QMP
(tests/cluster/test_qmp.py), what is compressed (tests/builder/test_inflate.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fleet.config
import install.device
import install.layout
import trust.ledger
import trust.names
from builder.about import filelist, result
from builder.core import document
from builder.debian import apt, deb
from builder.debian.lockfile import Lock
from builder.debian.mirror import stanzas
from builder.lock import scripts
from cloudconfig.check import image
from cloudconfig.node import accounts, cloud, datasource, manifest, merging, status
from cloudconfig.node.apply import authorized_keys
from cloudconfig.node.rooted import Root
from cloudconfig.plan import network
from cloudconfig.text import addresses
from cluster.consistency import history
from cluster.lifecycle import membership
from cluster.lifecycle.snapshot import Snapshot
from cluster.model import connection_uri, timeline
from cluster.model.description import Description
from cluster.model.utterance import kept
from discovery import client, join
from discovery.backup.state import State
from discovery.node import environment
from discovery.registry import Refused, Registry
from discovery.restore.survey import listed_in
from discovery.upkeep import desired as upkeep
from enrolment import protocol
from etcd import KeyValue, wire
from etcd.transport import understand
from fleet.api import shapes
from fleet.model import codec
from fleet.model.requirements import Requirements, matches
from guest.lines import Lines
from terminal import Failure, record
from tests.budget import MEMORY_BYTES_MAX, SECONDS_MAX, assert_frugal, peak_bytes
from unitfile import lint
from unitfile.install import Install
from unitfile.name import UnitName
from unitfile.text import UnitFile

pytestmark = pytest.mark.slow

Reader = Callable[[bytes, Path], object]
"""Reads bytes; the path is of a file that holds them."""


class Hostile(NamedTuple):
    """``piece`` again and again, between ``head`` and ``tail``.

    A number sign in it becomes another number each time.
    """

    piece: str
    head: str = ""
    tail: str = ""

    def data(self, size: int) -> bytes:
        """So many bytes of it, nearly."""
        room = size - len(self.head) - len(self.tail)
        if "#N" in self.piece:
            middle = "".join(self.piece.replace("#N", str(number)) for number in range(room // (len(self.piece) + 4)))
        else:
            middle = self.piece * (room // len(self.piece.encode()))
        return f"{self.head}{middle}{self.tail}".encode()


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def unit(data: bytes, _: Path) -> None:
    found = UnitFile.parse(text(data))
    Install.of(found)
    Requirements.parse(UnitName.parse("a.service"), found)


def rooted(read: Callable[[Root], object], name: str) -> Reader:
    """``read`` in a root folder whose file ``name`` holds the data."""

    def reader(_: bytes, path: Path) -> object:
        place = path.parent / "root" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        os.link(path, place)
        root = Root(str(path.parent / "root"))
        try:
            return read(root)
        finally:
            root.close()

    return reader


class Service(cloud.Service):
    """A metadata service whose every answer is the same."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data

    def ask(self, method: str, path: str, headers: object) -> tuple[int, bytes]:
        """Never a token."""
        return (403, b"") if method == "PUT" else (200, self._data)


def answer(data: bytes) -> wire.Json:
    return understand("etcd", 200, data, {})


def roster(data: bytes, _: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "request", lambda *_, **__: (200, data))
        client.read("http://a/b")


def registered(data: bytes, _: Path) -> None:
    Registry().new("0" * 32, 3, 0).register("0" * 32, "1", text(data), 0)


def volume(_: bytes, path: Path) -> None:
    datasource.read_volume(path)


def seed_meta(data: bytes, _: Path) -> None:
    datasource.with_meta_data(datasource.Seed("x", b""), data)


JSON: dict[str, tuple[Reader, Sequence[Hostile]]] = {
    "fleet: machines/": (lambda data, _: codec.machine("machines/a", data), [Hostile('"a#N":"",', '{"v":1,"id":"a","metadata":{', '"":""}}')]),
    "fleet: metadata/": (lambda data, _: codec.metadata("metadata/a/b", data), [Hostile("a", '{"v":1,"machine":"a","key":"b","value":"', '"}')]),
    "fleet: units/": (
        lambda data, _: codec.unit("units/a.service", data),
        [Hostile(piece, '{"v":1,"name":"a.service","text":"[S]\\n', '","desired":"launched"}') for piece in (r"a=b\n", r"a=\\\n", r"[A]\n", r"#\n", " ", r"\u0041")],
    ),
    "fleet: schedule/": (
        lambda data, _: codec.placement("schedule/a/a.service", data),
        [Hostile(piece, '{"v":1,"unit":"a.service","machine":"a","desired":"loaded","text":"', '"}') for piece in ("a", r"\u0041")],
    ),
    "fleet: states/": (lambda data, _: codec.state("states/a/b", data), [Hostile("a", '{"v":1,"reached":"loaded","error":"', '"}')]),
    "fleet: status/": (lambda data, _: codec.status("", data), [Hostile("a", '{"v":1,"reason":"', '"}')]),
    "fleet: events": (
        lambda data, _: codec.batch("", data),
        [Hostile('{"kind":"#N"},', '{"v":1,"at":1,"by":"","events":[', '{"kind":""}]}'), Hostile("a", '{"v":1,"at":1,"events":[{"reason":"', '"}]}')],
    ),
    "fleet: events/seen": (lambda data, _: codec.revision("", data), [Hostile("9", '{"v":1,"revision":', "}")]),
    "fleet: engine/leader": (lambda data, _: codec.leader("", data), [Hostile("a", '{"v":1,"machine":"', '"}')]),
    "fleet: PUT /units": (
        lambda data, _: shapes.UnitRequest.parse(data),
        [Hostile('{"section":"A","name":"a","value":"b"},', '{"options":[', "{}]}"), Hostile('{"section":"A#N","name":"a"},', '{"options":[', "{}]}"),
         Hostile("a", '{"desiredState":"', '"}')],
    ),
    "fleet: PATCH /machines": (
        lambda data, _: shapes.metadata_changes(data),
        [Hostile('{"op":"add","path":"/a/metadata/k#N","value":"a"},', "[", "{}]"), Hostile("/", '[{"op":"add","path":"', '"}]'), Hostile(" ", '[{"op":"add","path":"/a/metadata/b","value":"', '"}]')],
    ),
    "etcd: range": (lambda data, _: wire.decode_range(answer(data)), [Hostile('{"key":"YQ==","value":"YQ=="},', '{"header":{"revision":"1"},"kvs":[', "{}]}"), Hostile("A", '{"kvs":[{"key":"', '"}]}')]),
    "etcd: watch": (lambda data, _: wire.decode_batch(answer(data)), [Hostile('{"kv":{"key":"YQ=="}},', '{"header":{"revision":"1"},"events":[', "{}]}")]),
    "etcd: transaction": (lambda data, _: wire.decode_txn(answer(data)), [Hostile('{"response_range":{}},', '{"header":{"revision":"1"},"responses":[', "{}]}")]),
    "etcd: GET /members": (
        lambda data, _: (join.endpoints_of(data), join.listed_in(data)),
        [Hostile('{"name":"a","peerURLs":["http://a:1"],"clientURLs":["http://b#N:2"]},', "[", '{"peerURLs":["http://a:1"]}]'), Hostile("[", '[{"peerURLs":["http://', '"]}]'),
         Hostile("a", '[{"peerURLs":["http://', '"]}]')],
    ),
    "discovery: an answer": (
        roster,
        [Hostile('{"key":"/a/#N","value":"a=http://b:1","createdIndex":#N},', '{"node":{"value":"3","nodes":[', '{"key":"_"}]}}'), Hostile("a=b,", '{"node":{"value":"3","nodes":[{"key":"/a","createdIndex":1,"value":"', '"}]}}')],
    ),
    "discovery: what nodes say of themselves": (
        lambda data, _: (upkeep.decode_offer(data), upkeep.decode([KeyValue("upkeep", data, 1, 1, 1)], "")),
        [Hostile('"http://a#N:1",', '{"v":1,"machine":"","role":"","since":"","lost":"0","peers":[', '"b"]}'), Hostile("f", '{"v":1,"machine":"","role":"","since":"","peers":[],"lost":"', '"}'),
         Hostile('"#N":{"is":"a","since":"b"},', '{"v":1,"kind":"add","reason":"","node":"","by":"","since":"","member":"0","target":3,"members":{', '"1":{"is":"","since":""}}}')],
    ),
    "discovery: state": (
        lambda data, _: Registry.load(text(data), where="state"),
        [Hostile('["a#N","a=http://b:1",2],', '{"v":1,"index":9,"tokens":{"a":{"size":1,"index":1,"touched":1,"members":[', "[]]}}}"),
         Hostile("a=b,", '{"v":1,"index":9,"tokens":{"a":{"size":1,"index":1,"touched":1,"members":[["a","', 'a",1]]}}}')],
    ),
    "trust: trust.json": (
        lambda data, _: trust.ledger.parse(data),
        [Hostile('{"serial":"#N","profile":"","authority":"fleet","name":"","role":"node","addresses":[],"issued":"2026-01-01T00:00:00Z","not_after":"2026-01-01T00:00:00Z","fingerprint":"1"},', '{"v":1,"id":"","issued":[', "{}]}"),
         Hostile("0", '{"v":1,"id":"","issued":[{"serial":"', '"}]}')],
    ),
    "enrolment: a request": (
        lambda data, _: protocol.request(data),
        [Hostile('"a#N":"b",', '{"v":1,"nonce":"","name":"","addresses":[],"machine":"","requests":{', '"a":"b"}}'),
         Hostile('"a",', '{"v":1,"nonce":"","name":"","machine":"","requests":{},"addresses":[', '"a"]}')],
    ),
    "enrolment: an answer": (lambda data, _: protocol.answer(data), [Hostile('"a#N":"b",', '{"v":1,"issued":"","not_after":"","files":{', '"a":"b"}}')]),
    "install: layout": (lambda data, _: install.layout.parse(data, "layout"), [Hostile('{"name":"a"},', '{"v":1,"name":"a","version":"1","partitions":[', "{}]}"), Hostile("0", '{"v":1,"name":"a","version":"1","root_hash":"', '"}')]),
    "cluster: cluster.json": (lambda data, _: Description.of(record.parse(data)), [Hostile("1,", '{"v":1,"ssh_ports":[', "1]}"), Hostile('"f#N":1,', "{", '"v":1}')]),
    "cluster: timeline": (lambda _, path: timeline.read(path), [Hostile('{"t":1,"kind":"","what":""}\n'), Hostile("1,", '{"t":1,"kind":"","what":"","nodes":[', "1]}\n")]),
    "cluster: snapshot.json": (lambda data, _: record.build(Snapshot, record.parse(data)), [Hostile('"f#N":1,', "{", '"tag":1}'), Hostile("a", '{"tag":"', '"}')]),
    "cluster: history": (lambda data, _: history.load(text(data)), [Hostile('{"process":1,"kind":"read","key":"a","argument":null,"result":null,"outcome":"ok","begin":1,"end":2}\n')]),
    "cluster: etcdctl of a node": (lambda data, _: membership.parse(text(data)), [Hostile('{"ID":1,"peerURLs":["a"]},', '{"members":[', '{"ID":1,"peerURLs":[]}]}')]),
    "cluster: lines of a guest": (lambda data, _: [kept(message) for message in Lines().feed(data)], [Hostile('{"out":"YQ=="}\n'), Hostile("{}\n"), Hostile('{"failed":["a"]}\n'), Hostile('"a",', '{"failed":[', '"a"]}\n')]),
    "cloudconfig: plan.json": (rooted(manifest.read, "var/lib/cloudconfig/plan.json"), [Hostile('"/a#N":{"sha256":"","target":"","before":null},', '{"v":1,"plan":"","instance_id":"","scripts":[],"users":[],"entries":{', '"b":{"sha256":"","target":"","before":null}}}')]),
    "cloudconfig: status.json": (lambda _, path: status.read(path), [Hostile('{"path":"","message":""},', '{"v":1,"result":"","datasource":"","instance_id":"","plan":"","changed":[],"errors":[', '{"path":"","message":""}],"seconds":1,"warnings":[]}')]),
    "cloudconfig: a file to merge": (lambda data, _: merging.merge("json", data, b'{"a":{"b":1}}'), [Hostile('"a#N":[],', '{"a":{', '"b":1}}'), Hostile('"a":{"b":1},', "{", '"a":1}')]),
    "cloudconfig: openstack": (lambda data, _: cloud.openstack(Service(data)), [Hostile('"a#N":"b",', '{"uuid":"a","public_keys":{', '"a":"b"}}'), Hostile(r"a\n", '{"uuid":"a","public_keys":{"a":"', '"}}')]),
    "cloudconfig: facts of an image": (lambda _, path: image.load(path), [Hostile('"a#N":"a b c",', '{"v":1,"files":{', '"a":"b"}}')]),
    "osbuild: lock": (
        lambda data, _: Lock.parse(text(data)),
        [Hostile('{"name":"a"},', '{"version":1,"architecture":"amd64","epoch":1,"request":"' + "0" * 64 + '","indexes":[],"packages":[', "{}]}"),
         Hostile(
             '{"name":"aa#N","version":"1","architecture":"amd64","source":"a","source_version":"1","archive":"debian","path":"a","size":1,"sha256":"' + "0" * 64 + '"},',
             '{"version":1,"architecture":"amd64","epoch":1,"request":"' + "0" * 64 + '","indexes":[],"packages":[', "{}]}")],
    ),
    "osbuild: reviews": (lambda data, _: scripts.parse(text(data)), [Hostile('{"package":"a"},', '{"version":1,"scripts":[', "{}]}")]),
    "osbuild: files.jsonl": (lambda data, _: [filelist.parse(line) for line in text(data).splitlines()], [Hostile('{"path":"/a","kind":"dir","mode":"0755","uid":0,"gid":0,"mtime":0}\n'), Hostile("a", '{"path":"/', '"}')]),
    "osbuild: manifest": (lambda _, path: result.load(path.parent), [Hostile('{"name":"a","size":1,"sha256":""},', '{"version":1,"artifacts":[', "{}]}")]),
}  # fmt: skip
TEXTS: dict[str, tuple[Reader, Sequence[Hostile]]] = {
    "unit": (unit, [Hostile(piece, "[X-Fleet]\n") for piece in ("Conflicts=a\n", "MachineMetadata=a=b\n", "MachineMetadata=\"a=b\" ", "Conflicts=%n%i\n")]),
    "unit, on a host": (
        lambda data, _: lint.lint("a.service", text(data[: len(data) // 4])),
        [Hostile("ExecStart=/bin/a\n", "[Service]\n"), Hostile("a ", "[Service]\nExecStart=/bin/a "), Hostile("foo#N=1\n", "[Service]\n"), Hostile("[Serv#N]\n"), Hostile("After=a b\n", "[Unit]\n"),
         Hostile("%", "[Service]\nExecStart=/bin/a "), Hostile('"', "[Service]\nExecStart=/bin/a "), Hostile("1", "[Service]\nTimeoutSec=")],
    ),
    "fleet: glob": (lambda data, _: matches(text(data[:2048]), "a" * 255), [Hostile("*a"), Hostile("?"), Hostile("[a"), Hostile("[!a-z]*"), Hostile("**")]),
    "trust: a name": (lambda data, _: trust.names.address(text(data)), [Hostile("a."), Hostile("a-"), Hostile("1."), Hostile("1:"), Hostile(":1", "[::]")]),
    "fleet.conf": (lambda _, path: fleet.config.load(path, {}), [Hostile("metadata=a=b\n"), Hostile("a=b,", "metadata="), Hostile("http://a,", "etcd_servers="), Hostile("1m", "agent_ttl="), Hostile("f#N=1\n")]),
    "discovery: a state of backups": (lambda data, _: State.parse(text(data)), [Hostile("["), Hostile('{"last":'), Hostile('"k#N":1,', '{"v":1,', '"kept":1}')]),
    "discovery: members on a port for peers": (lambda data, _: listed_in(data), [Hostile("["), Hostile('{"id":1,"peerURLs":["http://a"]},', "[", "{}]")]),
    "discovery: etcd's settings": (lambda data, _: environment(text(data)), [Hostile("A=b "), Hostile('"'), Hostile("\\")]),
    "discovery: a member": (registered, [Hostile("a=http://b:1,"), Hostile("[:", "a=http://"), Hostile("a", "a=http://"), Hostile("1", "a=http://b:")]),
    "network-config": (
        lambda data, _: network.read(data),
        [Hostile("  e#N: {dhcp4: true}\n", "version: 2\nethernets:\n"), Hostile("10.0.0.1/8, ", "version: 2\nethernets: {a: {addresses: [", "]}}\n"),
         Hostile("- {type: physical, name: a#N}\n", "version: 1\nconfig:\n"), Hostile("{to: 10.0.0.0/8, via: 10.0.0.1}, ", "version: 2\nethernets: {a: {routes: [", "]}}\n")],
    ),
    "meta-data": (seed_meta, [Hostile("k#N: a\n"), Hostile("- a\n", "public-keys:\n"), Hostile("  a#N: b\n", "public-keys:\n"), Hostile("a\n\n", "instance-id: '")]),
    "seed volume": (volume, [Hostile("a")]),
    "ec2": (lambda data, _: cloud.ec2(Service(data)), [Hostile("0=a\n"), Hostile("1", "", "=a"), Hostile("9#N=\n")]),
    "authorized_keys": (lambda data, _: authorized_keys(text(data), ("ssh-ed25519 A",)), [Hostile("# cloudconfig: begin (this part is rewritten at every boot)\n"), Hostile("# cloudconfig: end\n")]),
    "/etc/environment": (lambda data, _: merging.merge("environment", data, b"A=b\n"), [Hostile("A=c\n"), Hostile("B#N=c\n")]),
    "/etc/passwd": (rooted(accounts.read, "etc/passwd"), [Hostile("a#N:x:1:1::/:/bin/sh\n"), Hostile(":")]),
    "/etc/group": (rooted(accounts.read, "etc/group"), [Hostile("a#N:x:1:b\n"), Hostile("a,", "g:x:1:")]),
    "/proc/swaps": (lambda data, _: install.device.swapped(text(data), ["/dev/a"]), [Hostile("/dev/a#N partition 1 1 1\n")]),
    "$private_ipv4": (lambda data, _: addresses.substitute(text(data), {"private_ipv4": "10.0.0.1"}), [Hostile("$private_ipv4 "), Hostile("\\$private_ipv4"), Hostile("${private_ipv4"), Hostile("$")]),
    "control of a package": (lambda data, _: deb.fields(text(data)), [Hostile("A: b\n"), Hostile(" a\n", "A:")]),
    "index of an archive": (lambda data, _: list(stanzas(text(data))), [Hostile("A: b\n"), Hostile(" a\n", "A: b\n"), Hostile("A#N: b\n"), Hostile("A: b\n\n")]),
    "apt-get -s": (lambda data, _: (list(apt.parse_simulation(text(data))), list(apt.parse_removals(text(data)))), [Hostile("Inst a (1 b [c])\n"), Hostile("[", "Inst a (1 "), Hostile("Remv a [1]\n"), Hostile("[a", "Inst a [1] (1 ")]),
    "libvirt's URI": (lambda data, _: connection_uri.parse(text(data)), [Hostile("a=b&", "qemu+ssh://a/session?"), Hostile("%41", "qemu+ssh://"), Hostile("1", "qemu+ssh://a:")]),
}  # fmt: skip
OF_JSON = [
    Hostile(piece, head, tail)
    for piece, head, tail in (
        ("[", "", ""), ('{"a":', "", ""), ("[],", "[", "1]"), ("{},", "[", "1]"), ('"a":1,', "{", '"a":1}'), ('"a#N":1,', "{", '"a":1}'), ("1", "", ""),
        ("1e9,", "[", "1]"), ('"a",', "[", "1]"), (" ", "", "1"), (r"\u00e9", '"', '"'), (r"\"", '"', '"'), ("\u00e9", '"', '"'), ("[]\n", "", ""), ("\0", "", ""),
    )
]  # fmt: skip
OF_TEXT = [
    Hostile(piece)
    for piece in (
        "a",
        " ",
        "\n",
        "\\\n",
        "a \\\n",
        "- ",
        "[",
        "{",
        "a: ",
        "a=b ",
        "a=b\n",
        '"',
        "'",
        "#\n",
        ":",
        "\u2028",
        "\0",
    )
]
READERS = {name: (*rest, OF_JSON) for name, rest in JSON.items()} | {
    name: (*rest, OF_TEXT) for name, rest in TEXTS.items()
}


def tried(read: Reader, path: Path) -> Callable[[bytes], None]:
    def work(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(Failure, ValueError, Refused):
            read(data, path)

    return work


@pytest.mark.parametrize("name", READERS)
def test_what_an_enemy_writes(name: str, tmp_path: Path) -> None:
    read, own, usual = READERS[name]
    for hostile in (*own, *usual):
        assert_frugal(tried(read, tmp_path / "manifest.json"), hostile.data)


@pytest.mark.parametrize(
    "hostile",
    [
        Hostile("["),
        Hostile("{a: "),
        Hostile("a "),
        Hostile("a#N: 1\n"),
        Hostile("- a\n", "packages:\n"),
        Hostile("&a#N [a, a, a], ", "a: [", "]"),
        Hostile("#", "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))),
        Hostile("#", "a0: &a0 {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 10)}]}}\n" for n in range(9))),
    ],
)  # fmt: skip
def test_the_largest_definition(hostile: Hostile, tmp_path: Path) -> None:
    """A larger file is refused at once. Its reader is PyYAML's, which takes much for each value."""
    path = tmp_path / "a.yaml"
    data = hostile.data(document.BYTES_MAX)
    work = tried(lambda _, path: document.read(path), path)
    begin = time.process_time()
    work(data)
    assert time.process_time() - begin < 4 * SECONDS_MAX
    assert peak_bytes(lambda: work(data[: len(data) // 8])) < MEMORY_BYTES_MAX // 8


PIECES = st.sampled_from(
    ["a", "\n", " ", "[", "]", "{", "}", ",", ":", '"', "\\", "1", "- ", "=", "#", "%", "$private_ipv4", "\u00e9", "'", "*a", "&a ", '"v":1,', "[X-Fleet]\n", "a: b\n", "<<: "]
)  # fmt: skip


@given(st.sampled_from(sorted(READERS)), PIECES, st.lists(PIECES, min_size=1, max_size=5), PIECES)
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_anything(tmp_path: Path, name: str, head: str, pieces: list[str], tail: str) -> None:
    assert_frugal(tried(READERS[name][0], tmp_path / "manifest.json"), Hostile("".join(pieces), head, tail).data)
