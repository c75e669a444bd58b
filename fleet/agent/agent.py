"""The agent: carries out the orders for one machine and reports their results.

It follows ``schedule/<machine>/`` and nothing else. Each unit is handled independently (:mod:`fleet.agent.steps`): one
that hangs in its stop or cannot start delays no other. A unit's state is under the machine's lease, and written on
change only.

*Running units are never affected by failures of the control plane.* Without etcd the agent keeps to its last orders; if
it has never had any, it does nothing. A daemon that stops leaves units, files and lease as they are; the next one finds
them and carries on. When the lease was lost (this machine was cut off for a whole TTL, and its units may run elsewhere
by now) the agent registers again, reads its orders again, and begins with what must stop before anything that must
start.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

from etcd.errors import EtcdError, LeaseNotFound
from etcd.protocol import Compare, KeyValue, Op, WatchBatch
from fleet.agent.registration import DuplicateMachine, Presence, Registration
from fleet.agent.sight import Explanation, Seen, is_refusal, look
from fleet.agent.slot import UNIT_BACKOFF_S, Slot
from fleet.agent.steps import Ended, Here, Outcome, Step, Systemd, await_end, perform
from fleet.agent.unitstore import StoreError, UnitStore
from fleet.model import codec
from fleet.model.entities import RUNNING, STARTING, Desired, Machine, Placement
from fleet.model.registry import Registry
from fleet.model.watch import Subscription

OPS_MAX = 100
POLL_S = 30.0
QUIET_S = 0.5
CHECK_S = 60.0
BACKOFF_S = (0.5, 1.0)
"""Short: no lease may run out after etcd is back, and a machine that rebooted must be there within the engine's
grace."""

_LOG = logging.getLogger(__name__)

Task = Callable[[], Outcome | Ended | Seen]


class Agent:
    """One machine's agent. Call :meth:`step` from one thread; ``run`` gets tasks to carry out beside it, whose outcome
    must come back through :meth:`finished`. ``systemd`` must report changes to :meth:`observed`.
    """

    def __init__(
        self,
        registry: Registry,
        machine: Machine,
        systemd: Systemd,
        store: UnitStore,
        run: Callable[[Task], None],
        *,
        ttl_s: int = 30,
    ) -> None:
        self.subscription: Subscription | None = None
        self._registry = registry
        self._client = registry.client
        self._machine = machine
        self._systemd = systemd
        self._store = store
        self._run = run
        self._registration = Registration(registry, machine, ttl_s=ttl_s)
        self._presence: Presence | None = None
        self._has_orders = False
        self._slots: dict[str, Slot] = {}
        self._changed: set[str] = set()
        self._awake: set[str] = set()  # units about which there may be something to do or to write
        self._batches: deque[WatchBatch] = deque()
        self._serial = 0
        self._retry_at = 0.0
        self._backoff_s = BACKOFF_S[0]
        self._poll_at = 0.0
        self._look_at = 0.0
        self._looking: set[str] = set()
        self._check_at = 0.0
        self._is_lost = False
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why this machine is not registered at the moment; "" when it is."""
        return self._trouble

    @property
    def launched(self) -> int:
        """How many units were started here and not stopped."""
        return sum(slot.here.reached is Desired.LAUNCHED for slot in self._slots.values())

    def leave(self, *, at_once: bool) -> bool:
        """Leave the cluster once no unit runs here, or ``at_once``; whether it has. For a machine that shuts down."""
        leaves = at_once or all(slot.seen.active in ("", "inactive", "failed") for slot in self._slots.values())
        if leaves:
            self._registration.leave()
        return leaves

    def become(self, machine: Machine) -> None:
        """This machine has another address or other metadata from now on. Its id is the same."""
        self._machine = machine
        self._registration.become(machine)

    def report(self) -> dict[str, object]:
        """All that is known of this machine and its units, for a person who looks for an error; JSON can hold it."""
        return {
            "machine": self._machine.id,
            "ip": self._machine.ip,
            "metadata": dict(self._machine.metadata),
            "registered": self._presence is not None,
            "trouble": self._trouble,
            "units": {name: slot.report() for name, slot in sorted(self._slots.items())},
        }

    def adopt(self) -> None:
        """Take over the unit files that an earlier daemon of this boot left. Call once, before the first step."""
        for name, digest in self._store.units().items():
            reached = Desired.LAUNCHED if self._store.is_launched(name) else Desired.LOADED
            self._slot(name).here = Here(digest, reached)
            self._changed.add(name)
            self._systemd.observe(name, wanted=True)

    def deliver(self, batch: WatchBatch) -> None:
        """Take a batch of the subscription; :meth:`step` handles it."""
        self._batches.append(batch)

    def lost(self, _: EtcdError) -> None:
        """The subscription has ended. Orders are read again: it costs no more than to find out where to resume."""
        self._is_lost = True

    def observed(self, units: Iterable[str]) -> None:
        """systemd reports that these units have changed."""
        self._changed.update(name for name in units if name in self._slots)

    def finished(self, outcome: Outcome | Ended | Seen, now: float) -> None:
        """A task has ended."""
        match outcome:
            case Seen():
                self._take_seen(outcome, now)
            case Ended():
                self._take_end(outcome)
            case Outcome():
                self._take_outcome(outcome, now)

    def _take_outcome(self, outcome: Outcome, now: float) -> None:
        slot = self._slot(outcome.unit)
        result = "failed" if outcome.error else "done"
        self._registry.vitals.count("fleet_agent_steps_total", outcome.step.value, result)
        slot.is_busy = False
        slot.here = outcome.here
        slot.error = outcome.error
        slot.is_refused = outcome.is_refused
        slot.job = outcome.job
        slot.start = STARTING if outcome.job else "refused" if outcome.is_refused else ""
        slot.ended = ""
        if outcome.job or not outcome.error:
            slot.explained = Explanation()  # of what was before
        if outcome.error:
            _LOG.warning("%s: %s", outcome.unit, outcome.error)
            self._postpone(slot, now)
        else:
            _LOG.info("%s: %s done", outcome.unit, outcome.step.value)
            slot.retry_at = 0.0
            if not outcome.job:  # a start is over when its job is
                slot.backoff_s = UNIT_BACKOFF_S[0]
        if outcome.job:
            self._run(lambda: await_end(outcome.unit, outcome.job, self._systemd))
        if outcome.step is Step.LOAD and not outcome.error:
            self._encourage(now)
        self._changed.add(outcome.unit)

    def _take_end(self, end: Ended) -> None:
        """A start job has ended. Its outcome is read from systemd next."""
        slot = self._slots.get(end.unit)
        if slot is None or slot.job != end.job:
            return  # it was stopped meanwhile
        self._awake.add(end.unit)
        slot.job, slot.ended = "", end.result
        if not end.result:
            slot.start = ""
        self._changed.add(end.unit)

    def _postpone(self, slot: Slot, now: float) -> None:
        slot.retry_at = now + slot.backoff_s
        slot.backoff_s = min(2 * slot.backoff_s, UNIT_BACKOFF_S[1])

    def _encourage(self, now: float) -> None:
        """A unit has come, or has started: another one may have been refused for want of it."""
        for slot in self._slots.values():
            if slot.is_refused:
                slot.retry_at = min(slot.retry_at, now)

    def step(self, now: float) -> float:
        """Do what is due at ``now``; returns when to call again at the latest. Errors are retried, never raised."""
        due = [self._look(now)]
        if self._is_lost:
            self._is_lost = False
            self._forget_orders()
            self._retry_at = now + BACKOFF_S[0]  # a watch that breaks at once must not make a busy loop
        if now >= self._retry_at:
            try:
                self._listen(now)
                due.append(self._work(now))
                due.append(self._write_states(now))
                self._backoff_s = BACKOFF_S[0]
                self._trouble = ""
                due.append(self._registration.renew_at)
            except (EtcdError, DuplicateMachine) as error:
                self._wait(now, error)
        if now < self._retry_at:
            due.extend((self._work(now), self._retry_at))
        return min(due)

    def _wait(self, now: float, error: EtcdError | DuplicateMachine) -> None:
        if isinstance(error, LeaseNotFound):
            self._registration.drop()
        if str(error) != self._trouble:
            level = logging.ERROR if isinstance(error, DuplicateMachine) else logging.WARNING
            _LOG.log(level, "units run on as they are: %s", error.on_one_line)
        self._trouble = str(error)
        self._retry_at = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])

    # Orders

    def _listen(self, now: float) -> None:
        """Be registered, and know the orders."""
        if now >= self._check_at:
            self._check_at = now + CHECK_S
            if self._presence is not None and not self._registration.is_intact():
                _LOG.warning("this machine's key is gone; registering again")
                self._registration.drop()
        presence = self._registration.keep(now)
        if presence != self._presence:
            self._presence = presence
            self._forget_orders()
        if self.subscription is None:
            self._read_orders()
        while self._batches:
            for event in self._batches.popleft().events:
                if event.kind == "put":
                    self._take_order(event.kv)
                else:
                    self._registry.forget(event.kv.key)
                    self._drop_order(event.kv.key.rpartition("/")[2])

    def _read_orders(self) -> None:
        prefix = self._registry.key_schedule(self._machine.id)
        found = self._registry.ranged(prefix)
        spoken = self._client.range(self._registry.key_state(self._machine.id))
        for slot in self._slots.values():
            slot.written = None
        self._awake.update(self._slots)
        for each in spoken.kvs:
            is_lasting = self._presence is not None and each.lease == self._presence.lease
            self._slot(each.key.rpartition("/")[2]).written = each.value if is_lasting else b""
        ordered = {each.key.rpartition("/")[2] for each in found.kvs}
        for name in self._slots.keys() - ordered:
            self._drop_order(name)
        for each in found.kvs:
            self._take_order(each)
        self._has_orders = True
        self._serial += 1
        self.subscription = Subscription(prefix, found.revision + 1, self._serial)

    def _forget_orders(self) -> None:
        """The known orders may be out of date. They remain valid until the orders are read again."""
        self.subscription = None
        self._batches.clear()

    def _take_order(self, found: KeyValue) -> None:
        order = self._registry.decoded(found, codec.placement)
        name = found.key.rpartition("/")[2]
        slot = self._slot(name)
        slot.is_broken = order is None
        if order is not None and order != slot.order:
            slot.order = order
            self._begin_again(slot)

    def _drop_order(self, name: str) -> None:
        slot = self._slot(name)
        slot.order = None
        slot.is_broken = False
        self._begin_again(slot)

    def _begin_again(self, slot: Slot) -> None:
        slot.retry_at = 0.0
        slot.backoff_s = UNIT_BACKOFF_S[0]
        if slot.is_refused:
            slot.is_refused, slot.start, slot.error, slot.explained = False, "", "", Explanation()

    def _slot(self, name: str) -> Slot:
        """The slot of a unit that is about to change."""
        self._awake.add(name)
        return self._slots.setdefault(name, Slot())

    # Work

    def _work(self, now: float) -> float:
        """Begin the steps that can begin, stops first. Returns when the next retry is due."""
        due = now + POLL_S
        if not self._has_orders:
            return due
        wanted: list[tuple[bool, str, Step]] = []
        for name in self._awake:
            slot = self._slots[name]
            step = slot.next_step
            if step is None:
                continue
            if now < slot.retry_at:
                due = min(due, slot.retry_at)
            else:
                wanted.append((step in (Step.LOAD, Step.START), name, step))
        for _, name, step in sorted(wanted, key=lambda each: each[:2]):
            slot = self._slots[name]
            slot.is_busy = True
            self._run(self._task(step, name, slot.order, slot.here))
        return due

    def _task(self, step: Step, name: str, order: Placement | None, here: Here) -> Task:
        return lambda: perform(step, name, order, here, self._systemd, self._store)

    # States

    def _look(self, now: float) -> float:
        """Query systemd about units that changed, and regularly about all of them, in case a signal was lost.

        Outside the loop: a systemd that answers slowly must not keep this machine from renewing its lease.
        """
        if now >= self._poll_at:
            self._changed.update(self._slots)
            self._poll_at = now + POLL_S
        if self._looking:
            return self._poll_at
        if now < self._look_at:
            return self._look_at
        names = sorted(
            name for name in self._changed if name in self._slots and self._slots[name].here.reached is not None
        )
        self._changed.clear()
        if names:
            self._looking.update(names)
            ended = {name: self._slots[name].ended for name in names if self._slots[name].ended}
            # One whose start job runs is explained at its end.
            explained = {name for name in names if self._slots[name].explained.note or self._slots[name].job}
            self._run(lambda: look(names, self._systemd, ended, explained))
        return self._poll_at

    def _take_seen(self, seen: Seen, now: float) -> None:
        self._looking.clear()
        if seen.error:
            _LOG.warning("systemd does not report the state of units: %s", seen.error)
            self._changed.update(seen.units)
            self._look_at = now + QUIET_S
        for name, state in seen.states.items():
            slot = self._slots.get(name)
            if slot is None:
                continue
            self._awake.add(name)
            slot.seen = state
            if name in seen.explanations:
                slot.explained = seen.explanations[name]
            elif state.active in RUNNING:
                slot.explained = Explanation()
            if slot.ended and slot.ended == seen.ended.get(name):
                self._settle_start(name, slot, now)

    def _settle_start(self, name: str, slot: Slot, now: float) -> None:
        """A start job has ended, and this is how the unit is after it."""
        slot.start, slot.ended = slot.ended, ""
        if not is_refusal(slot.start, slot.seen):
            slot.backoff_s = UNIT_BACKOFF_S[0]
            if slot.seen.active in RUNNING:
                self._encourage(now)
            return
        # As if it had not been requested: so it is tried again, by the next daemon, too.
        slot.is_refused = True
        slot.error = slot.explained.note
        slot.here = Here(slot.here.hash, Desired.LOADED)
        try:
            self._store.mark_launched(name, launched=False)
        except StoreError as error:
            _LOG.warning("%s", error)
        _LOG.warning("%s: %s", name, slot.error)
        self._postpone(slot, now)

    def _write_states(self, now: float) -> float:
        """Write what has changed; returns when something that was held back is due.

        The state of a unit in transition (one of its steps runs, or systemd is being queried about it) is held back for
        a moment, so that a unit that is loaded, started and runs is written once, and immediately after.
        """
        due = now + POLL_S
        ops: list[tuple[str, bytes | None]] = []
        for name in self._awake:
            slot = self._slots[name]
            value = slot.state(name, self._machine.id)
            if value == slot.written:
                slot.hold_until = 0.0
                continue
            ready_at = slot.write_at
            if slot.is_busy or slot.job or slot.ended or name in self._changed or name in self._looking:
                slot.hold_until = slot.hold_until or now + QUIET_S
                ready_at = max(ready_at, slot.hold_until)
            if value is not None and now < ready_at:
                due = min(due, ready_at)
            else:
                ops.append((name, value))
        for begin in range(0, len(ops), OPS_MAX):
            self._put_states(ops[begin : begin + OPS_MAX], now)
        for name in list(self._awake):
            slot = self._slots[name]
            if slot.is_over:
                del self._slots[name]
            if slot.is_over or (slot.next_step is None and slot.written == slot.state(name, self._machine.id)):
                self._awake.discard(name)
        return due

    def _put_states(self, states: list[tuple[str, bytes | None]], now: float) -> None:
        presence = self._presence
        if presence is None:
            return
        ops = []
        for name, value in states:
            key = self._registry.key_state(self._machine.id, name)
            ops.append(Op.delete(key) if value is None else Op.put(key, value, lease=presence.lease))
        fence = Compare.created(self._registry.key_machine(self._machine.id), "==", presence.fence)
        if not self._client.txn([fence], ops).succeeded:
            _LOG.warning("another daemon has this machine's key; registering again")
            self._registration.drop()
            self._presence = None
            return
        for name, value in states:
            self._slots[name].written = value
            self._slots[name].write_at = now + QUIET_S
            self._slots[name].hold_until = 0.0
