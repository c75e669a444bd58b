"""Whole clusters in one thread: real agents and engines, the fake etcd, fake systemds, virtual time.

world = World("a", "b", "c")
world.submit("redis.service")
world.run(10)
assert world.running("redis.service") == ["a"]
world.nodes["a"].cut_power()
world.run(60)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from etcd.errors import EtcdError
from etcd.fake import FakeEtcd, FakeWatch
from etcd.protocol import RangeResult
from fleet.agent.agent import Agent, Task
from fleet.agent.steps import Known, RefusedError, SystemdError, SystemdState
from fleet.agent.unitstore import UnitStore
from fleet.engine.engine import BOUND, STANDBYS, Engine
from fleet.model.entities import Desired, Machine
from fleet.model.events import Bound, Event
from fleet.model.live import Live
from fleet.model.registry import Registry
from fleet.model.watch import Subscription
from tests.fleet.clusters import unit

TTL_S = 30
TICK_S = 0.5
EPOCH = 1_800_000_000.0


class FakeSystemd:
    """A machine's systemd: units run when they are started and their file is there. ``log`` has the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active: dict[str, bool] = {}
        self.loaded: set[str] = set()
        self.observed: set[str] = set()
        self.enabled: set[str] = set()
        self.log: list[str] = []
        self.refuses: set[str] = set()
        self.refuses_install: set[str] = set()
        self.files_at_stop: dict[str, bool] = {}
        self.starts: dict[str, int] = {}
        self.own: dict[str, Known] = {}
        self.ends: dict[str, tuple[str, str, str]] = {}  # how starts end: result, active, sub
        self.ended: dict[str, SystemdState] = {}
        self.shuts_down = False
        self.properties_of: dict[str, dict[str, object]] = {}  # properties

    def is_ending(self) -> bool:
        return self.shuts_down

    def reload(self) -> None:
        self.log.append("reload")
        self.loaded = {path.name for path in self.folder.iterdir()}

    def known(self, unit: str) -> Known:
        if unit in self.own or unit not in self.loaded:
            return self.own.get(unit, Known())
        return Known("loaded", "active" if self.active.get(unit) else "inactive", str(self.folder / unit))

    def start(self, unit: str) -> str:
        self.log.append(f"start {unit}")
        if unit in self.refuses or unit not in self.loaded:
            raise RefusedError("org.freedesktop.systemd1.BadUnitSetting", "will not start")
        self.starts[unit] = self.starts.get(unit, 0) + 1
        end = self.ends.get(unit, ("done", "active", "running"))
        self.active[unit] = end[1] == "active"
        if not self.active[unit]:
            self.ended[unit] = SystemdState("loaded", *end[1:])
        return unit

    def result(self, job: str) -> str:
        return self.ends.get(job, ("done",))[0]

    def properties(self, unit: str) -> dict[str, object]:
        self.log.append(f"properties {unit}")
        return self.properties_of.get(unit, {})

    def journal(self, unit: str, invocation: str, since_us: int) -> list[str]:
        return [f"{invocation or 'systemd'}: line {number}" for number in range(20)]

    def stop(self, unit: str) -> None:
        self.log.append(f"stop {unit}")
        self.files_at_stop[unit] = (self.folder / unit).exists()
        self.active[unit] = False
        self.ended.pop(unit, None)

    def enable(self, unit: str) -> None:
        self.log.append(f"enable {unit}")
        if unit in self.refuses_install:
            raise SystemdError("will not enable", where=unit)
        self.enabled.add(unit)

    def disable(self, unit: str) -> None:
        self.enabled.discard(unit)

    def forget_failure(self, unit: str) -> None:
        self.log.append(f"reset-failed {unit}")

    def states(self, units: Sequence[str]) -> dict[str, SystemdState]:
        return {
            name: SystemdState("loaded", "active", "running")
            if self.active.get(name)
            else self.ended.get(name)
            or SystemdState("loaded" if name in self.loaded else "not-found", "inactive", "dead")
            for name in units
        }

    def observe(self, unit: str, wanted: bool) -> None:
        if wanted:
            self.observed.add(unit)
        else:
            self.observed.discard(unit)


class Follower:
    """What :class:`fleet.model.watch.Feed` does, without a thread."""

    def __init__(self, client: FakeEtcd, loop: Agent | Engine) -> None:
        self._client = client
        self._loop = loop
        self._wanted: Subscription | None = None
        self._watch: FakeWatch | None = None

    def pump(self) -> None:
        wanted = self._loop.subscription
        try:
            if wanted != self._wanted:
                self.close()
                self._wanted = wanted
                if wanted is not None:
                    self._watch = self._client.watch(wanted.prefix, wanted.start_revision)
            while self._watch is not None and (batch := self._watch.poll()) is not None:
                self._loop.deliver(batch)
        except EtcdError as error:
            self.close()
            self._loop.lost(error)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = None
        self._wanted = None


class Link(FakeEtcd):
    """A node's connection. Its engine's reading of everything takes ``reading_s``, in which all others go on, and
    begins with ``meanwhile``, if there is such a thing: it happens once.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node.world.etcd.store)
        self.reading_s = 0.0
        self.readings = 0
        self.meanwhile: Callable[[], object] | None = None
        self._node = node

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        found = super().range(prefix, revision=revision)
        if prefix == self._node.registry.prefix:
            self.readings += 1
            if self.meanwhile is not None:
                self.meanwhile()
                self.meanwhile = None
            self._node.world.run_beside(self._node, self.reading_s)
            self._reach()
        return found


class Node:
    """A machine with its own connection to etcd. ``boots`` counts power-ups; unit files live until the power is cut."""

    def __init__(self, world: World, identity: str, metadata: dict[str, str], boots: int = 0) -> None:
        self.world = world
        self.id = identity
        self.metadata = metadata
        self.client = Link(self)
        self.registry = Registry(self.client)
        self.registry.log.clock = world.clock
        self.boots = boots
        self.agent: Agent | None = None
        self.engine: Engine | None = None
        self.frozen = False
        self.is_reading = False
        self.keep_at = 0.0
        self.tasks: list[Task] = []
        self.holds_tasks = False
        self.systemd = self._boot()
        self.start_daemon()

    def _boot(self) -> FakeSystemd:
        self.boots += 1
        self.run_folder = self.world.folder / f"{self.id}-{self.boots}"
        self.units_folder = self.run_folder / "systemd"
        self.units_folder.mkdir(parents=True)
        return FakeSystemd(self.units_folder)

    def start_daemon(self) -> None:
        machine = Machine(self.id, f"10.0.0.{ord(self.id[0])}", self.metadata, f"boot-{self.id}-{self.boots}")
        store = UnitStore(self.run_folder / "fleet", self.units_folder)
        store.prepare()
        self.agent = Agent(self.registry, machine, self.systemd, store, self.tasks.append, ttl_s=TTL_S)
        self.live = Live(self.registry, clock=lambda: self.world.now)
        self.engine = Engine(
            self.registry,
            self.id,
            ttl_s=10,
            agent_ttl_s=TTL_S,
            live=self.live,
            standbys=self.world.standbys,
            bound=self.world.bound,
        )
        self.agent.adopt()
        self._followers = [Follower(self.client, self.agent), Follower(self.client, self.engine)]

    def kill_daemon(self) -> None:
        """SIGKILL of fleetd: nothing is reported."""
        self.agent = self.engine = None
        self.tasks.clear()
        for follower in self._followers:
            follower.close()

    def cut_power(self) -> None:
        self.kill_daemon()
        self.systemd.active.clear()

    def shut_down(self) -> None:
        """As ``poweroff``: systemd stops all units, then fleetd ends, as :meth:`fleet.daemon.Daemon.run` does."""
        assert self.agent is not None
        assert self.engine is not None
        self.systemd.active.clear()
        self.agent.leave(at_once=True)
        self.engine.resign()
        self.kill_daemon()

    def boot(self) -> None:
        self.systemd = self._boot()
        self.start_daemon()

    def step(self) -> None:
        if self.frozen or self.agent is None or self.engine is None:
            return
        orders, everything = self._followers
        orders.pump()
        self.agent.step(self.world.now)
        while self.tasks and not self.holds_tasks:
            self.agent.finished(self.tasks.pop(0)(), self.world.now)
            self.agent.step(self.world.now)
        if self.world.now >= self.keep_at:
            self.keep_at = self.engine.keep(self.world.now)
        if not self.is_reading:
            everything.pump()
            self.engine.step(self.world.now)


class World:
    """Machines by id, each with metadata when given as ``id=...``, and one etcd; ``standbys`` of their engines are to
    stand by, and ``bound`` is that of the log of events."""

    def __init__(
        self, folder: Path, *ids: str, standbys: int = STANDBYS, bound: Bound = BOUND, **metadata: dict[str, str]
    ) -> None:
        self.folder = folder
        self.standbys = standbys
        self.bound = bound
        self.etcd = FakeEtcd()
        self.now = 1000.0
        self.registry = Registry(self.etcd)
        self.registry.log.clock = self.clock
        self.nodes = {each: Node(self, each, metadata.get(each, {})) for each in (*ids, *metadata)}
        self.run(3)

    def clock(self) -> float:
        """Unix seconds of the virtual time."""
        return EPOCH + self.now

    def events(self) -> list[Event]:
        """The log of events."""
        return [event for batch in self.registry.log.after(0).batches for event in batch.events]

    def run(self, seconds: float) -> None:
        """Let virtual time pass; every node is called each half second, in the order of their ids."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.etcd.advance(TICK_S)
            for each in sorted(self.nodes):
                self.nodes[each].step()

    def run_beside(self, node: Node, seconds: float) -> None:
        """Let virtual time pass while this node's engine waits for an answer of etcd; its agent and its lease do not."""
        node.is_reading = True
        self.run(seconds)
        node.is_reading = False

    def submit(self, name: str, fleet: str = "", desired: Desired = Desired.LAUNCHED, run: str = "/bin/true") -> None:
        self.registry.create_unit(unit(name, fleet, desired, run), replace=True)

    def running(self, name: str) -> list[str]:
        return [each for each, node in sorted(self.nodes.items()) if node.systemd.active.get(name)]

    def placed(self, name: str) -> str | None:
        return self.registry.placements().get(name)

    def leaders(self) -> list[str]:
        return [each for each, node in sorted(self.nodes.items()) if node.engine is not None and node.engine.is_leading]

    def leader(self) -> Node:
        (only,) = self.leaders()
        return self.nodes[only]

    @contextlib.contextmanager
    def undisturbed(self, *names: str) -> Iterator[None]:
        """These units are neither stopped nor started while the block runs."""
        before = {
            each: [line for line in node.systemd.log if line.split()[-1] in names] for each, node in self.nodes.items()
        }
        yield
        for each, node in self.nodes.items():
            assert [line for line in node.systemd.log if line.split()[-1] in names] == before[each]
