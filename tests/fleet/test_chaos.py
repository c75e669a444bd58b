"""A cluster under seeded chaos: daemons, machines, links and data break at random; then all is healed and must be
right.

A run that fails prints its seed and its story; ``FLOTILLA_SEED`` repeats it (see ``seed`` in tests/conftest.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.model.entities import Desired, current_state
from fleet.model.registry import NoSuchUnit
from tests.fleet.clusters import requirements
from tests.fleet.world import TTL_S, Node, World

UNITS = (
    "app@1.service",
    "app@2.service",
    "app@3.service",
    "db.service",
    "follow.service",
    "global.service",
    "web.service",
)
FLEETS = {
    "app": "Conflicts=app@*.service",
    "db": "MachineMetadata=disk=ssd",
    "follow": "MachineOf=db.service",
    "global": "Global=true",
}


def fleet_of(name: str) -> str:
    return FLEETS.get(name.partition("@")[0].removesuffix(".service"), "")


class Chaos:
    """Draws what happens next. ``story`` records it, line by line."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.story = [f"seed {seed}"]
        self.down: set[str] = set()

    def happen(self) -> None:
        node = self.world.nodes[self.random.choice(sorted(self.world.nodes))]
        name = self.random.choice(UNITS)
        events: list[tuple[str, Callable[[], object]]] = [
            (f"submit {name}", lambda: self.submit(name)),
            (f"desire {name}", lambda: self.desire(name)),
            (f"delete {name}", lambda: self.delete(name)),
            (f"daemon of {node.id} restarts", lambda: self.restart(node)),
            (f"power of {node.id}", lambda: self.power(node)),
            (f"link of {node.id}", lambda: setattr(node.client, "reachable", not node.client.reachable)),
            (f"{node.id} freezes or thaws", lambda: setattr(node, "frozen", not node.frozen)),
            (f"reply to {node.id} lost", node.client.lose_reply),
            ("leader key deleted", lambda: self.world.etcd.delete(self.world.registry.key_leader)),
            (
                f"machine key of {node.id} deleted",
                lambda: self.world.etcd.delete(self.world.registry.key_machine(node.id)),
            ),
            (f"order for {name} broken", lambda: self.break_order(name)),
            ("history compacted", self.compact),
            (f"disk of {node.id} set", lambda: self.set_disk(node, self.random.choice(["ssd", "hdd", ""]))),
            (f"{node.id} reads slowly or not", lambda: setattr(node.client, "reading_s", 15 - node.client.reading_s)),
            (f"jobs of {node.id} hang or go on", lambda: setattr(node, "holds_tasks", not node.holds_tasks)),
        ]
        text, event = self.random.choice(events)
        seconds = self.random.choice([0.5, 2, 5, 20, 45])
        self.story.append(f"{self.world.now:8.1f} {text}, then {seconds} s")
        event()
        self.world.run(seconds)

    def submit(self, name: str) -> None:
        run = self.random.choice(["/bin/one", "/bin/two"])
        self.world.submit(name, fleet_of(name), Desired.LAUNCHED, run)

    def desire(self, name: str) -> None:
        try:
            self.world.registry.set_desired(name, self.random.choice(list(Desired)))
        except NoSuchUnit:
            self.story.append("         (no such unit)")

    def delete(self, name: str) -> None:
        try:
            self.world.registry.delete_unit(name)
        except NoSuchUnit:
            self.story.append("         (no such unit)")

    def restart(self, node: Node) -> None:
        if node.id not in self.down:
            node.kill_daemon()
            node.start_daemon()

    def power(self, node: Node) -> None:
        if node.id in self.down:
            self.down.discard(node.id)
            node.boot()
        else:
            self.down.add(node.id)
            node.cut_power()

    def break_order(self, name: str) -> None:
        where = self.world.placed(name)
        if where is not None:
            self.world.etcd.put(self.world.registry.key_schedule(where, name), b"{")

    def compact(self) -> None:
        store = self.world.etcd.store
        if store.revision > store.compacted:
            self.world.etcd.compact(store.revision)

    def set_disk(self, node: Node, value: str) -> None:
        self.world.registry.set_metadata({(node.id, "disk"): value})

    def heal(self) -> None:
        for node in self.world.nodes.values():
            node.client.reachable = True
            node.frozen = False
            node.holds_tasks = False
            self.set_disk(node, node.metadata.get("disk", ""))
            if node.id in self.down:
                node.boot()
        self.down.clear()
        self.world.run(8 * TTL_S)


def check(world: World) -> None:
    """What users may expect of a cluster at rest."""
    registry = world.registry
    assert [machine.id for machine in registry.machines()] == sorted(world.nodes)
    assert len(world.leaders()) == 1
    known = {each.name: each for each in registry.units()}
    placements = registry.placements()
    for node in world.nodes.values():
        for name, is_active in node.systemd.active.items():
            assert not is_active or name in known, f"{name} is an orphan on {node.id}"
    for name, each in known.items():
        wanted = requirements(each)
        assert wanted is not None
        running = world.running(name)
        states = registry.states_of(name)
        if each.desired is not Desired.LAUNCHED:
            assert running == []
        if each.desired is Desired.INACTIVE:
            assert (states, placements.get(name)) == ([], None)
        elif wanted.global_:
            assert [state.machine for state in states] == sorted(world.nodes)
        elif name in placements:
            assert running == ([placements[name]] if each.desired is Desired.LAUNCHED else [])
            assert current_state(each, placements[name], states) is each.desired
            text = (world.nodes[placements[name]].units_folder / name).read_text()
            assert text == each.unitfile.serialize()
        else:
            assert (registry.unit_status(name) or "").startswith("no machine: "), f"{name} is nowhere, without a reason"
            assert name == "follow.service", "only its peer can be missing in this world"
    apps = [placements[name] for name in known if name.startswith("app@") and name in placements]
    assert len(apps) == len(set(apps)), "units that conflict share a machine"
    assert registry.problems() == []


@pytest.mark.parametrize("number", range(12))
def test_a_cluster_heals(tmp_path: Path, seed: int, number: int) -> None:
    world = World(tmp_path, a={"disk": "ssd"}, b={"disk": "ssd"}, c={}, d={})
    chaos = Chaos(world, seed + number)
    try:
        for _ in range(60):
            chaos.happen()
        chaos.heal()
        check(world)
    except AssertionError:
        print("\n".join(chaos.story))
        raise
