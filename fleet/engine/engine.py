"""The engine: on every machine, leading on one. It turns plans into orders.

Each engine is a follower, which watches the leader's key and nothing else, or the leader, which has a view of the whole
prefix: one read, then a watch from the next revision on. It plans on that view, writes the plan in fenced transactions,
and plans again only when its own writes have come back through the watch; so a plan is always based on what etcd
contains.

*Fencing*: each transaction compares the create revision of the leader's key with the one that this engine made. If a
leader was suspended while its lease ran out, the comparison fails for its writes, nothing is changed, and it becomes a
follower.

*The lease* is renewed by :meth:`Engine.keep`, beside :meth:`Engine.step`: to read and plan a large cluster takes longer
than a lease lasts. No clock of ours ends the leadership. etcd does: by a fence that fails, or by reporting that the
lease or the key is gone.

*Errors* do not make it read everything again. A write that failed is repeated, which is safe, since it is fenced and no
other process writes these keys; a watch that broke is resumed at its last revision. The leader reads again when etcd
has compacted that revision, refuses a write, or has gone back in time (it was restored). Each gap restarts the clock of
:class:`fleet.engine.eviction.Evictions`.

Time comes in as ``now`` (seconds of any steady clock); the loop around it is :mod:`fleet.engine.leadership`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from etcd.errors import Compacted, EtcdError, Unavailable
from etcd.protocol import Compare, Etcd, Event, Op, WatchBatch
from fleet.engine.eviction import Evictions
from fleet.model import codec
from fleet.model.registry import Overview, Registry
from fleet.model.watch import Subscription
from fleet.scheduler.reasons import Why
from fleet.scheduler.schedule import ClusterView, Decision, Plan, Scheduler

OPS_MAX = 100  # etcd refuses more than 128 in one transaction
BYTES_MAX = 1_200_000  # and requests of more than 1.5 MiB, which JSON and base64 do not count towards
GRACE_S = 2.0
CATCH_UP_S = 10.0
IDLE_S = 30.0
BACKOFF_S = (0.5, 15.0)

_LOG = logging.getLogger(__name__)


@dataclass
class _Reign:
    """A leadership: its lease, the revision that fences its writes, and whether etcd reported the lease gone.

    ``doubted`` is the machine of the leader before it: as long as nothing was heard of it, and not longer than until
    ``doubted_until``, it may be dead.
    """

    lease: int
    fence: int
    doubted: str
    doubted_until: float
    is_over: bool = False


class Engine:
    """One machine's engine. Call :meth:`step` from one thread and :meth:`keep` from another; pass it what its
    :attr:`subscription` brings.

    ``ttl_s`` is the leader's lease, ``agent_ttl_s`` that of machines; ``keeper`` renews the former, if it is not to be
    the registry's client.
    """

    def __init__(
        self,
        registry: Registry,
        machine: str,
        *,
        ttl_s: int = 10,
        agent_ttl_s: float = 30.0,
        keeper: Etcd | None = None,
    ) -> None:
        self.subscription: Subscription | None = None
        self._registry = registry
        self._client = registry.client
        self._keeper = keeper or registry.client
        self._machine = machine
        self._ttl_s = ttl_s
        self._agent_ttl_s = agent_ttl_s
        self._reign: _Reign | None = None
        self._view: Overview | None = None
        self._scheduler = Scheduler()
        self._evictions: Evictions | None = None
        self._predecessor = ""
        self._batches: deque[WatchBatch] = deque()
        self._writes: deque[list[Op]] = deque()
        self._written = 0
        self._heard_at = 0.0
        self._serial = 0
        self._retry_at = 0.0
        self._backoff_s = BACKOFF_S[0]
        self._lost: EtcdError | None = None
        self._keep_trouble = ""

    @property
    def is_leading(self) -> bool:
        """Whether this engine believes that it leads. Only the fence makes it so."""
        return self._reign is not None

    def deliver(self, batch: WatchBatch) -> None:
        """Take a batch of the subscription; :meth:`step` handles it."""
        self._batches.append(batch)

    def lost(self, error: EtcdError) -> None:
        """The subscription has ended, and why."""
        self._lost = error

    def keep(self, now: float) -> float:
        """Renew the lease of the leadership, if there is one.

        Returns when to call again at the latest. From a thread of its own.

        Errors are retried, never raised. A lease that cannot be renewed may live on all the same (a new leader of etcd
        prolongs all leases), so that only etcd's report that it is gone ends the leadership, at the next step.
        """
        reign = self._reign
        if reign is None:
            return now + self._ttl_s / 3
        try:
            if self._keeper.lease_keepalive(reign.lease) <= 0:
                reign.is_over = True
            self._keep_trouble = ""
        except EtcdError as error:
            if error.on_one_line != self._keep_trouble:
                _LOG.warning("the leader's lease was not renewed: %s", error.on_one_line)
            self._keep_trouble = error.on_one_line
            return now + self._ttl_s / 10
        return now + self._ttl_s / 3

    def step(self, now: float) -> float:
        """Do what is due at ``now``.

        Returns when to call again at the latest. Errors of etcd are retried, never raised."""
        if self._lost is not None:
            if self._view is None or isinstance(self._lost, Compacted):
                self._forget_view()
            self.subscription = self._lost = None
            self._retry_at = now + BACKOFF_S[0]  # a watch that breaks at once must not make a busy loop
        if now < self._retry_at:
            return self._retry_at
        try:
            due = self._lead(now, self._reign) if self._reign is not None else self._follow(now)
        except EtcdError as error:
            _LOG.warning("the engine waits for etcd: %s", error.on_one_line)
            if self._view is None or not isinstance(error, Unavailable):
                self._forget_view()
            self._retry_at = now + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])
            return self._retry_at
        self._backoff_s = BACKOFF_S[0]
        return due

    def resign(self) -> None:
        """Let another engine lead at once (an orderly stop). Running units are not affected."""
        if self._reign is not None:
            lease = self._reign.lease
            self._step_down("resigned")
            try:
                self._client.lease_revoke(lease)
            except EtcdError as error:
                _LOG.warning("the leader's lease runs out by itself: %s", error.on_one_line)

    # Following

    def _follow(self, now: float) -> float:
        key = self._registry.key_leader
        vacant = any(
            event.kind == "delete" and event.kv.key == key for batch in self._batches for event in batch.events
        )
        self._batches.clear()
        if self.subscription is None or vacant:
            found = self._client.range(key)
            held = next((each for each in found.kvs if each.key == key), None)
            if held is not None:
                self._predecessor = self._registry.decoded(held, codec.leader) or ""
                self._subscribe(key, found.revision + 1)
            elif self._campaign(now):
                return now
            else:
                self.subscription = None
                return now + 1.0
        return now + IDLE_S

    def _campaign(self, now: float) -> bool:
        key = self._registry.key_leader
        lease = self._client.lease_grant(self._ttl_s)
        done = self._client.txn(
            [Compare.created(key, "==", 0)], [Op.put(key, codec.leader_bytes(self._machine), lease=lease.id)]
        )
        if not done.succeeded:
            self._client.lease_revoke(lease.id)
            return False
        self._forget_view()
        doubted = "" if self._predecessor == self._machine else self._predecessor
        self._reign = _Reign(lease.id, done.revision, doubted, now + self._agent_ttl_s)
        self._predecessor = self._machine
        _LOG.info("this engine leads from revision %d on", done.revision)
        return True

    # Leading

    def _lead(self, now: float, reign: _Reign) -> float:
        if reign.is_over:
            self._step_down("its lease is gone")
            return now
        if self._view is None:
            self._view = self._read()
            return now  # time has passed, and the watch begins before the first plan
        if self.subscription is None:
            self._resume(now, self._view)
        if self._evictions is None:
            self._evictions = self._expected(now, self._view)
        while self._batches:
            batch = self._batches.popleft()
            for event in batch.events:
                if event.kv.key == self._registry.key_leader and event.kv.create_revision != reign.fence:
                    self._step_down("another engine has its key")
                    return now
                self._apply(event, now, self._view, self._evictions)
                if event.kind == "put" and self._registry.speaker(event.kv.key) == reign.doubted:
                    reign.doubted = ""
            self._view.revision = max(self._view.revision, batch.revision)
            self._heard_at = now
        self._scheduler.doubted = reign.doubted if now < reign.doubted_until else ""
        for machine in self._evictions.take_due(now):
            _LOG.warning("machine %s is gone; its units move", machine)
            self._scheduler.evict_machine(machine)
        return self._write(now, reign, self._view, self._evictions)

    def _read(self) -> Overview:
        view = self._registry.overview()
        self._subscribe(self._registry.prefix, view.revision + 1)
        self._scheduler = Scheduler.of(
            ClusterView(
                machines=view.machines,
                units=view.units,
                unreadable=frozenset(view.unreadable),
                placements=view.placements,
                present=frozenset(view.states),
                explanations=view.reasons,
            )
        )
        self._written = 0
        return view

    def _resume(self, now: float, view: Overview) -> None:
        """Continue the watch from the view's revision."""
        if self._client.range(self._registry.key_leader).revision < view.revision:
            raise EtcdError("etcd has gone back to an earlier revision")
        self._subscribe(self._registry.prefix, view.revision + 1)
        self._heard_at = now
        if self._evictions is not None:
            self._evictions.interrupted(now)

    def _expected(self, now: float, view: Overview) -> Evictions:
        """The machines that should be there, by a view that is whole from now on."""
        evictions = Evictions(now, ttl_s=self._agent_ttl_s, grace_s=GRACE_S)
        for machine, made in view.alive.items():
            evictions.came(machine, made)
        for machine in sorted({machine for machine, _ in view.placements} - view.alive.keys()):
            evictions.left(machine, now, view.ordered[machine])
        return evictions

    def _apply(self, event: Event, now: float, view: Overview, evictions: Evictions) -> None:
        """Bring view and scheduler up to date with one event."""
        if event.kind == "put":
            view.put(event.kv)
        else:
            view.delete(event.kv.key)
        kind, _, rest = event.kv.key.removeprefix(self._registry.prefix).partition("/")
        machine, _, unit = rest.partition("/")
        match kind:
            case "machines":
                self._apply_machine(rest, event.kv.mod_revision, now, view, evictions)
            case "metadata" if machine in view.alive:
                self._apply_machine(machine, event.kv.mod_revision, now, view, evictions)
            case "units":
                self._apply_unit(rest, view)
            case "schedule":
                order = view.placements.get((machine, unit))
                if order is None:
                    self._scheduler.drop_placement(machine, unit)
                else:
                    self._scheduler.set_placement(order)
                    if machine not in view.alive:
                        evictions.left(machine, now, view.ordered[machine])
            case "states":
                if (machine, unit) in view.states:
                    self._scheduler.set_present(machine, unit)
                else:
                    self._scheduler.drop_present(machine, unit)
            case "status":
                self._scheduler.set_explanation(rest, view.reasons.get(rest))

    def _apply_machine(self, machine: str, revision: int, now: float, view: Overview, evictions: Evictions) -> None:
        if machine not in view.alive:
            self._scheduler.drop_machine(machine)
            evictions.left(machine, now, revision)
            if evictions.is_mass:
                _LOG.error("many machines are away at once: %s; moving units slowly", ", ".join(evictions.away))
            return
        evictions.came(machine, view.alive[machine])
        known = view.machines.get(machine)
        if known is None:
            self._scheduler.drop_machine(machine)
        else:
            self._scheduler.set_machine(known)

    def _apply_unit(self, name: str, view: Overview) -> None:
        if name in view.unreadable:
            self._scheduler.set_unreadable(name)
        elif name in view.units:
            self._scheduler.set_unit(view.units[name])
        else:
            self._scheduler.drop_unit(name)

    def _write(self, now: float, reign: _Reign, view: Overview, evictions: Evictions) -> float:
        """Write one transaction, or plan when all is written and has come back; returns when to continue."""
        if not self._writes:
            if view.revision < self._written:
                if now >= self._heard_at + CATCH_UP_S:
                    _LOG.warning("the engine's own writes do not come back through its watch")
                    self.subscription = None
                    return now
                return self._heard_at + CATCH_UP_S
            plan = self._scheduler.plan()
            for decision in plan.decisions:
                _LOG.info("%s", described(decision))
            self._writes.extend(batches(self._registry, plan))
        if self._writes:
            ops = self._writes[0]
            fence = Compare.created(self._registry.key_leader, "==", reign.fence)
            done = self._client.txn([fence], ops)
            if not done.succeeded:
                self._step_down("another one leads")
                return now
            self._writes.popleft()  # not before: what failed is sent again, for the scheduler counts it as done
            if any(op.kind == "put" for op in ops) or any(each.deleted for each in done.responses):
                self._written, self._heard_at = done.revision, now
            return now
        departure = evictions.next_due()
        return now + IDLE_S if departure is None else min(now + IDLE_S, departure)

    # Ending

    def _subscribe(self, prefix: str, revision: int) -> None:
        self._serial += 1
        self._batches.clear()
        self.subscription = Subscription(prefix, revision, self._serial)

    def _forget_view(self) -> None:
        self.subscription = None
        self._view = None
        self._evictions = None
        self._batches.clear()
        self._writes.clear()

    def _step_down(self, why: str) -> None:
        _LOG.warning("this engine no longer leads: %s", why)
        self._reign = None
        self._forget_view()


def described(decision: Decision) -> str:
    """A decision as a line for the journal."""
    if decision.placement is None:
        because = (
            decision.why.value
            if decision.rejection is None
            else f"{decision.rejection.kind.value} {decision.rejection.detail}"
        )
        return f"{decision.unit} leaves {decision.machine}: {because}"
    if decision.why is Why.CHANGED:
        return f"{decision.unit} changes on {decision.machine}: {decision.placement.desired.value}"
    return f"{decision.unit} goes to {decision.machine}: {decision.why.value}"


def batches(registry: Registry, plan: Plan) -> Iterator[list[Op]]:
    """A plan as lists of operations, each small enough for a transaction.

    All of one unit is together (a move is one transaction) unless it alone is too much: a global unit on hundreds of
    machines.
    """
    by_unit: dict[str, list[Op]] = {}
    for decision in plan.decisions:
        key = registry.key_schedule(decision.machine, decision.unit)
        op = Op.delete(key) if decision.placement is None else Op.put(key, codec.placement_bytes(decision.placement))
        by_unit.setdefault(decision.unit, []).append(op)
    for unit, text in plan.explanations:
        key = registry.key_status(unit)
        by_unit.setdefault(unit, []).append(Op.delete(key) if text is None else Op.put(key, codec.status_bytes(text)))
    batch: list[Op] = []
    size = 0
    for unit in sorted(by_unit):
        ops = by_unit[unit]
        weight = sum(len(op.key) + len(op.value_bytes) for op in ops)
        if batch and (len(batch) + len(ops) > OPS_MAX or size + weight > BYTES_MAX):
            yield batch
            batch, size = [], 0
        for op in ops:
            weight = len(op.key) + len(op.value_bytes)
            if batch and (len(batch) >= OPS_MAX or size + weight > BYTES_MAX):
                yield batch
                batch, size = [], 0
            batch.append(op)
            size += weight
    if batch:
        yield batch
