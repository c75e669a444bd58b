"""The registry: what users may change, and values that cannot be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd import Compare, Op, TxnResult
from etcd.fake import FakeEtcd
from fleet.model import codec
from fleet.model.entities import Desired, Machine, Placement, Unit, UnitState, current_state
from fleet.model.registry import VALUE_MAX, Contended, NoSuchUnit, Registry, UnitExists
from fleet.model.requirements import RequirementsError
from terminal import Failure
from tests.fleet.clusters import unit
from unitfile.text import UnitFile, UnitFileError


@pytest.fixture
def registry() -> Registry:
    return Registry(FakeEtcd())


class TestUnits:
    """Creating, changing, deleting."""

    def test_create_is_create_only(self, registry: Registry) -> None:
        registry.create_unit(unit("x.service"))
        registry.create_unit(unit("x.service"))  # the same again: a lost answer may be retried
        with pytest.raises(UnitExists):
            registry.create_unit(unit("x.service", run="/bin/other"))
        registry.create_unit(unit("x.service", run="/bin/other"), replace=True)
        assert registry.unit("x.service") == unit("x.service", run="/bin/other")

    def test_set_desired(self, registry: Registry) -> None:
        registry.create_unit(unit("x.service", desired=Desired.INACTIVE))
        registry.set_desired("x.service", Desired.LAUNCHED)
        assert registry.unit("x.service") == unit("x.service")
        with pytest.raises(NoSuchUnit):
            registry.set_desired("y.service", Desired.LOADED)

    def test_a_template_is_stored_and_not_started(self, registry: Registry) -> None:
        registry.create_unit(unit("x@.service", desired=Desired.INACTIVE))
        with pytest.raises(RequirementsError, match="template"):
            registry.set_desired("x@.service", Desired.LAUNCHED)

    def test_writers_that_never_rest(self, registry: Registry) -> None:
        registry.create_unit(unit("x.service"))

        class Busy(FakeEtcd):
            def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
                if compare:
                    super().put(registry.key_unit("x.service"), codec.unit_bytes(unit("x.service")))
                return super().txn(compare, success, failure)

        assert isinstance(registry.client, FakeEtcd)
        with pytest.raises(Contended):
            Registry(Busy(registry.client.store)).set_desired("x.service", Desired.LOADED)

    def test_delete(self, registry: Registry) -> None:
        registry.create_unit(unit("x.service"))
        registry.client.put(registry.key_status("x.service"), codec.status_bytes("because"))
        assert registry.unit_status("x.service") == "because"
        registry.delete_unit("x.service")
        assert (registry.unit("x.service"), registry.unit_status("x.service")) == (None, None)
        with pytest.raises(NoSuchUnit):
            registry.delete_unit("x.service")

    def test_what_is_too_large_for_etcd_is_refused_here(self, registry: Registry) -> None:
        text = "[Service]\nExecStart=/bin/echo " + '"' * (VALUE_MAX // 2)
        with pytest.raises(UnitFileError, match="in etcd"):
            registry.create_unit(Unit.of("x.service", UnitFile.parse(text)))

    def test_states_can_be_narrowed(self, registry: Registry) -> None:
        for machine in ("a", "b"):
            registry.client.put(registry.key_machine(machine), codec.machine_bytes(Machine(machine)))
            for name in ("x.service", "y.service"):
                registry.client.put(registry.key_state(machine, name), codec.state_bytes(UnitState(name, machine)))
        assert len(registry.states()) == 4
        assert [each.name for each in registry.states("a")] == ["x.service", "y.service"]
        assert [each.machine for each in registry.states_of("y.service")] == ["a", "b"]

    def test_whose_word_a_key_is(self) -> None:
        registry = Registry(FakeEtcd())
        assert registry.speaker(registry.key_machine("a")) == registry.speaker(registry.key_state("a", "x")) == "a"
        assert registry.speaker(registry.key_schedule("a", "x")) is registry.speaker(registry.key_leader) is None

    @pytest.mark.parametrize("prefix", ["", "fleet/", "/fleet"])
    def test_a_prefix_begins_and_ends_with_a_slash(self, prefix: str) -> None:
        with pytest.raises(Failure):
            Registry(FakeEtcd(), prefix)


MACHINE = Machine("a", "10.0.0.1", {"disk": "ssd"}, "boot")
ORDER = Placement("x.service", "a", Desired.LAUNCHED, "[Service]\n", "abc", False, "because")
STATE = UnitState("x.service", "a", "loaded", "active", "running", "abc", Desired.LAUNCHED, "")


class TestCodec:
    """Values round trip; anything else is a BrokenValue and nothing worse."""

    def test_round_trips(self) -> None:
        assert codec.machine("machines/a", codec.machine_bytes(MACHINE)) == MACHINE
        assert codec.unit("units/x.service", codec.unit_bytes(unit("x.service"))) == unit("x.service")
        assert codec.placement("schedule/a/x.service", codec.placement_bytes(ORDER)) == ORDER
        assert codec.state("states/a/x.service", codec.state_bytes(STATE)) == STATE
        assert codec.leader("engine/leader", codec.leader_bytes("a")) == "a"

    def test_every_value_says_its_version(self) -> None:
        for value in (
            codec.machine_bytes(MACHINE),
            codec.placement_bytes(ORDER),
            codec.state_bytes(STATE),
            codec.status_bytes("x"),
        ):
            assert json.loads(value)["v"] == 1

    def test_a_field_more_is_no_harm(self) -> None:
        fields = json.loads(codec.machine_bytes(MACHINE))
        assert codec.machine("machines/a", json.dumps({**fields, "new": [1]}).encode()) == MACHINE

    def test_a_value_under_another_key_is_broken(self) -> None:
        with pytest.raises(codec.BrokenValue, match="belongs at machines/a"):
            codec.machine("machines/b", codec.machine_bytes(MACHINE))

    @pytest.mark.parametrize(
        "change",
        [
            {"v": 2},
            {"v": True},
            {"v": None},
            {"id": 3},
            {"id": "a/b"},
            {"id": ""},
            {"metadata": []},
            {"metadata": {"a": 1}},
            {"ip": "\ud800"},
            {"metadata": {"\ud800": ""}},
            {"new": "\ud800"},
        ],
    )
    def test_broken_machines(self, change: dict[str, object]) -> None:
        with pytest.raises(codec.BrokenValue):
            codec.machine("machines/a", json.dumps({**json.loads(codec.machine_bytes(MACHINE)), **change}).encode())

    @pytest.mark.parametrize(
        "change",
        [{"name": "../x.service"}, {"desired": "running"}, {"text": "nonsense"}, {"text": 1}, {"text": "[S]\na=\0"}],
    )
    def test_broken_units(self, change: dict[str, object]) -> None:
        with pytest.raises(codec.BrokenValue):
            codec.unit(
                "units/x.service", json.dumps({**json.loads(codec.unit_bytes(unit("x.service"))), **change}).encode()
            )

    @given(
        st.one_of(
            st.binary(max_size=60),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["v", "unit", "machine", "text", "desired", "name", "id", "metadata"]),
                        inner,
                        max_size=4,
                    )
                ),
            ).map(lambda tree: json.dumps(tree).encode()),
        )
    )
    def test_any_bytes(self, value: bytes) -> None:
        for decode in (codec.machine, codec.unit, codec.placement, codec.state, codec.status, codec.leader):
            try:
                decode("machines/a", value)
            except codec.BrokenValue:
                continue

    def test_depth_is_no_trouble(self) -> None:
        with pytest.raises(codec.BrokenValue):
            codec.status("status/x", b"[" * 1_000_000)


class TestCurrentState:
    """What users see of a unit's progress."""

    known = unit("x.service")
    digest = known.unitfile.hash()

    @pytest.mark.parametrize(
        ("placed", "state", "expected"),
        [
            (None, None, Desired.INACTIVE),
            ("a", None, Desired.INACTIVE),  # ordered, not heard of
            ("a", UnitState("x.service", "a", hash=digest, reached=Desired.LOADED), Desired.LOADED),
            ("a", UnitState("x.service", "a", hash=digest, reached=Desired.LAUNCHED), Desired.LAUNCHED),
            ("a", UnitState("x.service", "a", hash="old", reached=Desired.LAUNCHED), Desired.LOADED),  # replaced
            ("a", UnitState("x.service", "a", reached=Desired.INACTIVE, error="cannot load"), Desired.INACTIVE),
            ("b", UnitState("x.service", "a", hash=digest, reached=Desired.LAUNCHED), Desired.INACTIVE),  # moved
            (
                None,
                UnitState("x.service", "a", hash=digest, reached=Desired.LAUNCHED),
                Desired.LOADED,
            ),  # being unloaded
            (None, UnitState("y.service", "a"), Desired.INACTIVE),
        ],
    )
    def test_cases(self, placed: str | None, state: UnitState | None, expected: Desired) -> None:
        assert current_state(self.known, placed, [] if state is None else [state]) is expected

    def test_a_text_that_is_to_be_loaded_is_so_when_its_machine_has_it(self) -> None:
        wanted = replace(self.known, desired=Desired.LOADED)
        old = UnitState("x.service", "a", hash="old", reached=Desired.LOADED)
        assert current_state(wanted, "a", [old]) is Desired.INACTIVE
        assert current_state(wanted, "a", [replace(old, hash=self.digest)]) is Desired.LOADED
