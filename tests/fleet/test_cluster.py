"""Agents and engines together, under virtual time: what happens to units when things break."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from etcd.protocol import Op
from fleet.agent.sight import Seen
from fleet.agent.steps import Ended, SystemdError, SystemdState
from fleet.model import codec
from fleet.model.entities import Desired, current_state
from tests.fleet.world import TTL_S, Node, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "a", "b", "c")


def current(world: World, name: str) -> Desired:
    found = world.registry.unit(name)
    assert found is not None
    return current_state(found, world.placed(name), world.registry.states_of(name))


class TestOrdinaryLife:
    """Submit, load, start, stop, unload, destroy."""

    def test_a_unit_goes_through_its_life(self, world: World) -> None:
        world.submit("u.service", desired=Desired.INACTIVE)
        world.run(3)
        assert (world.placed("u.service"), current(world, "u.service")) == (None, Desired.INACTIVE)

        world.registry.set_desired("u.service", Desired.LOADED)
        world.run(3)
        assert (world.placed("u.service"), current(world, "u.service")) == ("a", Desired.LOADED)
        assert world.running("u.service") == []

        world.registry.set_desired("u.service", Desired.LAUNCHED)
        world.run(3)
        assert (world.running("u.service"), current(world, "u.service")) == (["a"], Desired.LAUNCHED)
        (state,) = world.registry.states()
        assert (state.load, state.active, state.sub, state.error) == ("loaded", "active", "running", "")

        world.registry.set_desired("u.service", Desired.LOADED)
        world.run(3)
        assert (world.running("u.service"), current(world, "u.service")) == ([], Desired.LOADED)

        world.registry.set_desired("u.service", Desired.INACTIVE)
        world.run(3)
        assert (world.placed("u.service"), current(world, "u.service")) == (None, Desired.INACTIVE)
        assert world.registry.states() == []
        assert list(world.nodes["a"].units_folder.iterdir()) == []

        world.registry.delete_unit("u.service")
        world.run(3)
        assert world.registry.overview().reasons == {}

    def test_a_unit_that_starts_is_reported_once_and_one_that_hangs_all_the_same(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        key = world.registry.key_state("a", "1.service")
        kept = world.etcd.get(key)
        assert kept is not None
        assert (kept.version, codec.state("states/a/1.service", kept.value).active) == (1, "active")
        world.nodes["b"].holds_tasks = True
        world.submit("2.service")
        world.run(2)
        (load,) = world.nodes["b"].tasks
        world.nodes["b"].tasks.clear()
        agent = world.nodes["b"].agent
        assert agent is not None
        agent.finished(load(), world.now)  # and its start hangs
        world.run(2)
        (state,) = world.registry.states_of("2.service")
        assert (state.reached, state.active) == (Desired.LOADED, "")

    def test_three_units_on_three_machines(self, world: World) -> None:
        for name in ("1.service", "2.service", "3.service"):
            world.submit(name)
        world.run(3)
        assert [world.running(name) for name in ("1.service", "2.service", "3.service")] == [["a"], ["b"], ["c"]]

    def test_the_file_is_there_until_the_unit_has_stopped(self, world: World) -> None:
        world.submit("u.service")
        world.run(3)
        world.registry.delete_unit("u.service")
        world.run(3)
        assert world.nodes["a"].systemd.files_at_stop == {"u.service": True}
        assert list(world.nodes["a"].units_folder.iterdir()) == []

    def test_a_replaced_text_runs_on_the_same_machine(self, world: World) -> None:
        world.submit("u.service")
        world.run(3)
        world.submit("u.service", run="/bin/other")
        world.run(3)
        assert world.running("u.service") == ["a"]
        assert world.nodes["a"].systemd.starts == {"u.service": 2}
        assert "/bin/other" in (world.nodes["a"].units_folder / "u.service").read_text()

    def test_a_global_unit_also_reaches_a_machine_that_joins(self, tmp_path: Path) -> None:
        world = World(tmp_path, "a", "b")
        world.submit("g.service", "Global=true")
        world.run(3)
        assert world.running("g.service") == ["a", "b"]
        assert world.registry.unit_status("g.service") == "global: on 2 of 2 machines"

    def test_install_is_followed(self, world: World) -> None:
        world.submit("u.service", "\n[Install]\nWantedBy=local.target")
        world.run(3)
        assert world.nodes["a"].systemd.enabled == {"u.service"}
        assert world.nodes["a"].systemd.log[:2] == ["enable u.service", "reload"], "systemd reads what was installed"
        world.registry.delete_unit("u.service")
        world.run(3)
        assert world.nodes["a"].systemd.enabled == set()

    def test_install_that_fails_is_no_obstacle(self, world: World) -> None:
        for node in world.nodes.values():
            node.systemd.refuses_install.add("u.service")
        world.submit("u.service", "\n[Install]\nWantedBy=local.target")
        world.run(3)
        assert world.running("u.service") == ["a"]

    def test_a_unit_that_no_machine_can_take_says_why(self, world: World) -> None:
        world.submit("u.service", "MachineMetadata=disk=ssd")
        world.run(3)
        assert world.running("u.service") == []
        assert world.registry.unit_status("u.service") == "no machine: 3 lack metadata disk=ssd"

    def test_metadata_set_at_run_time_moves_units(self, tmp_path: Path) -> None:
        world = World(tmp_path, a={"disk": "ssd"}, b={"disk": "hdd"})
        world.submit("u.service", "MachineMetadata=disk=ssd")
        world.run(5)
        assert world.running("u.service") == ["a"]
        world.registry.set_metadata({("a", "disk"): "", ("b", "disk"): "ssd"})
        world.run(5)
        assert world.running("u.service") == ["b"]
        world.etcd.delete(world.registry.key_leader)  # the next leader reads the same
        world.nodes["a"].kill_daemon()
        world.nodes["a"].start_daemon()  # and so it is after a restart of the machine's daemon
        world.run(60)
        assert world.running("u.service") == ["b"]
        for key in ("a/disk", "b/disk"):
            world.etcd.delete(f"{world.registry.prefix}metadata/{key}")
        world.run(5)
        assert world.running("u.service") == ["a"]

    def test_nothing_is_written_while_nothing_happens(self, world: World) -> None:
        world.submit("u.service")
        world.run(5)
        before = world.etcd.store.revision
        world.run(600)
        assert world.etcd.store.revision == before


class TestMachinesDie:
    """A plug is pulled."""

    def test_the_unit_moves_and_the_others_do_not(self, world: World) -> None:
        for name in ("1.service", "2.service", "3.service"):
            world.submit(name)
        world.run(45)  # longer than a TTL: the view has been whole for that long
        with world.undisturbed("2.service", "3.service"):
            world.nodes["a"].cut_power()
            world.run(TTL_S + 15)
        assert world.running("1.service") == ["b"]
        assert "moved from machine a (machine gone)" in world.registry.overview().placements["b", "1.service"].reason
        assert world.registry.unit_status("1.service") is None, "the order says it"

    def test_the_machine_comes_back_empty_and_is_used_again(self, world: World) -> None:
        world.submit("1.service")
        world.run(45)
        world.nodes["a"].cut_power()
        world.run(TTL_S + 15)
        world.nodes["a"].boot()
        world.run(5)
        assert world.running("1.service") == ["b"]
        world.submit("2.service")
        world.run(3)
        assert world.running("2.service") == ["a"]

    def test_a_quick_reboot_keeps_the_unit(self, world: World) -> None:
        """Back before its lease has run out: the machine waits for its old key to go, and starts its units again."""
        world.submit("1.service")
        world.run(45)
        world.nodes["a"].cut_power()
        world.run(5)
        world.nodes["a"].boot()
        world.run(TTL_S + 15)
        assert world.running("1.service") == ["a"]

    @pytest.mark.parametrize("seconds", [1, 5, 13, 17])
    def test_a_reboot_of_any_length_within_the_ttl_moves_nothing(self, world: World, seconds: int) -> None:
        """The machine knocks often enough to be back within the engine's grace, once its old key has gone."""
        for name in ("1.service", "2.service", "3.service"):
            world.submit(name)
        world.run(45)
        before = world.registry.placements()
        assert not world.nodes["b"].engine or not world.nodes["b"].engine.is_leading
        world.nodes["b"].cut_power()
        world.run(seconds)
        world.nodes["b"].boot()
        world.run(TTL_S + 15)
        assert world.registry.placements() == before
        assert world.running("2.service") == ["b"]

    @pytest.mark.parametrize("phase", [0, 3, 6, 9])
    def test_a_network_that_is_back_before_the_lease_runs_out_moves_nothing(self, world: World, phase: int) -> None:
        for name in ("1.service", "2.service", "3.service"):
            world.submit(name)
        world.run(45 + phase)
        before = world.registry.placements()
        world.nodes["b"].client.reachable = False
        world.run(TTL_S * 2 / 3 - 1)  # a lease is renewed each third of the TTL
        world.nodes["b"].client.reachable = True
        with world.undisturbed("1.service", "2.service", "3.service"):
            world.run(30)
        assert world.registry.placements() == before

    def test_a_partition_is_slow_although_leases_run_out_one_by_one(self, tmp_path: Path) -> None:
        """60 % of the machines are cut off at once; their leases end over ten seconds, as they were renewed."""
        world = World(tmp_path, "a")
        for number in range(14):
            world.nodes[f"m{number:02}"] = Node(world, f"m{number:02}", {})
            world.run(1)
        for number in range(15):
            world.submit(f"{number:02}.service")
        world.run(45)
        lost = [each for each in sorted(world.nodes) if each not in world.leaders()][:9]
        for each in lost:
            world.nodes[each].client.reachable = False
        world.run(TTL_S + 15)
        moved = set(lost) - set(world.registry.placements().values())
        assert 1 <= len(moved) <= 5, "a third, and then no more than one a TTL"
        assert world.leader().engine is not None

    def test_when_most_vanish_units_move_slowly(self, tmp_path: Path) -> None:
        world = World(tmp_path, *"abcdef")
        for number in range(6):
            world.submit(f"{number}.service")
        world.run(45)
        for each in "abcd":
            if each not in world.leaders():
                world.nodes[each].kill_daemon()
        dead = [each for each in "abcd" if each not in world.leaders()]
        world.run(TTL_S + 10)
        moved = [each for each in dead if not any(machine == each for machine in world.registry.placements().values())]
        assert len(moved) == 1, "one at a time"
        world.run(TTL_S * 3)
        assert not set(dead) & set(world.registry.placements().values())


class TestLeaders:
    """Leadership changes hands; writes of the past are refused."""

    def test_there_is_one_leader(self, world: World) -> None:
        assert len(world.leaders()) == 1

    def test_another_leads_when_the_leader_dies(self, world: World) -> None:
        old = world.leader()
        world.submit("1.service")
        world.run(5)
        with world.undisturbed("1.service"):
            old.kill_daemon()
            world.run(15)
        assert world.leaders() != [old.id]
        world.submit("2.service")
        world.run(3)
        assert len(world.running("2.service")) == 1

    def test_new_orders_avoid_the_machine_of_a_leader_that_died(self, world: World) -> None:
        """Its lease lives on for a while, and it has the fewest units."""
        dead = world.leader()
        world.submit("1.service", f"MachineID={next(each for each in world.nodes if each != dead.id)}")
        dead.cut_power()
        for number in range(2, 8):
            world.submit(f"{number}.service")
        world.run(12)
        assert dead.id in [machine.id for machine in world.registry.machines()]
        assert dead.id not in world.registry.placements().values()

    def test_one_that_was_only_restarted_is_used_as_soon_as_it_speaks(self, world: World) -> None:
        old = world.leader()
        assert old.engine is not None
        world.submit("1.service", f"MachineID={old.id}")
        world.run(5)
        old.engine.resign()
        old.kill_daemon()
        old.start_daemon()
        world.run(3)
        world.registry.set_desired("1.service", Desired.LOADED)
        world.run(3)
        for number in range(2, 8):
            world.submit(f"{number}.service")
        world.run(5)
        assert list(world.registry.placements().values()).count(old.id) > 1

    def test_an_orderly_stop_hands_over_at_once(self, world: World) -> None:
        old = world.leader()
        assert old.engine is not None
        old.engine.resign()
        old.kill_daemon()
        world.run(1.5)
        assert len(world.leaders()) == 1

    def test_a_leader_that_slept_writes_nothing(self, world: World) -> None:
        """SIGSTOP beyond the lease, then resume in the middle of a plan: the fence refuses the write."""
        old = world.leader()
        assert old.engine is not None
        world.run(1)
        world.submit("1.service")
        for follower in old._followers:
            follower.pump()  # it has seen the unit, and is stopped before it plans
        old.frozen = True
        old.client.reachable = True
        world.run(20)
        (new,) = [each for each in world.leaders() if each != old.id]
        before = world.etcd.store.revision
        placed = world.placed("1.service")
        # It believes its lease to live: only the fence is between its write and the cluster.
        assert old.engine.is_leading
        stored = world.etcd.get(world.registry.key_unit("1.service"))
        assert stored is not None
        world.etcd.put(world.registry.key_unit("2.service"), stored.value)
        old.engine.step(world.now)
        assert world.etcd.store.revision == before + 1
        assert not old.engine.is_leading
        assert world.placed("1.service") == placed
        assert world.leaders() == [new]

    def test_the_leader_key_taken_away_ends_the_reign(self, world: World) -> None:
        world.etcd.delete(world.registry.key_leader)
        world.run(3)
        assert len(world.leaders()) == 1


class TestControlPlaneTrouble:
    """etcd, the daemon, or the data is in trouble; units run on."""

    def test_etcd_away_for_ten_minutes_stops_nothing(self, world: World) -> None:
        for name in ("1.service", "2.service", "3.service"):
            world.submit(name)
        world.run(5)
        with world.undisturbed("1.service", "2.service", "3.service"):
            for node in world.nodes.values():
                node.client.reachable = False
            world.run(600)  # leases run out meanwhile: all machine keys are gone when etcd is back
            assert world.registry.machines() == []
            for node in world.nodes.values():
                node.client.reachable = True
            world.run(120)
        assert [machine.id for machine in world.registry.machines()] == ["a", "b", "c"]
        assert len(world.registry.states()) == 3

    def test_one_machine_cut_off_runs_on_then_lets_go(self, world: World) -> None:
        world.submit("1.service")
        world.run(45)
        victim = world.nodes["a"]
        victim.client.reachable = False
        world.run(TTL_S + 20)
        assert world.running("1.service") == ["a", "b"], "a dead machine looks like one that is cut off"
        victim.client.reachable = True
        world.run(20)
        assert world.running("1.service") == ["b"]

    def test_a_daemon_that_restarts_touches_nothing(self, world: World) -> None:
        world.submit("1.service")
        world.submit("g.service", "Global=true")
        world.run(5)
        machine = world.etcd.get(world.registry.key_machine("a"))
        with world.undisturbed("1.service", "g.service"):
            for node in world.nodes.values():
                node.kill_daemon()
                node.start_daemon()
            world.run(60)
        assert world.etcd.get(world.registry.key_machine("a")) == machine, "the same key, under the same lease"
        assert len(world.registry.states()) == 4

    def test_a_finished_unit_is_not_started_again_by_a_restart(self, world: World) -> None:
        world.submit("oneshot.service")
        world.run(5)
        node = world.nodes["a"]
        node.systemd.active["oneshot.service"] = False
        node.kill_daemon()
        node.start_daemon()
        world.run(60)
        assert node.systemd.starts == {"oneshot.service": 1}

    def test_a_unit_deleted_while_the_daemon_was_away_is_stopped(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        world.nodes["a"].kill_daemon()
        world.registry.delete_unit("1.service")
        world.run(15)
        world.nodes["a"].start_daemon()
        world.run(5)
        assert world.running("1.service") == []
        assert world.registry.states() == []

    @pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"v": 99}', b'{"v":1,"name":3}', b"\xff\xfe", b"9" * 5000])
    @pytest.mark.parametrize(
        "key",
        [
            "units/1.service",
            "units/zzz",
            "machines/a",
            "machines/x",
            "metadata/a/disk",
            "metadata/x",
            "states/a/1.service",
            "states/q",
            "status/1.service",
            "foreign/x",
            "schedule/x/y",
        ],
    )
    def test_broken_values_are_skipped_and_reported(self, world: World, key: str, value: bytes) -> None:
        world.submit("1.service")
        world.submit("2.service")
        world.run(5)
        with world.undisturbed("1.service", "2.service"):
            world.etcd.put(world.registry.prefix + key, value, lease=0)
            world.run(TTL_S + 20)
        world.submit("3.service")
        world.run(5)
        assert len(world.running("3.service")) == 1

    def test_a_broken_machine_is_mended_by_its_agent(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        with world.undisturbed("1.service"):
            world.etcd.put(world.registry.key_machine("a"), b"{")
            world.run(65)
        assert [machine.id for machine in world.registry.machines()] == ["a", "b", "c"]
        found = world.etcd.get(world.registry.key_machine("a"))
        assert found is not None
        assert found.lease

    def test_problems_are_reported(self, world: World) -> None:
        world.etcd.put(world.registry.key_unit("1.service"), b'{"v": 99}')
        assert world.registry.units() == []
        (problem,) = world.registry.problems()
        assert (problem.key, problem.message) == (
            world.registry.key_unit("1.service"),
            "version 99, this program knows 1",
        )
        world.submit("1.service")
        assert len(world.registry.units()) == 1
        assert world.registry.problems() == []

    def test_a_broken_order_is_written_again_and_disturbs_nothing(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        with world.undisturbed("1.service"):
            world.etcd.put(world.registry.key_schedule("a", "1.service"), b"{")
            world.run(5)
        assert world.placed("1.service") == "a"

    def test_half_a_surrogate_pair_stops_no_daemon(self, world: World) -> None:
        """JSON may hold text that no UTF-8 can: read, it would blow up whoever writes it next, the leader first."""
        world.submit("1.service")
        world.run(5)
        key = world.registry.key_schedule("a", "1.service")
        order = world.etcd.get(key)
        assert order is not None
        world.etcd.put(key, order.value.replace(b'"reason":"', b'"reason":"\\ud800'))
        world.run(5)
        world.registry.set_desired("1.service", Desired.LOADED)
        world.run(5)
        assert world.running("1.service") == []
        assert current(world, "1.service") is Desired.LOADED

    def test_another_machine_with_the_same_id_is_refused_and_says_so(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        twin = Node(world, "a", {}, boots=100)
        with caplog.at_level(logging.ERROR):
            for _ in range(120):
                world.run(0.5)
                twin.step()
        assert twin.agent is not None
        assert "is registered with this machine's id" in twin.agent.trouble
        assert [record.message for record in caplog.records if "machine-id" in record.message]
        assert world.nodes["a"].agent is not None
        assert world.nodes["a"].agent.trouble == ""

    def test_a_compacted_watch_is_read_again(self, world: World) -> None:
        node = world.nodes["b"]
        node.frozen = True
        world.submit("1.service", "MachineID=b")
        world.run(3)
        world.etcd.compact(world.etcd.store.revision)
        node.frozen = False
        world.run(5)
        assert world.running("1.service") == ["b"]

    def test_a_lost_reply_is_no_harm(self, world: World) -> None:
        leader = world.leader()
        leader.client.lose_reply()
        for name in ("1.service", "2.service"):
            world.submit(name)
        world.run(10)
        assert [len(world.running(name)) for name in ("1.service", "2.service")] == [1, 1]

    def test_a_machine_key_deleted_by_hand_comes_back(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        world.etcd.delete(world.registry.key_machine("b"))
        world.run(90)
        assert [machine.id for machine in world.registry.machines()] == ["a", "b", "c"]


class TestUnitsAreIndependent:
    """Trouble with one unit is that unit's alone."""

    def test_one_that_cannot_start_holds_up_no_other(self, world: World) -> None:
        for node in world.nodes.values():
            node.systemd.refuses.add("bad.service")
        world.submit("bad.service")
        world.submit("good.service", "MachineOf=bad.service")
        world.run(10)
        assert world.running("good.service") == ["a"]
        (bad,) = world.registry.states_of("bad.service")
        assert (bad.error, bad.start) == ("systemd refuses to start it: will not start", "refused")
        assert current(world, "bad.service") is Desired.LAUNCHED, "whether it runs is systemd's word"
        world.nodes["a"].systemd.refuses.clear()
        world.run(60)
        assert world.running("bad.service") == ["a"]
        assert world.registry.states_of("bad.service")[0].error == ""

    def test_the_outcome_of_a_start_is_reported_with_its_reason(self, world: World) -> None:
        """Result and state in one value, from after the job, with the last lines; and it is explained once."""
        systemd = world.nodes["a"].systemd
        systemd.ends["bad.service"] = ("failed", "failed", "failed")
        systemd.properties_of["bad.service"] = {"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 203}
        world.submit("bad.service", "MachineID=a")
        world.run(100)
        (bad,) = world.registry.states_of("bad.service")
        assert (bad.start, bad.active, bad.error) == ("failed", "failed", "")
        assert bad.note == "it failed (exit-code): its main process exited with 203/EXEC"
        assert len(bad.log) == 5
        assert (systemd.starts["bad.service"], systemd.log.count("properties bad.service")) == (1, 1)
        del systemd.ends["bad.service"]
        world.registry.set_desired("bad.service", Desired.LOADED)
        world.run(3)
        assert world.registry.states_of("bad.service")[0].start == ""
        world.registry.set_desired("bad.service", Desired.LAUNCHED)
        world.run(3)
        (good,) = world.registry.states_of("bad.service")
        assert (good.start, good.active, good.note, good.log) == ("done", "active", "", ())
        assert systemd.log[-1] == "start bad.service"
        assert systemd.log[-2] == "reset-failed bad.service", "earlier failures do not count against it"

    def test_a_refused_start_is_tried_again_also_by_the_next_daemon(self, world: World) -> None:
        systemd = world.nodes["a"].systemd
        systemd.ends["x.timer"] = ("failed", "inactive", "dead")
        world.submit("x.timer", "MachineID=a")
        world.run(5)
        (state,) = world.registry.states_of("x.timer")
        assert (state.start, state.active, state.reached) == ("failed", "inactive", Desired.LAUNCHED)
        assert state.error == "systemd refused to start it: it did not even try, see its log"
        assert state.log == tuple(f"systemd: line {number}" for number in range(15, 20)), "an earlier run said nothing"
        tries = systemd.starts["x.timer"]
        assert tries > 1
        world.nodes["a"].kill_daemon()
        world.nodes["a"].start_daemon()
        world.run(5)
        assert systemd.starts["x.timer"] > tries
        world.run(200)  # until it is tried once a minute
        tries = systemd.starts["x.timer"]
        world.run(5)
        assert systemd.starts["x.timer"] <= tries + 1
        del systemd.ends["x.timer"]
        world.submit("x.service", "MachineID=a")
        world.run(3)
        assert world.running("x.timer") == ["a"], "what it lacked has come"
        assert world.registry.states_of("x.timer")[0].error == ""

    def test_a_refused_start_that_is_no_longer_wanted_is_forgotten(self, world: World) -> None:
        systemd = world.nodes["a"].systemd
        systemd.ends["u.service"] = ("assert", "inactive", "dead")
        world.submit("u.service", "MachineID=a")
        world.run(3)
        world.registry.set_desired("u.service", Desired.LOADED)
        world.run(3)
        tries = systemd.starts["u.service"]
        world.run(100)
        (state,) = world.registry.states_of("u.service")
        assert (state.start, state.error, state.reached, state.note) == ("", "", Desired.LOADED, "")
        assert systemd.starts["u.service"] == tries

    def test_a_start_that_somebody_cancels_is_not_tried_again(self, world: World) -> None:
        systemd = world.nodes["a"].systemd
        systemd.ends["u.service"] = ("canceled", "inactive", "dead")
        world.submit("u.service", "MachineID=a")
        world.run(100)
        (state,) = world.registry.states_of("u.service")
        assert (state.start, state.note) == ("canceled", "another job cancelled its start")
        assert systemd.starts["u.service"] == 1

    def test_a_start_that_takes_its_time_can_be_stopped(self, world: World) -> None:
        node = world.nodes["a"]
        world.submit("u.service", "MachineID=a", desired=Desired.LOADED)
        world.run(5)
        node.holds_tasks = True
        world.registry.set_desired("u.service", Desired.LAUNCHED)
        world.run(1)
        agent = node.agent
        assert agent is not None
        agent.finished(node.tasks.pop(0)(), world.now)  # the start is accepted, and its job runs
        world.run(3)
        assert world.registry.states_of("u.service")[0].start == "starting"
        late = node.tasks.copy()
        node.tasks.clear()
        agent.finished(next(done for task in late if isinstance(done := task(), Seen)), world.now)
        node.holds_tasks = False
        world.registry.set_desired("u.service", Desired.LOADED)
        world.run(3)
        assert world.running("u.service") == []
        agent.finished(next(done for task in late if isinstance(done := task(), Ended)), world.now)
        world.run(3)
        (state,) = world.registry.states_of("u.service")
        assert (state.start, state.reached) == ("", Desired.LOADED)

    def test_one_that_hangs_in_its_stop_holds_up_no_other(self, world: World) -> None:
        for name in ("1.service", "2.service"):
            world.submit(name, "MachineID=a")
        world.run(5)
        node = world.nodes["a"]
        node.holds_tasks = True
        world.registry.delete_unit("1.service")
        world.run(3)
        (hanging,) = node.tasks
        node.tasks.clear()
        node.holds_tasks = False
        world.registry.set_desired("2.service", Desired.LOADED)
        world.run(3)
        assert world.running("2.service") == []
        assert world.running("1.service") == ["a"], "still stopping"
        assert (node.units_folder / "1.service").exists()
        assert node.agent is not None
        node.agent.finished(hanging(), world.now)
        world.run(3)
        assert world.running("1.service") == []

    def test_a_systemd_that_does_not_answer_costs_no_lease(self, world: World) -> None:
        """Asking systemd happens beside the loop: the machine stays alive while systemd is busy."""
        world.submit("1.service")
        world.run(5)
        world.nodes["a"].holds_tasks = True
        world.run(3 * TTL_S)
        assert [machine.id for machine in world.registry.machines()] == ["a", "b", "c"]
        assert world.running("1.service") == ["a"]

    def test_a_systemd_that_refuses_is_called_again(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        node = world.nodes["a"]

        def refuse(units: object) -> dict[str, SystemdState]:
            raise SystemdError("busy")

        with monkeypatch.context() as patch:
            patch.setattr(node.systemd, "states", refuse)
            world.submit("1.service")
            world.run(5)
            assert [state.active for state in world.registry.states()] == [""]
        world.run(5)
        assert [state.active for state in world.registry.states()] == ["active"]

    def test_a_move_waits_for_the_stop(self, tmp_path: Path) -> None:
        """A unit that leaves a live machine starts elsewhere only when it has stopped there."""
        world = World(tmp_path, a={"disk": "ssd"}, b={"disk": "hdd"})
        world.submit("1.service", "MachineMetadata=disk=ssd")
        world.run(5)
        node = world.nodes["a"]
        node.holds_tasks = True
        world.submit("1.service", "MachineMetadata=disk=hdd")
        world.run(10)
        assert world.running("1.service") == ["a"]
        assert world.registry.unit_status("1.service") == "waiting until machine a has stopped it"
        node.holds_tasks = False
        world.run(5)
        assert world.running("1.service") == ["b"]

    def test_an_order_whose_hash_is_wrong_is_not_run(self, world: World) -> None:
        world.submit("1.service")
        world.run(5)
        found = world.etcd.get(world.registry.key_schedule("a", "1.service"))
        assert found is not None
        forged = found.value.replace(b"1.service", b"2.service").replace(b"/bin/true", b"/bin/evil")
        world.etcd.txn([], [Op.put(world.registry.key_schedule("a", "2.service"), forged)])
        node = world.nodes["a"]
        node.step()
        node.step()
        assert node.systemd.starts == {"1.service": 1}
