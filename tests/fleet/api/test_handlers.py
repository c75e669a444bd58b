"""The HTTP API as values: what the original's own client relies on, and what a hostile one may send."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from threading import Condition
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd.client import Client
from etcd.errors import Unavailable
from etcd.fake import FakeEtcd
from fleet.api import shapes
from fleet.api.handlers import ELECTION_S, Api
from fleet.api.pages import KEPT_S, Pages
from fleet.model import codec, registry
from fleet.model.entities import Desired, Machine, Placement, UnitState
from fleet.model.registry import Registry
from tests.fleet.clusters import unit
from webserver.message import Request

A, B = "a" * 32, "b" * 32
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/sleep 1000"}]
HASH = "2d432f4a06608c1a8b2848b66c836793a1d48ce6"  # of OPTIONS; computed by the original


class World:
    """An API over a fake etcd, and the writes of an engine and of agents that a test needs."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.registry = Registry(self.etcd)
        self.api = Api(self.registry)
        self.add_machine(Machine(A, "10.77.0.11", {"disk": "ssd"}))

    def add_machine(self, machine: Machine) -> None:
        self.etcd.put(self.registry.key_machine(machine.id), codec.machine_bytes(machine))

    def place(self, name: str, machine: str = A, *, reason: str = "", everywhere: bool = False) -> None:
        order = Placement(name, machine, Desired.LAUNCHED, "text", HASH, everywhere, reason)
        self.etcd.put(self.registry.key_schedule(machine, name), codec.placement_bytes(order))

    def say(self, state: UnitState) -> None:
        self.etcd.put(self.registry.key_state(state.machine, state.name), codec.state_bytes(state))

    def __call__(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": content_type} if body is not None else {}
        response = self.api.handle(Request(method, path, headers, raw))
        return response.status, json.loads(response.body) if response.body else None

    def get(self, path: str) -> Any:
        status, body = self("GET", path)
        assert status == 200, body
        return body


@pytest.fixture
def world() -> World:
    return World()


def running(name: str = "hello.service", machine: str = A) -> UnitState:
    return UnitState(name, machine, "loaded", "active", "running", HASH, Desired.LAUNCHED)


class TestReads:
    def test_machines(self, world: World) -> None:
        world.add_machine(Machine(B))
        assert world.get("/fleet/v1/machines?alt=json") == {
            "machines": [{"id": A, "primaryIP": "10.77.0.11", "metadata": {"disk": "ssd"}}, {"id": B}]
        }

    def test_the_old_base_path(self, world: World) -> None:
        assert world.get("/v1-alpha/machines") == world.get("/fleet/v1/machines")

    def test_empty_lists_are_left_out(self, world: World) -> None:
        assert world.get("/fleet/v1/units") == {}
        assert world.get("/fleet/v1/state") == {}

    def test_a_unit_that_runs(self, world: World) -> None:
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS, "desiredState": "launched"})
        world.place("hello.service", reason="least loaded")
        world.say(running())
        unit = {
            "name": "hello.service",
            "options": OPTIONS,
            "desiredState": "launched",
            "currentState": "launched",
            "machineID": A,
            "statusReason": "least loaded",
        }
        assert world.get("/fleet/v1/units/hello.service") == unit
        assert world.get("/fleet/v1/units") == {"units": [unit]}
        state = {
            "name": "hello.service",
            "hash": HASH,
            "machineID": A,
            "systemdLoadState": "loaded",
            "systemdActiveState": "active",
            "systemdSubState": "running",
        }
        assert world.get("/fleet/v1/state/hello.service") == state
        assert world.get("/fleet/v1/state?unitName=hello.service") == {"states": [state]}
        assert world.get(f"/fleet/v1/state?machineID={A}") == {"states": [state]}
        assert world.get(f"/fleet/v1/state?machineID={B}") == {}
        assert world.get("/fleet/v1/state?unitName=other.service") == {}

    def test_states_are_sorted_by_unit_then_machine(self, world: World) -> None:
        for state in (running("b.service", B), running("b.service", A), running("a.service", B)):
            world.say(state)
        found = world.get("/fleet/v1/state")["states"]
        assert [(each["name"], each["machineID"][0]) for each in found] == [
            ("a.service", "b"),
            ("b.service", "a"),
            ("b.service", "b"),
        ]

    def test_a_global_unit(self, world: World) -> None:
        """The list says inactive, the single answer says nothing, and neither has a machine: so does the original."""
        options = [*OPTIONS, {"section": "X-Fleet", "name": "Global", "value": "true"}]
        world("PUT", "/fleet/v1/units/g.service", {"options": options, "desiredState": "launched"})
        world.place("g.service", everywhere=True)
        single = world.get("/fleet/v1/units/g.service")
        assert "currentState" not in single
        assert "machineID" not in single
        listed = world.get("/fleet/v1/units")["units"][0]
        assert listed["currentState"] == "inactive"
        assert "machineID" not in listed

    def test_why(self, world: World) -> None:
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS, "desiredState": "launched"})
        assert world.get("/fleet/v1/why/hello.service")["reason"] == "the engine has not looked at it yet"
        world.etcd.put(world.registry.key_status("hello.service"), codec.status_bytes("no machine has disk=tape"))
        assert world.get("/fleet/v1/why/hello.service") == {
            "name": "hello.service",
            "desiredState": "launched",
            "currentState": "inactive",
            "reason": "no machine has disk=tape",
        }

    def test_progress_of_many_units_at_once(self, world: World) -> None:
        world.add_machine(Machine(B))
        for name in ("a.service", "b.service", "idle.service"):
            world.registry.create_unit(unit(name))
        world.registry.create_unit(unit("g.service", "Global=true"))
        world.place("a.service", A, reason="least loaded")
        world.say(running("a.service", A))
        world.place("b.service", B)
        world.say(running("b.service", B))
        for machine in (A, B):
            world.place("g.service", machine, everywhere=True)
            world.say(running("g.service", machine))
        world.say(running("gone.service", B))  # it was destroyed, and its machine has not let go of it

        def ask(*units: tuple[str, str]) -> dict[str, Any]:
            wanted = {"units": [{"name": name, "machineID": machine} for name, machine in units], "brief": True}
            status, body = world("POST", "/fleet/v1/progress", wanted)
            assert status == 200
            return {each["name"]: each for each in body.get("units", [])}

        names = ["a.service", "b.service", "idle.service", "g.service", "gone.service", "never.service"]
        found = ask(*((name, "") for name in names))
        assert list(found) == ["a.service", "b.service", "idle.service", "g.service", "gone.service"]
        assert (found["a.service"]["machineID"], found["a.service"]["statusReason"]) == (A, "least loaded")
        assert [each["machineID"] for each in found["g.service"]["states"]] == [A, B]
        assert found["gone.service"].keys() == {"name", "states"}
        assert "options" not in found["a.service"]
        for guess in (A, B, "nonsense/../"):  # whether it is right or not
            assert ask(*((name, guess) for name in names)) == found
        assert ask() == {}

    @pytest.mark.parametrize("pairs_max", [0, 1, 1000])
    def test_progress_costs_no_more_than_reading_everything(
        self, world: World, monkeypatch: pytest.MonkeyPatch, pairs_max: int
    ) -> None:
        monkeypatch.setattr(registry, "_WIDE_MAX", pairs_max)
        world.add_machine(Machine(B))
        names = [f"{number}.service" for number in range(60)]
        for number, name in enumerate(names):
            world.place(name, (A, B)[number % 2])
            world.say(running(name, (A, B)[number % 2]))
        world.say(running(names[0], "c" * 32))  # a machine that is gone
        found = world.registry.on_machines(dict.fromkeys(names[:50], "") | {names[50]: A, names[51]: A})
        assert list(found) == names[:52]
        assert [orders[0].machine for orders, _ in found.values()] == [(A, B)[number % 2] for number in range(52)]
        assert all(len(states) == 1 for _, states in found.values())

    @pytest.mark.parametrize(
        "body",
        [{}, {"units": 1}, {"units": [1]}, {"units": [{"name": "../x"}]}, {"units": [{"name": "x.service"}] * 1001}],
    )
    def test_progress_of_nonsense(self, world: World, body: Any) -> None:
        assert world("POST", "/fleet/v1/progress", body)[0] == 400

    def test_many_machines_are_read_in_several_transactions(self, world: World) -> None:
        """etcd takes 128 operations at most; the unit is on the last machine."""
        ids = [f"{number:032x}" for number in range(130)]
        for each in ids:
            world.add_machine(Machine(each))
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS})
        world.place("hello.service", ids[-1])
        assert world.get("/fleet/v1/units/hello.service")["machineID"] == ids[-1]

    def test_discovery(self, world: World) -> None:
        assert world.get("/fleet/v1/discovery")["basePath"] == "/fleet/v1/"
        assert world("POST", "/fleet/v1/discovery")[0] == 400


class TestTrapsOfTheOriginalClient:
    def test_state_of_a_unit_that_says_nothing_yet_is_no_404(self, world: World) -> None:
        """fleetctl 1.0.0 dereferences the answer and would crash."""
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS, "desiredState": "launched"})
        assert world.get("/fleet/v1/state/hello.service")["systemdActiveState"] == "inactive"
        assert world("GET", "/fleet/v1/state/nothing.service")[0] == 404

    def test_a_replaced_text_resets_the_desired_state(self, world: World) -> None:
        """Otherwise ``--replace`` hangs; the current state is inactive only when the machine has let go."""
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS, "desiredState": "launched"})
        world.place("hello.service")
        world.say(running())
        other = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
        assert world("PUT", "/fleet/v1/units/hello.service", {"options": other}) == (201, None)
        found = world.get("/fleet/v1/units/hello.service")
        assert (found["desiredState"], found["currentState"]) == ("inactive", "loaded")
        world.etcd.delete(world.registry.key_schedule(A, "hello.service"))
        assert world.get("/fleet/v1/units/hello.service")["currentState"] == "loaded"
        world.etcd.delete(world.registry.key_state(A, "hello.service"))
        assert world.get("/fleet/v1/units/hello.service")["currentState"] == "inactive"

    def test_at_signs_come_percent_encoded(self, world: World) -> None:
        assert world("PUT", "/fleet/v1/units/web%401.service", {"name": "web@1.service", "options": OPTIONS})[0] == 201
        assert world.get("/fleet/v1/units/web%401.service")["name"] == "web@1.service"


class TestPut:
    PATH = "/fleet/v1/units/hello.service"

    def test_create_change_and_delete(self, world: World) -> None:
        assert world("PUT", self.PATH, {"name": "hello.service", "options": OPTIONS}) == (201, None)
        assert world.get(self.PATH)["desiredState"] == "inactive"
        assert world("PUT", self.PATH, {"desiredState": "loaded"}) == (204, None)
        assert world("PUT", self.PATH, {"options": OPTIONS, "desiredState": "launched"}) == (204, None)
        assert world.get(self.PATH)["desiredState"] == "launched"
        assert world("DELETE", self.PATH) == (204, None)
        assert world("DELETE", self.PATH)[0] == 404
        assert world("GET", self.PATH) == (
            404,
            {
                "error": {
                    "code": 404,
                    "message": "unit does not exist",
                    "hint": "see the names with: fleetctl list-unit-files",
                }
            },
        )

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            (PATH, {"desiredState": "launched"}, 409),  # new, without options
            (PATH, {"options": []}, 409),
            (PATH, b"{", 400),
            (PATH, b"[" * 100_000, 400),
            (PATH, b"[]", 400),
            (PATH, b'{"options": 5}', 400),
            (PATH, b'{"options": ["x"]}', 400),
            (PATH, b'{"options": [{"section": 1}]}', 400),
            (PATH, {"name": "other.service", "options": OPTIONS}, 400),
            (PATH, {"options": OPTIONS, "desiredState": "running"}, 400),
            (PATH, {"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true\nUser=root"}]}, 400),
            (PATH, {"options": [{"section": "S]", "name": "a", "value": "b"}]}, 400),
            (PATH, {"options": [*OPTIONS, {"section": "X-Fleet", "name": "Conflict", "value": "x"}]}, 400),
            ("/fleet/v1/units/web@.service", {"options": OPTIONS, "desiredState": "launched"}, 400),
            ("/fleet/v1/units/..%2Fx.service", {"options": OPTIONS}, 400),
            ("/fleet/v1/units/..%2F..%2Fetc%2Fx.service", {"options": OPTIONS}, 400),
            ("/fleet/v1/units/x%00.service", {"options": OPTIONS}, 400),
            ("/fleet/v1/units/x", {"options": OPTIONS}, 400),
            ("/fleet/v1/units/" + "x" * 300 + ".service", {"options": OPTIONS}, 400),
            ("/fleet/v1/units/a/b.service", {"options": OPTIONS}, 404),
        ],
    )
    def test_refused(self, world: World, path: str, body: Any, status: int) -> None:
        answered, answer = world("PUT", path, body)
        assert answered == status
        assert answer["error"]["code"] == status
        assert answer["error"]["message"]
        assert world.registry.units() == []

    def test_existing_without_a_desired_state(self, world: World) -> None:
        world("PUT", self.PATH, {"options": OPTIONS})
        assert world("PUT", self.PATH, {"options": OPTIONS})[0] == 409
        assert world("PUT", self.PATH, {})[0] == 409

    def test_a_template_cannot_be_activated(self, world: World) -> None:
        assert world("PUT", "/fleet/v1/units/web@.service", {"options": OPTIONS})[0] == 201
        assert world("PUT", "/fleet/v1/units/web@.service", {"desiredState": "launched"})[0] == 400

    @pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
    def test_another_content_type(self, world: World, content_type: str) -> None:
        assert world("PUT", self.PATH, {"options": OPTIONS}, content_type)[0] == 415

    def test_a_content_type_with_parameters(self, world: World) -> None:
        assert world("PUT", self.PATH, {"options": OPTIONS}, "Application/JSON; charset=utf-8")[0] == 201


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 405),
            ("GET", "/fleet/v1", 405),
            ("GET", "/fleet/v1/", 405),
            ("GET", "/fleet/v1/nothing", 404),
            ("GET", "/fleet", 404),
            ("POST", "/fleet/v1/units", 405),
            ("DELETE", "/fleet/v1/machines", 405),
            ("PUT", "/fleet/v1/state/x.service", 405),
            ("GET", "/fleet/v1/units/..%2Fx.service", 400),
            ("DELETE", "/fleet/v1/units/..%2Fx.service", 400),
            ("GET", "/fleet/v1/state?" + "&".join("a=b" for _ in range(100)), 400),
            ("GET", "/fleet/v1/state?unitName=a&unitName=b", 400),
            ("GET", "http://[/fleet/v1/units", 400),
            ("BREW", "//[", 400),
        ],
    )
    def test_status(self, world: World, method: str, path: str, status: int) -> None:
        answered, answer = world(method, path)
        assert answered == status
        assert answer["error"]["code"] == status

    def test_the_verbs_that_would_do(self, world: World) -> None:
        response = world.api.handle(Request("POST", "/fleet/v1/units/x.service"))
        assert response.headers == {"Allow": "DELETE, GET, PUT"}

    def test_without_etcd_everything_is_503(self, world: World) -> None:
        world.etcd.reachable = False
        for path in ("/fleet/v1/machines", "/fleet/v1/units", "/fleet/v1/units/x.service", "/fleet/v1/state"):
            status, answer = world("GET", path)
            assert status == 503
            assert answer["error"]["message"] == "fleet server unable to communicate with etcd"

    @pytest.mark.parametrize(("patience_s", "waits"), [(60, True), (0, False)])
    @pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 201), ("DELETE", 204)])
    def test_an_election_is_waited_for(
        self, monkeypatch: pytest.MonkeyPatch, world: World, method: str, status: int, patience_s: float, waits: bool
    ) -> None:
        if method != "PUT":
            world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS})
        electing = iter([Unavailable("leader changed", reached=True)])
        reach = world.etcd._reach

        def reach_a_leader() -> Condition:
            for trouble in electing:
                raise trouble
            return reach()

        monkeypatch.setattr(world.etcd, "_reach", reach_a_leader)
        world.api = Api(world.registry, patience_s=patience_s)
        answered, _ = world(method, "/fleet/v1/units/hello.service", {"options": OPTIONS} if method == "PUT" else None)
        assert answered == (status if waits else 503)

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_a_write_that_was_lost_is_not_sent_again(self, world: World, method: str) -> None:
        body = {"options": OPTIONS} if method == "PUT" else None
        if method == "DELETE":
            world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS})
        world.etcd.lose_reply()
        before = time.monotonic()
        answered, _ = world(method, "/fleet/v1/units/hello.service", body)
        assert answered == 503
        assert time.monotonic() - before < ELECTION_S / 2
        assert (world.registry.unit("hello.service") is None) == (method == "DELETE"), "it was done all the same"

    @pytest.mark.slow
    @pytest.mark.etcd
    def test_the_leader_is_killed(self, make_etcd: Callable[[], Any]) -> None:
        """Three real members; a request that comes while they have no leader is answered by the next one."""
        members = {name: make_etcd() for name in ("one", "two", "three")}
        initial = ",".join(f"{name}={member.peer}" for name, member in members.items())
        for name, member in members.items():
            member.start(f"--name={name}", f"--initial-cluster={initial}", "--election-timeout=2000")
        for member in members.values():
            member.wait_healthy()
        clients = {name: Client([member.endpoint]) for name, member in members.items()}
        leader = next(name for name, client in clients.items() if client.status().leader == client.status().member_id)
        survivor = next(name for name in members if name != leader)
        Registry(clients[survivor]).create_unit(unit("hello.service"))
        # Far less than an election takes, so that one request cannot wait for it; and that is long enough to ask within
        # it on a busy machine.
        registry = Registry(Client([members[survivor].endpoint], timeout=0.1))
        members[leader].kill()
        with pytest.raises(Unavailable) as trouble:
            registry.unit("hello.service")
        assert (trouble.value.reached, trouble.value.maybe_applied) == (True, False)
        assert Api(registry).handle(Request("GET", "/fleet/v1/units/hello.service")).status == 200

    def test_a_broken_value_in_etcd_is_skipped(self, world: World) -> None:
        world("PUT", "/fleet/v1/units/hello.service", {"options": OPTIONS})
        world.etcd.put(world.registry.key_unit("broken.service"), b"\xff")
        world.etcd.put(world.registry.key_state(A, "hello.service"), b"{}")
        assert [each["name"] for each in world.get("/fleet/v1/units")["units"]] == ["hello.service"]
        assert world.get("/fleet/v1/units/hello.service")["currentState"] == "inactive"

    @pytest.mark.slow
    @given(
        method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "PATCH", "POST", "BREW"]),
        path=st.one_of(
            st.text(max_size=60),
            st.text("/[]:@%?#&=.a", max_size=20),
            st.sampled_from(["/fleet/v1/progress", "/fleet/v1/ask"]),
            st.builds(
                "/fleet/v1/{}/{}".format,
                st.sampled_from(["units", "state", "why", "machines", "discovery", "progress"]),
                st.text(max_size=30),
            ),
        ),
        body=st.one_of(
            st.binary(max_size=60),
            st.recursive(
                st.one_of(st.none(), st.integers(), st.text(max_size=5)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3),
                    st.dictionaries(
                        st.sampled_from(["name", "options", "desiredState", "section", "value", "op", "path", "units"]),
                        inner,
                    ),
                ),
            ).map(lambda value: json.dumps(value).encode()),
        ),
    )
    @settings(max_examples=200, deadline=None)
    def test_any_request_gets_an_answer(self, method: str, path: str, body: bytes) -> None:
        response = World().api.handle(Request(method, path, {"content-type": "application/json"}, body))
        assert response.status in (200, 201, 204, 400, 404, 405, 409, 415)


class TestMany:
    """``POST /ask``: many at once, all or none."""

    def post(self, world: World, *units: dict[str, Any]) -> tuple[int, Any]:
        status, body = world("POST", "/fleet/v1/ask", {"units": list(units)})
        return status, body and body["error"]["message"]

    def desired(self, world: World) -> dict[str, str]:
        return {each.name: each.desired.value for each in world.registry.units()}

    def test_create_replace_and_change(self, world: World) -> None:
        a, b = "a.service", "b.service"
        new = {"name": a, "options": OPTIONS, "desiredState": "launched"}
        assert self.post(world, new, {**new, "name": b, "desiredState": "inactive"}) == (204, None)
        assert self.desired(world) == {a: "launched", b: "inactive"}
        other = [{**OPTIONS[0], "value": "/bin/other"}]
        assert self.post(world, {**new, "desiredState": "loaded"}, {**new, "name": b, "options": other}) == (204, None)
        assert self.desired(world) == {a: "loaded", b: "launched"}
        assert [each.unitfile.get("Service", "ExecStart") for each in world.registry.units()] == [
            ("/bin/sleep 1000",),
            ("/bin/other",),
        ]
        assert self.post(world, {"name": a, "desiredState": "launched"}) == (204, None)
        assert self.desired(world)[a] == "launched"
        before = world.etcd.store.revision
        assert self.post(world, {"name": a, "desiredState": "launched"}, {**new, "name": b, "options": other}) == (
            204,
            None,
        )
        assert world.etcd.store.revision == before, "all is as it is wanted: nothing is written"
        assert self.post(world) == (204, None)

    @pytest.mark.parametrize(
        ("bad", "status", "part"),
        [
            ({"name": "bad.service", "desiredState": "launched"}, 404, "unit does not exist"),
            ({"name": "../bad", "options": OPTIONS, "desiredState": "launched"}, 400, "bad"),
            ({"name": "bad.service", "options": OPTIONS}, 400, "bad.service: desiredState is empty"),
            ({"name": "bad.service", "options": OPTIONS, "desiredState": "up"}, 400, "bad.service: desiredState 'up'"),
            ({"name": "bad.service", "options": [1], "desiredState": "loaded"}, 400, "bad.service: an option"),
            ({"name": "good.service", "options": OPTIONS, "desiredState": "loaded"}, 400, "good.service"),
            ({"name": "bad@.service", "options": OPTIONS, "desiredState": "launched"}, 400, "bad@.service: "),
            (
                {
                    "name": "bad.service",
                    "options": [*OPTIONS, {"section": "X-Fleet", "name": "Nonsense", "value": "1"}],
                    "desiredState": "launched",
                },
                400,
                "bad.service: ",
            ),
        ],
    )
    def test_one_that_is_wrong_changes_nothing_and_is_named(
        self, world: World, bad: dict[str, Any], status: int, part: str
    ) -> None:
        good = {"name": "good.service", "options": OPTIONS, "desiredState": "launched"}
        answer = self.post(world, good, bad)
        assert answer[0] == status
        assert part in answer[1]
        assert self.desired(world) == {}

    @pytest.mark.parametrize("body", [{}, [], {"units": 1}, {"units": [1]}, {"units": [{}] * 101}])
    def test_nonsense(self, world: World, body: Any) -> None:
        assert world("POST", "/fleet/v1/ask", body)[0] == 400

    def test_somebody_else_changes_one_meanwhile(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is read again, and what the other one wrote is not lost."""
        world.registry.create_unit(unit("a.service", desired=Desired.INACTIVE))
        other = Registry(world.etcd.connect())
        txn = world.etcd.txn
        meanwhile = [lambda: other.create_unit(unit("a.service", run="/bin/other"), replace=True)]

        def late(compare: Any, then: Any, *rest: Any) -> Any:
            if compare and meanwhile:
                meanwhile.pop()()
            return txn(compare, then, *rest)

        monkeypatch.setattr(world.etcd, "txn", late)
        assert self.post(world, {"name": "a.service", "desiredState": "loaded"}) == (204, None)
        (found,) = world.registry.units()
        assert found.desired is Desired.LOADED
        assert found.unitfile.get("Service", "ExecStart") == ("/bin/other",)


class TestMetadata:
    """``PATCH /machines``, as the original has it."""

    def metadata(self, world: World) -> Any:
        (machine,) = world.get("/fleet/v1/machines")["machines"]
        return machine.get("metadata", {})

    def patch(self, world: World, *operations: object) -> int:
        return world("PATCH", "/fleet/v1/machines", list(operations))[0]

    def test_add_replace_and_remove(self, world: World) -> None:
        assert self.patch(world, {"op": "add", "path": f"/{A}/metadata/zone", "value": "x"}) == 204
        assert self.metadata(world) == {"disk": "ssd", "zone": "x"}
        assert self.patch(world, {"op": "replace", "path": f"/{A}/metadata/disk", "value": "hdd"}) == 204
        assert self.metadata(world) == {"disk": "hdd", "zone": "x"}
        removals = [{"op": "remove", "path": f"/{A}/metadata/{key}"} for key in ("disk", "zone", "none")]
        assert self.patch(world, *removals) == 204
        assert self.metadata(world) == {}

    def test_the_value_as_the_originals_code_wants_it(self, world: World) -> None:
        assert self.patch(world, {"op": "add", "path": f"/{A}/metadata/zone", "value": {"value": " x "}}) == 204
        assert self.metadata(world)["zone"] == "x"

    def test_the_last_of_two_changes_counts(self, world: World) -> None:
        path = f"/{A}/metadata/zone"
        assert self.patch(world, {"op": "remove", "path": path}, {"op": "add", "path": path, "value": "x"}) == 204
        assert self.metadata(world)["zone"] == "x"

    def test_it_outlives_the_machine(self, world: World) -> None:
        self.patch(world, {"op": "add", "path": f"/{A}/metadata/disk", "value": "hdd"})
        world.etcd.delete(world.registry.key_machine(A))
        assert world.get("/fleet/v1/machines") == {}
        world.add_machine(Machine(A, "10.77.0.11", {"disk": "ssd"}))
        assert self.metadata(world) == {"disk": "hdd"}

    @pytest.mark.parametrize(
        "operation",
        [
            {"op": "copy", "path": f"/{A}/metadata/x", "value": "y"},
            {"path": f"/{A}/metadata/x", "value": "y"},
            {"op": "add", "path": f"/{A}/metadata/x"},
            {"op": "add", "path": f"/{A}/metadata/x", "value": " "},
            {"op": "add", "path": f"/{A}/metadata/x", "value": 3},
            {"op": "add", "path": f"/{A}/metadata/x", "value": "a\nb"},
            {"op": "add", "path": f"/{A}/metadata/x", "value": "\ud800"},
            {"op": "add", "path": f"/{A}/metadata/x", "value": "x" * 1025},
            {"op": "add", "path": f"/{A}/metadata/", "value": "y"},
            {"op": "add", "path": f"/{A}/metadata/a/b", "value": "y"},
            {"op": "add", "path": f"/{A}/ip", "value": "y"},
            {"op": "add", "path": "/metadata/x", "value": "y"},
            3,
        ],
    )
    def test_one_bad_operation_changes_nothing(self, world: World, operation: object) -> None:
        before = world.etcd.store.revision
        assert self.patch(world, {"op": "add", "path": f"/{A}/metadata/good", "value": "y"}, operation) == 400
        assert world.etcd.store.revision == before

    @pytest.mark.parametrize("body", [b"", b"{", b"{}", b"3"])
    def test_bad_bodies(self, world: World, body: bytes) -> None:
        assert world("PATCH", "/fleet/v1/machines", body)[0] == 400

    def test_too_much_and_of_another_type(self, world: World) -> None:
        many = [{"op": "remove", "path": f"/{A}/metadata/k{number}"} for number in range(101)]
        assert self.patch(world, *many) == 400
        assert self.patch(world, *many[:100]) == 204
        assert world("PATCH", "/fleet/v1/machines", [], content_type="text/plain")[0] == 415


class TestPages:
    def test_two_pages(self, world: World) -> None:
        names = [f"u{number:03}.service" for number in range(150)]
        for name in names:
            world("PUT", f"/fleet/v1/units/{name}", {"options": OPTIONS})
        first = world.get("/fleet/v1/units")
        second = world.get(f"/fleet/v1/units?nextPageToken={first['nextPageToken']}")
        assert [each["name"] for each in first["units"] + second["units"]] == names
        assert "nextPageToken" not in second

    @given(rows=st.integers(0, 1000))
    def test_pages_hold_all_rows_once_and_the_last_is_not_empty(self, rows: int) -> None:
        """The original offers one more, empty page when the rows fill the last one exactly."""
        found: list[bytes] = []
        token, pages = "", 0
        kept, readings = Pages(), iter([[str(number).encode() for number in range(rows)]])
        while pages == 0 or token:
            some, token = kept.page("list", token, lambda: next(readings))
            found.extend(some)
            pages += 1
        assert found == [str(number).encode() for number in range(rows)], "it was read once"
        assert pages == max(1, -(-rows // shapes.PAGE_ROWS))
        assert not kept._kept

    def test_a_list_that_changes_is_returned_as_it_was(self, world: World) -> None:
        for number in range(150):
            world("PUT", f"/fleet/v1/units/u{number:03}.service", {"options": OPTIONS})
        first = world.get("/fleet/v1/units")
        world("DELETE", "/fleet/v1/units/u000.service")
        other = world.get("/fleet/v1/units")
        second = world.get(f"/fleet/v1/units?nextPageToken={first['nextPageToken']}")
        assert second["units"][0]["name"] == "u100.service"
        last = world.get(f"/fleet/v1/units?nextPageToken={other['nextPageToken']}")
        assert last["units"][0]["name"] == "u101.service"

    def test_a_token_is_of_one_list(self, world: World) -> None:
        for number in range(150):
            world("PUT", f"/fleet/v1/units/u{number:03}.service", {"options": OPTIONS})
            world.say(UnitState(f"u{number:03}.service", A))
        token = world.get("/fleet/v1/units")["nextPageToken"]
        states = world.get(f"/fleet/v1/state?nextPageToken={token}")["states"]
        assert [each["name"] for each in states] == [f"u{number:03}.service" for number in range(100, 150)]

    def test_few_readings_are_kept_and_not_for_long(self) -> None:
        now = 0.0
        kept = Pages(clock=lambda: now)
        readings: list[str] = []

        def page(name: str, token: str = "") -> str:
            def read() -> list[bytes]:
                readings.append(name)
                return [b"{}"] * 250

            return kept.page(name, token, read)[1]

        tokens = {name: page(name) for name in "abcde"}
        assert page("e", tokens["e"])
        assert page("b", tokens["b"])
        assert readings == list("abcde")
        assert page("a", tokens["a"]), "read again: four others were requested since"
        assert readings == list("abcdea")
        now = KEPT_S + 1
        assert page("d", tokens["d"])
        assert readings == list("abcdead")
        assert len(kept._kept) == 1

    @pytest.mark.parametrize("token", ["x", "AAAA", "AAAAAA==", "ZAAB", "%20", "ZAABAAAA", "é"])
    def test_a_bad_token(self, world: World, token: str) -> None:
        assert world("GET", f"/fleet/v1/machines?nextPageToken={token}")[0] == 400
