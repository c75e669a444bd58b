"""What upkeep writes to etcd and beside the data, and what it makes of anything else that is found there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from discovery.beside import Beside, Peers, Proxied, Running, began
from discovery.upkeep import command, desired, look
from discovery.upkeep.desired import Offer, Report
from discovery.upkeep.plan import SIZES, Step
from etcd import KeyValue
from etcd.fake import FakeEtcd

words = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20)
ids = st.integers(0, (1 << 64) - 1)
offers = st.builds(Offer, st.lists(words, max_size=3).map(tuple), words, words, words, ids)
steps = st.builds(
    Step, st.sampled_from(("nothing", "remove", "add", "promote", "evict")), words, ids, words, st.just(())
)
said = st.dictionaries(ids, st.tuples(words, words), max_size=5)
reports = st.builds(Report, words, steps, words, st.sampled_from(SIZES), said)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RUNNING = Running("proxy", "n1", ("http://a:2380",), "http://127.0.0.1:2379", "", 1, 2)


def kv(key: str, value: bytes, revision: int = 7) -> KeyValue:
    return KeyValue(desired.PREFIX + key, value, 1, revision, 1)


@given(offers, reports, st.sampled_from(SIZES))
def test_what_is_written_is_what_is_read(offer: Offer, report: Report, size: int) -> None:
    kvs = [kv("nodes/a", offer.encoded()), kv("upkeep", report.encoded(), 9), kv("size", b"%d" % size)]
    found = desired.decode(kvs, desired.PREFIX)
    assert found == desired.Desired(size, {"a": offer}, report, 9)
    (node,) = found.nodes({"a": 2})
    assert (node.urls, node.machine, node.lost, node.failed) == (offer.urls, offer.machine, offer.lost, 2)


@given(
    st.binary(max_size=40)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.tuples(
        reports | offers, st.sampled_from(("v", "members", "member", "kind", "target", "peers")), json_values
    ).map(lambda each: json.dumps({**json.loads(each[0].encoded()), each[1]: each[2]}).encode())
)
def test_a_broken_value_counts_as_missing_and_its_revision_still_fences(value: bytes) -> None:
    found = desired.decode([kv(key, value) for key in ("size", "nodes/a", "upkeep", "other")], desired.PREFIX)
    assert found.size in (0, *SIZES)
    assert found.fence == 7
    assert found.report is None or found.report.target in (0, *SIZES)


def test_what_is_beside_the_data_survives_and_nonsense_counts_as_missing(tmp_path: Path) -> None:
    beside = Beside(tmp_path / "data")
    assert (beside.read_running(), beside.read_peers(), beside.read_proxied()) == (None, Peers(), Proxied())
    beside.write_running(RUNNING)
    beside.write_peers(Peers("http://d/t", ("http://a:2380", "http://b:2380")))
    beside.write_proxied(Proxied("http://d/t", ("a:2379",)))
    assert beside.read_running() == RUNNING
    assert beside.read_peers().urls == ("http://a:2380", "http://b:2380")
    assert beside.read_proxied().endpoints == ("a:2379",)
    for nonsense in ("", "7", "[]", "{}", '{"urls": 7}', '{"kind": "member", "urls": 7}'):
        for path in (beside.running, beside.peers, beside.proxy):
            path.write_text(nonsense)
        assert (beside.read_running(), beside.read_peers(), beside.read_proxied()) == (None, Peers(), Proxied())


def test_data_that_is_set_aside_is_kept_once(tmp_path: Path) -> None:
    beside, wal = Beside(tmp_path / "data"), tmp_path / "wal"
    for content in ("first", "second"):
        (beside.data / "member").mkdir(parents=True)
        (beside.data / "member" / "snap").write_text(content)
        wal.mkdir()
        (wal / "0.wal").write_text(content)
        beside.ended.touch()
        beside.set_aside(wal)
        assert not beside.data.exists()
        assert not beside.ended.exists()
        assert not wal.exists(), "a log that is elsewhere goes with it"
        assert (beside.removed / "member" / "snap").read_text() == content
        assert (beside.removed / "wal.removed" / "0.wal").read_text() == content


def test_only_the_process_that_was_meant_is_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        running = RUNNING._replace(pid=process.pid, began=began(process.pid))
        command.end(running._replace(began=running.began + 1))
        assert process.poll() is None, "another process has its number now"
        assert running.is_alive
        command.end(running)
        assert process.wait(60) == -signal.SIGTERM
        command.end(running)
    assert not running.is_alive
    assert began(os.getpid()) > 0


def test_only_a_key_under_a_lease_says_that_a_machine_lives() -> None:
    fake = FakeEtcd()
    fake.put("machines/a", b"", lease=fake.lease_grant(10).id)
    fake.put("machines/b", b"")
    machines = look.Leased(fake, "machines/")
    assert machines.alive() == {"a"}
    fake.advance(11)
    assert machines.alive() == frozenset()
