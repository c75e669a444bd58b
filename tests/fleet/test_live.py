"""The view that a fleetd shares: fed by any batches it is what a fresh read gives, and an answer from it is not old."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd.errors import Unavailable
from etcd.fake import FakeEtcd
from fleet.api.handlers import Api
from fleet.api.seen import all_seen, look_at
from fleet.engine.engine import Engine
from fleet.model import codec
from fleet.model.entities import Desired, Machine, Placement, UnitState
from fleet.model.live import ASKED, KEPT_S, Live
from fleet.model.overview import Overview
from fleet.model.registry import Registry
from tests.eventually import eventually
from tests.fleet.clusters import unit
from tests.fleet.world import Follower, World
from webserver.message import Request

NAMES = ("a.service", "b.service", "g.service")
HOSTS = ("m1", "m2")


def _changes(registry: Registry) -> st.SearchStrategy[tuple[str, bytes | None]]:
    """A key and its new value, or ``None`` when it is deleted; some values are broken."""
    name, host = st.sampled_from(NAMES), st.sampled_from(HOSTS)
    desired = st.sampled_from(Desired)

    def keyed(
        key: st.SearchStrategy[str], value: st.SearchStrategy[bytes]
    ) -> st.SearchStrategy[tuple[str, bytes | None]]:
        return st.tuples(key, st.one_of(value, st.none(), st.sampled_from([b"", b"{}", b'{"v": 2}'])))

    def placed(pair: tuple[str, str, Desired]) -> tuple[str, bytes | None]:
        machine, each, wanted = pair
        order = Placement(each, machine, wanted, "[S]\na=1\n", "0", everywhere=each == "g.service", reason="why")
        return registry.key_schedule(machine, each), codec.placement_bytes(order)

    def said(pair: tuple[str, str, Desired]) -> tuple[str, bytes | None]:
        machine, each, reached = pair
        return registry.key_state(machine, each), codec.state_bytes(UnitState(each, machine, "loaded", reached=reached))

    def wanted(pair: tuple[str, Desired, int]) -> tuple[str, bytes | None]:
        each, desired, number = pair
        fleet = "Global=true" if each == "g.service" else ""
        return registry.key_unit(each), codec.unit_bytes(unit(each, fleet, desired, f"/bin/{number}"))

    triples = st.tuples(host, name, desired)
    return st.one_of(
        keyed(host.map(registry.key_machine), host.map(lambda each: codec.machine_bytes(Machine(each, "10.0.0.1")))),
        st.tuples(name, desired, st.integers(0, 2)).map(wanted),
        triples.map(placed),
        triples.map(said),
        keyed(st.tuples(host, name).map(lambda pair: registry.key_schedule(*pair)), st.just(b"1")),
        keyed(st.tuples(host, name).map(lambda pair: registry.key_state(*pair)), st.just(b"1")),
        keyed(name.map(registry.key_unit), st.just(b"[]")),
        keyed(name.map(registry.key_status), st.just(codec.status_bytes("no machine"))),
        keyed(host.map(lambda each: f"{registry.prefix}metadata/{each}/k"), st.just(b"1")),
        keyed(st.sampled_from([registry.key_leader, registry.key_standby(0)]), st.just(codec.leader_bytes("m1"))),
    )


def _facts(view: Overview) -> dict[str, object]:
    # What was last read of a unit that is broken now is kept; a fresh read cannot know it.
    units = {name: each for name, each in view.units.items() if name not in view.unreadable}
    same = ("alive", "unreadable", "machines", "placements", "states", "reasons", "posts", "revision")
    return {name: getattr(view, name) for name in same} | {"units": units}


_PREFIXED = Registry(FakeEtcd())


@given(st.lists(st.lists(_changes(_PREFIXED), min_size=1, max_size=4), max_size=12), st.integers(0, 12))
def test_a_view_fed_by_any_batches_is_a_fresh_read(
    batches: list[list[tuple[str, bytes | None]]], read_after: int
) -> None:
    registry = Registry(FakeEtcd())
    live = Live(registry)
    for _ in range(ASKED):
        live._ask()
    engine = Engine(registry, "m1", live=live, standbys=0)
    registry.client.put(registry.key_leader, codec.leader_bytes("m2"))
    follower = Follower(registry.client, engine)  # type: ignore[arg-type]
    for number, batch in enumerate(batches):
        if number >= read_after:
            engine.step(0.0)
            follower.pump()
        for key, value in batch:
            if key == registry.key_leader:
                continue  # it would be led by this engine
            registry.client.delete(key) if value is None else registry.client.put(key, value)
    for _ in range(3):
        engine.step(10.0)
        follower.pump()
    fresh = registry.overview()
    with live.reading() as view:
        assert view is not None
        assert _facts(view) == _facts(fresh)
        assert list(all_seen(view)) == list(all_seen(fresh)) or view.unreadable
        if any(not each.text for each in view.placements.values()):
            return  # a broken order, which a view shows and a look at one unit does not
        for believed in ("", "m1", "m2"):
            names = dict.fromkeys(NAMES, believed)
            assert look_at(view, names) == look_at(registry, names)


class TestFreshness:
    """A reader waits for what was written before."""

    @pytest.fixture
    def registry(self) -> Registry:
        return Registry(FakeEtcd())

    @pytest.fixture
    def live(self, registry: Registry) -> Live:
        live = Live(registry)
        live.show(registry.overview())
        return live

    def test_it_waits_for_what_was_written_here(self, registry: Registry, live: Live) -> None:
        registry.create_unit(unit("a.service"))
        later = registry.overview()

        def catch_up() -> None:
            with live.changing():
                assert live._view is not None
                live._view.units.update(later.units)
                live._view.revision = later.revision

        catching = threading.Timer(0.3, catch_up)  # more than the silence that would do for a key of others
        catching.start()
        with live.reading() as view:
            assert view is not None
            assert list(view.units) == ["a.service"]
        catching.join()

    def test_a_view_that_does_not_catch_up_is_not_used(self, registry: Registry, live: Live) -> None:
        registry.create_unit(unit("a.service"))
        with live.reading() as view:
            assert view is None

    def test_keys_of_others_are_not_waited_for(self, registry: Registry, live: Live) -> None:
        registry.client.put("/other", b"")
        with live.reading() as view:
            assert view is not None

    def test_without_etcd_there_is_no_answer(self, registry: Registry, live: Live) -> None:
        assert isinstance(registry.client, FakeEtcd)
        registry.client.reachable = False
        with pytest.raises(Unavailable), live.reading():
            pass
        assert Api(registry, live, patience_s=0).handle(Request("GET", "/fleet/v1/units")).status == 503


class TestUse:
    """Who has a view, and what its API reads then."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = World(tmp_path, *"abcdef")
        for number in range(5):
            world.submit(f"{number}.service")
        world.run(5)
        return world

    def lists(self, world: World, node: str) -> Iterator[tuple[object, int]]:
        """Answers of this node's API, and how often its engine has read everything then."""
        api = Api(world.nodes[node].registry, world.nodes[node].live)
        for path in ("units", "state", "units/1.service", "why/1.service", "machines", "state?unitName=1.service"):
            answer = api.handle(Request("GET", f"/fleet/v1/{path}"))
            yield (path, json.loads(answer.body)), world.nodes[node].client.readings

    def test_all_give_the_same_answers(self, world: World) -> None:
        answers = [[each for each, _ in self.lists(world, node)] for node in world.nodes]
        world.run(1)
        answers += [[each for each, _ in self.lists(world, node)] for node in world.nodes]
        assert all(each == answers[0] for each in answers)

    def test_a_leader_reads_nothing_for_a_list(self, world: World) -> None:
        leader = world.leader()
        readings = leader.client.readings
        assert {count for _, count in self.lists(world, leader.id)} == {readings}

    def test_a_follower_keeps_a_view_while_it_is_in_use(self, world: World) -> None:
        cold = next(each for each, node in world.nodes.items() if not node.client.readings)
        node = world.nodes[cold]
        assert node.engine is not None
        list(self.lists(world, cold))
        world.run(1)
        assert node.live._view is None, "two lists are not worth it"
        list(self.lists(world, cold))
        world.run(1)
        readings = node.client.readings
        list(self.lists(world, cold))
        assert node.client.readings == readings, "it has a view now"
        assert node.live._view is not None
        world.run(KEPT_S + 35)
        assert node.live._view is None
        assert node.engine.subscription is not None
        assert node.engine.subscription.prefix.endswith("engine/")


@pytest.mark.etcd
def test_an_answer_has_what_any_client_wrote_before(real_etcd: str, request: pytest.FixtureRequest) -> None:
    """Two fleetd on one etcd: written here, read there at once, for a hundred units."""
    from etcd import Client
    from fleet.engine.leadership import Leadership

    apis = []
    failures: list[BaseException] = []
    lives = []
    for name in "ab":
        client = Client([real_etcd])
        request.addfinalizer(client.close)
        registry = Registry(client, "/test-live/")
        lives.append(Live(registry))
        apis.append(Api(registry, lives[-1]))
        leadership = Leadership(registry, name, ttl_s=5, agent_ttl_s=30, live=lives[-1])
        leadership.start(failures.append)
        request.addfinalizer(leadership.stop)
    eventually(lambda: all(each._view is not None for each in lives), "one leads, one stands by", 20)
    options = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
    for number in range(100):
        body = json.dumps({"desiredState": "inactive", "options": options}).encode()
        here, there = apis[number % 2], apis[(number + 1) % 2]
        put = Request("PUT", f"/fleet/v1/units/{number}.service", {"content-type": "application/json"}, body)
        assert here.handle(put).status == 201
        assert there.handle(Request("GET", f"/fleet/v1/units/{number}.service")).status == 200
        assert here.handle(Request("GET", f"/fleet/v1/why/{number}.service")).status == 200
    assert not failures
