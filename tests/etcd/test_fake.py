"""What only the fake can do: time on demand, and networks that break on demand."""

from __future__ import annotations

import pytest

from etcd import Compacted, Unavailable
from etcd.fake import FakeEtcd


def test_leases_end_in_the_order_of_their_deadlines() -> None:
    fake = FakeEtcd()
    long, short = fake.lease_grant(20), fake.lease_grant(10)
    fake.put("long", b"", lease=long.id)
    fake.put("short", b"", lease=short.id)
    watch = fake.watch("")
    fake.advance(9.99)
    assert watch.poll() is None
    assert fake.lease_keepalive(long.id) == 20
    fake.advance(60)
    batches = [watch.poll(), watch.poll(), watch.poll()]
    assert [batch and [event.kv.key for event in batch.events] for batch in batches] == [["short"], ["long"], None]
    assert fake.store.now == pytest.approx(69.99)


def test_two_clients_one_store() -> None:
    one = FakeEtcd()
    two = one.connect()
    watch_one, watch_two = one.watch("a"), two.watch("a")
    two.put("a", b"")
    two.reachable = False
    assert not two.health()
    assert one.health()
    with pytest.raises(Unavailable) as refused:
        two.get("a")
    assert not refused.value.maybe_applied
    with pytest.raises(Unavailable):
        two.watch("a")
    with pytest.raises(Unavailable):
        watch_two.poll()
    assert watch_one.poll() is not None
    two.reachable = True
    with pytest.raises(Unavailable):
        watch_two.poll()
    again = two.watch("a", watch_two.revision + 1)
    assert again.poll() is not None, "who resumes misses nothing"


def test_a_lost_reply_is_a_write_that_happened() -> None:
    fake = FakeEtcd()
    fake.lose_reply()
    with pytest.raises(Unavailable) as lost:
        fake.put("a", b"1")
    assert lost.value.maybe_applied
    found = fake.get("a")
    assert found is not None
    assert found.value == b"1"
    fake.put("a", b"2")


def test_an_open_watch_survives_compaction_a_new_one_does_not() -> None:
    fake = FakeEtcd()
    watch = fake.watch("a")
    fake.put("a", b"1")
    last = fake.put("a", b"2")
    fake.compact(last)
    seen = [watch.poll(), watch.poll()]
    assert [batch and batch.events[0].kv.value for batch in seen] == [b"1", b"2"]
    with pytest.raises(Compacted) as compacted:
        fake.watch("a", 2).poll()
    assert compacted.value.compact_revision == last


def test_closed_watches_are_forgotten() -> None:
    fake = FakeEtcd()
    watch = fake.watch("a")
    watch.close()
    watch.close()
    assert fake.store.watches == []
    assert watch.poll() is None
    fake.reachable = False
    assert list(watch) == []
