"""``GET /events``: what clients are shown, what they wait for, and what hostile ones may send."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd.fake import FakeEtcd
from fleet.api.events import FOLLOWERS_MAX
from fleet.api.handlers import Api
from fleet.model.entities import Desired
from fleet.model.events import Event, Kind
from fleet.model.registry import Registry
from tests.eventually import eventually
from tests.fleet.clusters import unit
from webserver.message import Request

PATH = "/fleet/v1/events"


class World:
    """An API over a fake etcd."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.registry = Registry(self.etcd)
        self.api = Api(self.registry)

    def write(self, *events: Event, at: float = 1000.0) -> None:
        self.registry.log.clock = lambda: at
        self.registry.client.txn([], [self.registry.log.put(events, "fleetd a")])

    def __call__(self, query: str = "") -> tuple[int, Any]:
        response = self.api.handle(Request("GET", PATH + query))
        return response.status, json.loads(response.body)

    def rows(self, query: str = "") -> list[str]:
        status, body = self(query)
        assert status == 200, body
        return [each.get("reason", each["kind"]) for each in body.get("events", [])]

    def beside(self, query: str) -> Callable[[], Any]:
        """The answer to a request that waits, once it is there."""
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(self(query)[1]), daemon=True)
        thread.start()

        def joined() -> Any:
            thread.join(60)
            assert found, "no answer"
            return found[0]

        return joined


@pytest.fixture
def world() -> World:
    return World()


def test_the_shape_of_an_event(world: World) -> None:
    world.write(Event(Kind.MOVED, "x.service", "b", "a", "why"), at=1_800_000_000.5)
    revision = world.registry.revision()
    assert world()[1] == {
        "revision": revision,
        "events": [
            {
                "revision": revision,
                "time": "2027-01-15T08:00:00.500Z",
                "kind": "moved",
                "unit": "x.service",
                "machine": "b",
                "former": "a",
                "by": "fleetd a",
                "reason": "why",
            }
        ],
    }


def test_filters(world: World) -> None:
    world.write(Event(Kind.PLACED, "x.service", "abc", reason="1"), Event(Kind.PLACED, "y.service", "abd", reason="2"))
    world.write(Event(Kind.MOVED, "x.service", "abd", "abc", reason="3"), at=2000)
    assert world.rows() == ["1", "2", "3"]
    assert world.rows("?unit=x.service") == ["1", "3"]
    assert world.rows("?machine=abc") == ["1", "3"]
    assert world.rows("?machine=ab&since=1500") == ["3"]
    assert world.rows("?machine=b") == []


def test_changes_have_the_client_s_address(world: World) -> None:
    body = (
        b'{"units":[{"name":"x.service","desiredState":"launched","options":[{"section":"S","name":"a","value":"b"}]}]}'
    )
    headers = {"content-type": "application/json"}
    assert world.api.handle(Request("POST", "/fleet/v1/ask", headers, body, peer="10.0.0.7")).status == 204
    assert world.api.handle(Request("DELETE", "/fleet/v1/units/x.service")).status == 204
    found = [(each["by"], each["kind"]) for each in world()[1]["events"]]
    assert found == [("10.0.0.7", "submitted"), ("10.0.0.7", "started"), ("local", "destroyed")]


def test_who_follows_gets_what_comes_and_nothing_twice(world: World) -> None:
    world.write(Event(Kind.JOINED, reason="1"))
    after = world()[1]["revision"]
    answer = world.beside(f"?after={after}&wait=30&unit=x.service")
    eventually(lambda: world.etcd.store.watches)
    world.write(Event(Kind.FAILED, "y.service", reason="another's"))
    world.registry.create_unit(unit("x.service", desired=Desired.INACTIVE))
    found = answer()
    assert [each["kind"] for each in found["events"]] == ["submitted"]
    assert world.rows(f"?after={found['revision']}&wait=0.05") == []
    assert world.rows(f"?after={after}&wait=30") == ["another's"], "what is there already is not waited for"


def test_a_compacted_revision_is_read_from_the_keys(world: World) -> None:
    world.write(Event(Kind.JOINED, reason="1"))
    after = world()[1]["revision"]
    for number in (2, 3):
        world.write(Event(Kind.JOINED, reason=str(number)))
    world.etcd.compact(world.registry.revision())
    assert world(f"?after={after}&wait=30")[1].get("torn") is None
    assert world.rows(f"?after={after}&wait=30") == ["2", "3"]


def test_so_many_may_wait_and_no_more(world: World) -> None:
    world.write(Event(Kind.JOINED))
    after = world()[1]["revision"]
    waiting = [world.beside(f"?after={after}&wait=30") for _ in range(FOLLOWERS_MAX)]
    eventually(lambda: len(world.etcd.store.watches) == FOLLOWERS_MAX)
    status, body = world(f"?after={after}&wait=30")
    assert status == 503
    assert "16 clients" in body["error"]["message"]
    assert world()[0] == 200, "a reading is not refused"
    world.write(Event(Kind.LEFT, reason="end"))
    assert [[each["reason"] for each in answer()["events"]] for answer in waiting] == [["end"]] * FOLLOWERS_MAX
    assert world.etcd.store.watches == []
    assert world(f"?after={after}&wait=30")[0] == 200


@given(st.sampled_from(["after", "wait", "since"]), st.text(max_size=12))
def test_any_value_is_an_answer(name: str, value: str) -> None:
    status, body = World()(f"?{name}={quote(value)}")
    assert status in (200, 400)
    assert ("error" in body) is (status == 400)
