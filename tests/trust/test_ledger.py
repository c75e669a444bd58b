"""The ledger: what it says comes back, what is no ledger is refused, and nothing revoked becomes valid again."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import Failure
from trust import ledger
from trust.ledger import Foreign, Ledger, Record
from trust.secret import Secret

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
MINE = Record(
    *("1a", "fleet-client", "fleet", "kim", "reader", ()),
    *("2026-11-29T00:00:00+00:00", "2026-12-29T00:00:00+00:00", "9c"),
)

_TEXTS = st.text(max_size=4)
_FIRST, _LAST = map(datetime.datetime.fromisoformat, ("1950-01-01", "9998-12-31"))
_TIMES = st.datetimes(_FIRST, _LAST, timezones=st.just(datetime.UTC)).map(lambda one: one.isoformat())
_RECORDS = st.builds(
    Record,
    serial=st.integers(1, 2**159 - 1).map("{:x}".format),
    profile=_TEXTS,
    authority=st.sampled_from(["etcd-peers", "etcd-clients", "fleet"]),
    name=_TEXTS,
    role=st.sampled_from(["node", "reader", "operator"]),
    addresses=st.lists(_TEXTS, max_size=2).map(tuple),
    issued=_TIMES,
    not_after=_TIMES,
    fingerprint=st.integers(1, 2**256 - 1).map("{:x}".format),
    revoked=st.none() | _TIMES,
    machine=st.just("") | st.integers(0, 2**256 - 1).map("{:064x}".format),
    secret=st.just("") | st.just("3f9a2c51"),
)
_SECRETS = st.builds(
    Secret,
    id=st.integers(0, 2**32 - 1).map("{:08x}".format),
    sha256=st.integers(0, 2**256 - 1).map("{:064x}".format),
    uses=st.integers(1, 100_000),
    made=_TIMES,
    ends=_TIMES,
    names=st.lists(st.sampled_from(["node-*", "a?"])).map(tuple),
    networks=st.lists(st.ip_addresses().map(lambda one: f"{one}/{one.max_prefixlen}"), max_size=2).map(tuple),
    revoked=st.none() | _TIMES,
)
LEDGERS = st.builds(
    Ledger,
    v=st.just(ledger.VERSION),
    id=st.just("3f9a2c51"),
    issued=st.lists(_RECORDS, max_size=3, unique_by=lambda one: one.serial).map(tuple),
    secrets=st.lists(_SECRETS, max_size=2, unique_by=lambda one: one.id).map(tuple),
    foreign=st.lists(st.builds(Foreign, st.just("fleet"), st.just("1a"), _TIMES), max_size=1).map(tuple),
)


@given(LEDGERS)
def test_what_is_written_is_read(one: Ledger) -> None:
    assert ledger.parse(one.dump()) == one


@given(LEDGERS, st.data())
def test_what_is_revoked_stays_so(one: Ledger, data: st.DataObject) -> None:
    serials = data.draw(st.lists(st.sampled_from([each.serial for each in one.issued]))) if one.issued else []
    after = one.with_revoked(serials, NOW)
    before = {each.serial: each.revoked for each in one.issued}
    for each in after.issued:
        was = before[each.serial]
        expected = "2026-11-29T00:00:00+00:00" if was is None and each.serial in serials else was
        assert each.revoked == expected
    assert after.with_revoked(serials, NOW + datetime.timedelta(1)) == after


@given(st.dictionaries(st.sampled_from(["v", "id", "issued", "more"]), st.none() | st.integers() | _TEXTS | st.lists(_TEXTS, max_size=2)) | st.lists(_TEXTS))  # fmt: skip
def test_what_is_no_ledger(data: object) -> None:
    if not (isinstance(data, dict) and data.get("v") == 1 and isinstance(data.get("id"), str)):
        with pytest.raises(Failure):
            ledger.parse(json.dumps(data))


def test_a_ledger_of_before_there_were_issuers() -> None:
    record = {key: value for key, value in asdict(MINE).items() if key not in ("machine", "secret")}
    assert ledger.parse(json.dumps({"v": 1, "id": "a", "issued": [record]})) == Ledger(ledger.VERSION, "a", (MINE,))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "3F9A2C51"},
        {"sha256": "0" * 63},
        {"uses": 0},
        {"uses": True},
        {"ends": "2026-12-29"},
        {"names": ["*\n"]},
        {"networks": ["10.0.0.1/8"]},
        {"revoked": "now"},
    ],
)
def test_a_broken_secret(change: dict[str, object]) -> None:
    secret = {"id": "3f9a2c51", "sha256": "0" * 64, "uses": 1, "made": MINE.issued, "ends": MINE.not_after}
    ledger.parse(json.dumps({"v": 2, "id": "a", "secrets": [secret]}))
    for secrets in ([secret | change], [secret, secret]):
        with pytest.raises(Failure, match="not the ledger"):
            ledger.parse(json.dumps({"v": 2, "id": "a", "secrets": secrets}))


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "0" * 63},
        {"machine": "x" * 64},
        {"secret": 1},
        {"serial": ""},
        {"serial": "xyz"},
        {"serial": "A" * 99},
        {"serial": "0"},
        {"serial": f"{2**159:x}"},
        {"authority": "mine"},
        {"role": "root"},
        {"issued": "yesterday"},
        {"not_after": "2026-12-29T00:00:00"},
        {"revoked": "now"},
        {"revoked": 1},
        {"revoked": "1949-12-31T23:59:59+00:00"},
        {"revoked": "9999-12-31T23:59:59-14:00"},
        {"addresses": "10.0.0.1"},
        {"more": 1},
    ],
)
def test_a_broken_record(change: dict[str, object]) -> None:
    good = {"v": 1, "id": "a", "issued": [asdict(MINE)]}
    ledger.parse(json.dumps(good))
    with pytest.raises(Failure, match="not the ledger"):
        ledger.parse(json.dumps(good | {"issued": [asdict(MINE) | change]}))


def test_one_serial_twice_and_a_later_version() -> None:
    with pytest.raises(Failure, match="not the ledger"):
        ledger.parse(Ledger(1, "a", (MINE, MINE)).dump())
    with pytest.raises(Failure, match=r"later version of this program \(v is 3\)"):
        ledger.parse('{"v": 3, "issued": "of another shape"}')
    with pytest.raises(Failure, match="not the ledger"):
        ledger.parse(Ledger(0, "a").dump())


@pytest.mark.parametrize(
    ("day", "state"), [(0, "valid"), (19, "valid"), (21, "due"), (29, "due"), (30, "expired"), (400, "expired")]
)
def test_the_state_of_a_certificate(day: int, state: str) -> None:
    assert MINE.state(NOW + datetime.timedelta(day)) == state
    gone = Ledger(1, "a", (MINE,)).with_revoked(["1a"], NOW)
    assert gone.issued[0].state(NOW + datetime.timedelta(day)) == "revoked"


def test_a_node_and_a_user_may_have_the_same_name() -> None:
    node = Record(**asdict(MINE) | {"serial": "2b", "role": "node", "addresses": ("10.0.0.1",)})
    both = Ledger(1, "a", (MINE, node))
    assert both.of("kim", node=True) == [node]
    assert both.of("kim", node=False) == [MINE]
