"""The fake and the real etcd give the same answers. Every test here runs against both.

What is a revision in one test is some other number in the next, so tests speak of differences of revisions.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd import Client, Compacted, Compare, Etcd, EtcdError, Event, KeyValue, LeaseNotFound, Op, TooLarge, Watch
from etcd.fake import FakeEtcd
from etcd.protocol import Relation
from tests.eventually import WITHIN_S, eventually, is_blocked


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.etcd)])
def etcd(request: pytest.FixtureRequest) -> Iterator[Etcd]:
    if request.param == "fake":
        yield FakeEtcd()
        return
    yield request.getfixturevalue("real")


@pytest.fixture
def real(real_etcd: str) -> Iterator[Client]:
    """A client of the real one, which has no key: one of an earlier test may have a lease, whose end is a revision."""
    client = Client([real_etcd])
    client.delete_prefix("")
    yield client
    client.close()


@pytest.fixture
def p() -> str:
    """A prefix that only this test uses."""
    return f"{uuid.uuid4().hex}/"


def let_pass(etcd: Etcd, seconds: float) -> None:
    if isinstance(etcd, FakeEtcd):
        etcd.advance(seconds)
    else:
        time.sleep(seconds)  # a lease is about time


def until(etcd: Etcd, condition: Callable[[], bool]) -> None:
    """Let time pass until ``condition``; real leases end up to a second late."""
    if not isinstance(etcd, FakeEtcd):
        eventually(condition)
        return
    for _ in range(100):
        if condition():
            return
        etcd.advance(0.1)
    pytest.fail("it never became true")


def take(watch: Watch, count: int) -> list[Event]:
    """The next ``count`` events; fails the test if they do not come."""
    guard = threading.Timer(WITHIN_S, watch.close)
    guard.start()
    events: list[Event] = []
    while len(events) < count:
        batch = next(watch, None)
        assert batch is not None, f"only {len(events)} of {count} events came"
        events.extend(batch.events)
        if batch.events:
            assert batch.revision == events[-1].kv.mod_revision
    guard.cancel()
    return events


# Keys


def test_a_missing_key_is_none(etcd: Etcd, p: str) -> None:
    assert etcd.get(p + "nothing") is None


def test_put_returns_the_revision_that_get_and_range_show(etcd: Etcd, p: str) -> None:
    first = etcd.put(p + "a", b"1")
    second = etcd.put(p + "a", b"\x00\xff")
    assert second == first + 1
    kv = etcd.get(p + "a")
    assert kv is not None
    assert (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) == (
        *(p + "a", b"\x00\xff", first, second),
        *(2, 0),
    )
    found = etcd.range(p)
    assert found.kvs == (kv,)
    assert found.revision == second


def test_range_is_in_byte_order_and_ends_with_the_prefix(etcd: Etcd, p: str) -> None:
    for name in ("b", "a/2", "a", "a/10", "ä", "a0", "\uffff", "\U0001f6a2"):
        etcd.put(p + name, b"")
    names = [kv.key.removeprefix(p) for kv in etcd.range(p).kvs]
    assert names == ["a", "a/10", "a/2", "a0", "b", "ä", "\uffff", "\U0001f6a2"]
    assert [kv.key.removeprefix(p) for kv in etcd.range(p + "a/").kvs] == ["a/10", "a/2"]


def test_the_empty_prefix_is_everything(etcd: Etcd, p: str) -> None:
    etcd.put(p + "a", b"")
    assert p + "a" in {kv.key for kv in etcd.range("").kvs}


def test_more_keys_than_a_page_holds(etcd: Etcd, p: str) -> None:
    for first in range(0, 6000, 100):
        etcd.txn([], [Op.put(f"{p}{number:05}", b"") for number in range(first, first + 100)])
    assert [kv.key for kv in etcd.range(p).kvs] == [f"{p}{number:05}" for number in range(6000)]


def test_range_in_the_past(etcd: Etcd, p: str) -> None:
    then = etcd.put(p + "a", b"1")
    etcd.put(p + "a", b"2")
    etcd.put(p + "b", b"")
    etcd.delete(p + "a")
    assert [(kv.key, kv.value) for kv in etcd.range(p, revision=then).kvs] == [(p + "a", b"1")]


def test_a_revision_that_is_not_yet(etcd: Etcd, p: str) -> None:
    now = etcd.put(p + "a", b"1")
    with pytest.raises(EtcdError, match="future revision"):
        etcd.range(p, revision=now + 1000)


def test_delete_returns_what_was_there(etcd: Etcd, p: str) -> None:
    before = etcd.put(p + "a", b"")
    assert etcd.delete(p + "a")
    assert not etcd.delete(p + "a")
    assert etcd.range(p).revision == before + 1, "a delete of nothing makes no revision"
    etcd.put(p + "a", b"")
    etcd.put(p + "ab", b"")
    assert etcd.delete_prefix(p + "a") == 2
    assert etcd.delete_prefix(p + "a") == 0


def test_a_key_that_comes_back_is_a_new_one(etcd: Etcd, p: str) -> None:
    etcd.put(p + "a", b"")
    etcd.put(p + "a", b"")
    etcd.delete(p + "a")
    revision = etcd.put(p + "a", b"")
    kv = etcd.get(p + "a")
    assert kv is not None
    assert (kv.create_revision, kv.version) == (revision, 1)


def test_keys_that_are_not_utf8_survive(etcd: Etcd, p: str) -> None:
    key = p + b"\xff\xfe".decode("utf-8", "surrogateescape")
    etcd.put(key, b"x")
    assert [kv.key for kv in etcd.range(p).kvs] == [key]


@pytest.mark.parametrize("call", [lambda e: e.get(""), lambda e: e.put("", b""), lambda e: e.delete("")])
def test_no_key_at_all(etcd: Etcd, call: Callable[[Etcd], object]) -> None:
    with pytest.raises(EtcdError, match="key is not provided"):
        call(etcd)


def test_a_value_too_large(etcd: Etcd, p: str) -> None:
    with pytest.raises(TooLarge, match="too large"):
        etcd.put(p + "a", b"x" * 1_800_000)


# Transactions


def test_create_once(etcd: Etcd, p: str) -> None:
    create = ([Compare.created(p + "a", "==", 0)], [Op.put(p + "a", b"mine")], [Op.get(p + "a")])
    first = etcd.txn(*create)
    assert first.succeeded
    assert first.responses[0].kind == "put"
    second = etcd.txn(*create)
    assert not second.succeeded
    assert second.revision == first.revision, "a transaction that changes nothing makes no revision"
    assert second.responses[0].kvs == (etcd.get(p + "a"),)


def test_all_compares(etcd: Etcd, p: str) -> None:
    created = etcd.put(p + "a", b"m")
    modified = etcd.put(p + "a", b"m")

    def holds(compare: Compare) -> bool:
        return etcd.txn([compare], []).succeeded

    key = p + "a"
    for make, actual in ((Compare.created, created), (Compare.modified, modified), (Compare.version, 2)):
        assert holds(make(key, "==", actual))
        assert not holds(make(key, "==", actual + 1))
        assert holds(make(key, "!=", actual + 1))
        assert holds(make(key, "<", actual + 1))
        assert not holds(make(key, "<", actual))
        assert holds(make(key, ">", actual - 1))
        assert not holds(make(key, ">", actual))
    assert holds(Compare.value(key, "==", b"m"))
    assert holds(Compare.value(key, "<", b"n"))
    assert holds(Compare.value(key, ">", b"lzzz"))
    assert holds(Compare.value(key, "!=", b""))
    assert holds(Compare.lease(key, "==", 0))
    missing = p + "missing"
    for absent in (Compare.created, Compare.modified, Compare.version, Compare.lease):
        assert holds(absent(missing, "==", 0))
    assert not holds(Compare.value(missing, "==", b""))
    assert not holds(Compare.value(missing, "!=", b"x")), "no comparison of no value is true"


def test_steps_see_the_steps_before_them(etcd: Etcd, p: str) -> None:
    before = etcd.put(p + "old", b"")
    result = etcd.txn([], [Op.put(p + "a", b"1"), Op.get_prefix(p), Op.delete(p + "old"), Op.get_prefix(p)])
    assert result.revision == before + 1
    assert [kv.key for kv in result.responses[1].kvs] == [p + "a", p + "old"]
    assert result.responses[2].deleted == 1
    assert [kv.key for kv in result.responses[3].kvs] == [p + "a"]


@pytest.mark.parametrize(
    "steps",
    [
        lambda p: [Op.put(p + "a", b"1"), Op.put(p + "a", b"2")],
        lambda p: [Op.put(p + "a", b"1"), Op.delete(p + "a")],
        lambda p: [Op.delete_prefix(p), Op.put(p + "a", b"1")],
    ],
)
def test_one_key_is_changed_once_in_a_transaction(etcd: Etcd, p: str, steps: Callable[[str], list[Op]]) -> None:
    with pytest.raises(EtcdError, match="duplicate key"):
        etcd.txn([], steps(p))
    assert etcd.get(p + "a") is None


def test_too_many_steps(etcd: Etcd, p: str) -> None:
    assert len(etcd.txn([], [Op.put(f"{p}{n}", b"") for n in range(128)]).responses) == 128
    with pytest.raises(TooLarge, match="too many operations"):
        etcd.txn([], [Op.put(f"{p}{n}", b"") for n in range(129)])


# Leases


def test_a_lease_takes_its_keys_along(etcd: Etcd, p: str) -> None:
    lease = etcd.lease_grant(2)
    assert lease.ttl >= 2
    etcd.put(p + "b", b"", lease=lease.id)
    etcd.put(p + "a", b"", lease=lease.id)
    last = etcd.put(p + "stays", b"")
    kv = etcd.get(p + "a")
    assert kv is not None
    assert kv.lease == lease.id
    watch = etcd.watch(p, last + 1)
    until(etcd, lambda: etcd.get(p + "a") is None)
    events = take(watch, 2)
    watch.close()
    assert [(event.kind, event.kv.key, event.kv.mod_revision) for event in events] == [
        ("delete", p + "a", last + 1),
        ("delete", p + "b", last + 1),
    ]
    assert etcd.lease_keepalive(lease.id) == 0
    with pytest.raises(LeaseNotFound):
        etcd.put(p + "a", b"", lease=lease.id)


@pytest.mark.slow
def test_keep_alive(etcd: Etcd, p: str) -> None:
    lease = etcd.lease_grant(2)
    etcd.put(p + "a", b"", lease=lease.id)
    for _ in range(3):
        let_pass(etcd, 0.9)
        assert etcd.lease_keepalive(lease.id) == lease.ttl
    assert etcd.get(p + "a") is not None


def test_revoke(etcd: Etcd, p: str) -> None:
    lease = etcd.lease_grant(60)
    etcd.put(p + "a", b"", lease=lease.id)
    assert etcd.lease_revoke(lease.id)
    assert etcd.get(p + "a") is None
    assert not etcd.lease_revoke(lease.id)


def test_a_put_without_the_lease_unbinds_the_key(etcd: Etcd, p: str) -> None:
    lease = etcd.lease_grant(60)
    etcd.put(p + "a", b"", lease=lease.id)
    etcd.put(p + "a", b"")
    etcd.lease_revoke(lease.id)
    assert etcd.get(p + "a") is not None


def test_a_deleted_key_leaves_its_lease(etcd: Etcd, p: str) -> None:
    lease = etcd.lease_grant(60)
    etcd.put(p + "a", b"", lease=lease.id)
    etcd.delete(p + "a")
    etcd.put(p + "a", b"again")
    etcd.lease_revoke(lease.id)
    assert etcd.get(p + "a") is not None


def test_a_lease_that_never_was(etcd: Etcd, p: str) -> None:
    assert etcd.lease_keepalive(12345) == 0
    assert not etcd.lease_revoke(12345)
    with pytest.raises(LeaseNotFound) as refused:
        etcd.txn([], [Op.put(p + "b", b""), Op.put(p + "a", b"", lease=12345)])
    assert refused.value.lease == 12345
    assert etcd.get(p + "b") is None, "a refused transaction does nothing"


def test_a_lease_of_no_time_is_a_bug(etcd: Etcd) -> None:
    with pytest.raises(ValueError, match="0 s"):
        etcd.lease_grant(0)


# Watches


def test_watch_from_now_on(etcd: Etcd, p: str) -> None:
    etcd.put(p + "a", b"before")
    watch = etcd.watch(p)
    revision = etcd.put(p + "a", b"after")
    etcd.delete(p + "a")
    put, delete = take(watch, 2)
    watch.close()
    assert (put.kind, put.kv.value, put.kv.version) == ("put", b"after", 2)
    assert (delete.kind, delete.kv.key, delete.kv.value) == ("delete", p + "a", b"")
    assert delete.kv.mod_revision == revision + 1
    assert (delete.kv.create_revision, delete.kv.version) == (0, 0)


def test_watch_from_history_sees_each_version_of_its_prefix_only(etcd: Etcd, p: str) -> None:
    start = etcd.put(p + "a/1", b"1")
    etcd.put(p + "b", b"no")
    etcd.put(p + "a/1", b"2")
    etcd.delete(p + "a/1")
    etcd.put(p + "a/1", b"3")
    with_start, after_start = etcd.watch(p + "a/", start), etcd.watch(p + "a/", start + 1)
    assert [event.kv.value for event in take(with_start, 4)] == [b"1", b"2", b"", b"3"]
    assert [event.kv.value for event in take(after_start, 3)] == [b"2", b"", b"3"]
    with_start.close()
    after_start.close()


def test_a_transaction_is_one_batch(etcd: Etcd, p: str) -> None:
    watch = etcd.watch(p)
    etcd.txn([], [Op.put(f"{p}{n:03}", b"") for n in range(100)])
    batch = next(watch)
    watch.close()
    assert [event.kv.key for event in batch.events] == [f"{p}{n:03}" for n in range(100)]
    assert {event.kv.mod_revision for event in batch.events} == {batch.revision}


def test_catching_up_with_much_history_loses_nothing(etcd: Etcd, p: str) -> None:
    """etcd sends 1000 revisions at a time; a reader that resumes after any batch gets the rest."""
    start = etcd.put(p + "n", b"0")
    for number in range(1, 1300):
        etcd.put(p + "n", str(number).encode())
    seen: list[int] = []
    resume = start
    while len(seen) < 1300:
        watch = etcd.watch(p, resume)
        batch = next(watch)
        watch.close()
        seen.extend(int(event.kv.value) for event in batch.events)
        resume = batch.revision + 1
    assert seen == list(range(1300))


def test_close_frees_a_blocked_reader(etcd: Etcd, p: str) -> None:
    watch = etcd.watch(p)
    ended = threading.Event()

    def read() -> None:
        assert list(watch) == []
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: is_blocked(reader))
    watch.close()
    assert ended.wait(WITHIN_S)
    reader.join()
    watch.close()
    assert next(watch, None) is None


def test_a_watch_of_the_future_waits_for_it(etcd: Etcd, p: str) -> None:
    now = etcd.put(p + "a", b"0")
    watch = etcd.watch(p, now + 2)
    etcd.put(p + "a", b"1")
    etcd.put(p + "a", b"2")
    assert [event.kv.value for event in take(watch, 1)] == [b"2"]
    watch.close()


def test_progress_notices(etcd: Etcd, p: str) -> None:
    revision = etcd.put(p + "a", b"")
    with_notices, without = etcd.watch(p, progress=True), etcd.watch(p)
    if isinstance(etcd, FakeEtcd):
        etcd.notify_progress()
    notice = next(with_notices)
    assert notice.events == ()
    assert notice.revision >= revision
    etcd.put(p + "a", b"")
    assert next(without).events != ()
    with_notices.close()
    without.close()


# Compaction


def test_compaction(etcd: Etcd, p: str) -> None:
    first = etcd.put(p + "a", b"1")
    etcd.put(p + "gone", b"")
    etcd.delete(p + "gone")
    last = etcd.put(p + "a", b"2")
    open_watch = etcd.watch(p, first)
    assert len(take(open_watch, 4)) == 4
    etcd.compact(last)

    assert [kv.value for kv in etcd.range(p).kvs] == [b"2"], "what is now stays"
    assert [kv.value for kv in etcd.range(p, revision=last).kvs] == [b"2"], "the revision itself, too"
    with pytest.raises(Compacted):
        etcd.range(p, revision=first)
    with pytest.raises(Compacted):
        etcd.compact(first)
    with pytest.raises(EtcdError, match="future"):
        etcd.compact(last + 1000)
    late = etcd.watch(p, first)
    with pytest.raises(Compacted) as compacted:
        next(late)
    late.close()
    assert compacted.value.compact_revision == last

    etcd.put(p + "a", b"3")
    assert [event.kv.value for event in take(open_watch, 1)] == [b"3"], "who was up to date goes on"
    open_watch.close()


# The cluster


def test_members_status_health(etcd: Etcd) -> None:
    (member,) = etcd.members()
    assert member.name
    assert member.client_urls
    assert not member.learner
    status = etcd.status()
    assert status.leader == status.member_id == member.id
    assert status.revision >= 1
    assert etcd.health()


# Anything at all

_NAMES = st.sampled_from(["a", "b", "a/x", "a/y"])
_VALUES = st.sampled_from([b"", b"1", b"2"])
_RELATIONS: st.SearchStrategy[Relation] = st.sampled_from(("==", "!=", "<", ">"))
_NAMED: st.SearchStrategy[Callable[[str], Op]] = st.sampled_from((Op.delete, Op.delete_prefix, Op.get, Op.get_prefix))
_OPS = st.one_of(
    st.builds(Op.put, _NAMES, _VALUES),
    st.builds(lambda make, name: make(name), _NAMED, _NAMES),
)
_COMPARES = st.one_of(
    st.builds(Compare.value, _NAMES, _RELATIONS, _VALUES),
    st.builds(Compare.created, _NAMES, _RELATIONS, st.integers(0, 8)),
    st.builds(Compare.modified, _NAMES, _RELATIONS, st.integers(0, 8)),
    st.builds(Compare.version, _NAMES, _RELATIONS, st.integers(0, 3)),
)
_TXNS = st.tuples(
    st.lists(_COMPARES, max_size=2),
    st.lists(_OPS, min_size=1, max_size=3),
    st.lists(_OPS, max_size=2),
)

Txn = tuple[list[Compare], list[Op], list[Op]]
"""Conditions, and what is done if they hold and if not: of keys without their prefix, and revisions counted from the
first one.
"""


def _run(etcd: Etcd, prefix: str, txns: list[Txn]) -> list[object]:
    """All that ``etcd`` says to ``txns``, with revisions counted from the first one and without the prefix."""
    base = etcd.range(prefix).revision

    def relative(revision: int) -> int:
        return revision - base if revision else 0

    def kv_facts(kv: KeyValue) -> tuple[object, ...]:
        key, value = kv.key.removeprefix(prefix), kv.value
        return (key, value, relative(kv.create_revision), relative(kv.mod_revision), kv.version)

    def compare(one: Compare) -> Compare:
        operand = one.operand
        if one.target in ("CREATE", "MOD") and isinstance(operand, int) and operand:
            operand += base
        return replace(one, key=prefix + one.key, operand=operand)

    def prefixed(ops: list[Op]) -> list[Op]:
        return [replace(op, key=prefix + op.key) for op in ops]

    said: list[object] = []
    for compares, success, failure in txns:
        try:
            result = etcd.txn(
                [compare(one) for one in compares],
                prefixed(success),
                prefixed(failure),
            )
        except EtcdError as error:
            said.append((error.message, error.code))
            continue
        said.append((result.succeeded, relative(result.revision)))
        said.extend((one.kind, one.deleted, [kv_facts(kv) for kv in one.kvs]) for one in result.responses)
    end = etcd.put(prefix + "~", b"")
    watch = etcd.watch(prefix, base + 1)
    events: list[Event] = []
    while not events or events[-1].kv.key != prefix + "~":
        events.extend(next(watch).events)
    watch.close()
    said.extend((event.kind, *kv_facts(event.kv)) for event in events)
    said.extend(kv_facts(kv) for revision in range(base, end) for kv in etcd.range(prefix, revision=revision).kvs)
    return said


@pytest.mark.slow
@pytest.mark.etcd
def test_any_transactions_history_and_watch_are_the_same(real: Client) -> None:
    """Random transactions: every answer, every event and every past state agree between the two."""

    @settings(max_examples=40)
    @given(st.lists(_TXNS, max_size=6))
    def agree(txns: list[Txn]) -> None:
        prefix = f"{uuid.uuid4().hex}/"
        assert _run(FakeEtcd(), prefix, txns) == _run(real, prefix, txns)

    agree()
