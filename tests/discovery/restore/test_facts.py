"""Which source is the best, when nothing may be restored, and what a token stands for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.backup.shelf import Backup
from discovery.restore.command import as_json, text
from discovery.restore.facts import DATA, Facts, Survivor, chosen, require_lost, sources, token
from discovery.restore.survey import listed_in
from terminal import Failure

HERE = Survivor("one", "http://10.0.0.1:2379", 100, 50, is_here=True)
GONE = Survivor("two", "http://10.0.0.2:2379")
OLD = Backup(1_700_000_000, revision=40, keys=3, raft_index=80, hash=7, size=1 << 20)
NEW = Backup(1_700_003_600, revision=45, keys=4, raft_index=90, hash=8, size=1 << 20)


def test_the_latest_revision_is_the_best() -> None:
    assert [each.name for each in sources(Facts((HERE, GONE), (NEW, OLD)))] == [DATA, NEW.name, OLD.name]
    assert chosen(Facts((HERE, GONE), (NEW, OLD))).name == DATA
    behind = HERE._replace(revision=42)
    assert chosen(Facts((behind, GONE), (NEW, OLD))).name == NEW.name, "its disk lost something"
    same = HERE._replace(revision=45)
    assert chosen(Facts((same, GONE), (NEW, OLD))).name == DATA


def test_without_data_a_backup_and_without_both_nothing() -> None:
    silent = Survivor("one", "http://10.0.0.1:2379", is_here=True)
    assert chosen(Facts((silent, GONE), (NEW, OLD), "no data")).name == NEW.name
    assert chosen(Facts((HERE, GONE), (OLD,), "damaged")).name == OLD.name
    with pytest.raises(Failure, match="nothing to restore"):
        chosen(Facts((silent, GONE), (), "no data"))


def test_a_source_by_its_name() -> None:
    facts = Facts((HERE, GONE), (NEW, OLD))
    assert chosen(facts, OLD.name).backup == OLD
    with pytest.raises(Failure, match="no such source") as caught:
        chosen(facts, "else")
    assert OLD.name in (caught.value.hint or "")


def test_a_survivor_that_has_more_is_named() -> None:
    ahead = Survivor("three", "http://10.0.0.3:2379", 105, 51)
    for facts in (Facts((HERE, ahead), ()), Facts((HERE, ahead._replace(revision=50)), (NEW,))):
        with pytest.raises(Failure, match="three has more than this node") as caught:
            chosen(facts)
        assert "--from data" in (caught.value.hint or "")
        assert chosen(facts, DATA).name == DATA, "a person may know better"


def test_a_living_quorum_is_left_alone() -> None:
    require_lost(Facts((HERE, GONE), ()))
    with pytest.raises(Failure, match="has a quorum") as caught:
        require_lost(Facts((HERE, GONE._replace(has_quorum=True)), ()))
    assert caught.value.where == "two"


def test_a_token_is_of_one_source_and_one_state() -> None:
    facts = Facts((HERE, GONE), (NEW, OLD))
    tokens = {token(facts, each) for each in sources(facts)}
    assert len(tokens) == 3
    assert token(facts, chosen(facts)) == token(Facts((GONE, HERE), (NEW,)), chosen(facts)), "the order is no matter"
    moved = Facts((HERE._replace(raft_index=101), GONE), (NEW, OLD))
    assert token(moved, chosen(moved)) not in tokens
    back = Facts((HERE, GONE._replace(revision=50, raft_index=100)), (NEW, OLD))
    assert token(back, sources(back)[0]) not in tokens


def test_what_is_printed_has_index_revision_and_age() -> None:
    shown = text(Facts((HERE, GONE), (NEW, OLD)), now=NEW.taken + 120)
    one, two = (line for line in shown.splitlines() if line.startswith(("one", "two")))
    assert one.split() == ["one", "(this", "node)", "alone", "100", "50", HERE.url]
    assert two.split() == ["two", "no", "answer", "-", "-", GONE.url]
    assert "2 min" in shown
    assert NEW.name in shown
    found = json.loads(json.dumps(as_json(Facts((HERE, GONE), (NEW,)))))
    assert set(found["tokens"]) == {DATA, NEW.name}
    assert found["survivors"][0]["raft_index"] == 100


@given(st.binary())
def test_any_answer_is_a_list_of_members_or_none(body: bytes) -> None:
    assert isinstance(listed_in(body), tuple)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.sampled_from(["id", "name", "peerURLs", "clientURLs"]), each),
    )
)
def test_any_json_is_a_list_of_members_or_none(value: object) -> None:
    assert isinstance(listed_in(json.dumps(value).encode()), tuple)


def test_the_answer_of_a_port_for_peers() -> None:
    body = (
        b'[{"id":5,"peerURLs":["http://a:2380"],"name":"a","clientURLs":["http://a:2379"]},{"id":6,"peerURLs":["x"]}]'
    )
    one, two = listed_in(body)
    assert (one.id, one.name, one.client_urls) == (5, "a", ("http://a:2379",))
    assert (two.name, two.client_urls) == ("", ())
