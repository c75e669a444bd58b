"""The engine: on every machine, leading on one. It turns plans into orders.

Most engines are followers, which watch the posts of engines and nothing else. The leader has a view of the whole
prefix: one read, then a watch from the next revision on. It plans on that view, writes the plan in fenced transactions,
and plans again only when its own writes have come back through the watch; so a plan is always based on what etcd
contains.

*A standby* is a follower that has a post, too, under a lease of its own. It keeps view and scheduler as the leader
does, and so has nothing to read when it succeeds it. The others give it a moment to be first. There is one, since each
costs etcd all events of the cluster, and its machine the memory and the time. The API of a follower may want the view
as well (:class:`fleet.model.live.Live`).

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
from dataclasses import dataclass
from zlib import crc32

from etcd.errors import Compacted, EtcdError, LeaseNotFound, Unavailable
from etcd.protocol import Compare, Etcd, Event, Op, WatchBatch
from fleet.engine.chronicle import Chronicle, Glimpse, of_change, of_plan
from fleet.engine.planner import Planner
from fleet.engine.retention import Retention
from fleet.engine.writes import Write, batches, described
from fleet.model import codec, events
from fleet.model.events import Bound
from fleet.model.live import Live
from fleet.model.overview import Overview
from fleet.model.registry import LEADER, Registry
from fleet.model.watch import Subscription
from fleet.scheduler.schedule import Plan

CATCH_UP_S = 10.0
IDLE_S = 30.0
BACKOFF_S = (0.5, 15.0)
STANDBYS = 1
BOUND = Bound()
LEAVE_S = 1.5
"""What other followers leave the standbys to succeed the leader."""
AGAIN_S = 1.0
SPREAD_S = 2.0
"""A vacant post of a standby is taken by one after the other, so that not all machines of a large cluster try."""

_LOG = logging.getLogger(__name__)


@dataclass
class _Post:
    """A post: its lease, the revision that made its key, which fences the leader's writes, and whether etcd reported
    the lease gone.

    ``doubted`` is the machine of the leader before it: as long as nothing was heard of it, and not longer than until
    ``doubted_until``, it may be dead.
    """

    key: str
    lease: int
    fence: int
    doubted: str = ""
    doubted_until: float = 0.0
    is_over: bool = False


class Engine:
    """One machine's engine. Call :meth:`step` from one thread and :meth:`keep` from another; pass it what its
    :attr:`subscription` brings.

    ``ttl_s`` is the lease of a leader or standby, ``agent_ttl_s`` that of machines; ``keeper`` renews the former, if it
    is not to be the registry's client. ``live`` is the view that this
    engine is to feed for others, and ``standbys`` how many engines are to be ready to succeed; ``bound`` is that of the
    log of events.
    """

    def __init__(
        self,
        registry: Registry,
        machine: str,
        *,
        ttl_s: int = 10,
        agent_ttl_s: float = 30.0,
        keeper: Etcd | None = None,
        live: Live | None = None,
        standbys: int = STANDBYS,
        bound: Bound = BOUND,
    ) -> None:
        self.subscription: Subscription | None = None
        self._registry = registry
        self._client = registry.client
        self._keeper = keeper or registry.client
        self._machine = machine
        self._ttl_s = ttl_s
        self._agent_ttl_s = agent_ttl_s
        self._live = live or Live(registry)
        self._standbys = standbys
        self._reign: _Post | None = None
        self._seat: _Post | None = None
        self._posts: dict[str, str] = {}  # the machine of each that is held
        self._predecessor = ""
        self._vacant_since: dict[str, float] = {}
        self._view: Overview | None = None
        self._planner: Planner | None = None
        self._show_from = (0, 0.0)
        self._batches: deque[WatchBatch] = deque()
        self._writes: deque[Write] = deque()
        self._chronicle = Chronicle(registry.log)
        self._retention = Retention(registry.log, bound)
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

    @property
    def role(self) -> str:
        """``leader``, ``standby`` or ``follower``, as it believes."""
        return "leader" if self._reign is not None else "standby" if self._seat is not None else "follower"

    @property
    def limits_evictions(self) -> bool:
        """Whether it leads, and so many machines are away that their units move slowly."""
        return self._reign is not None and self._planner is not None and self._planner.evictions.is_mass

    def deliver(self, batch: WatchBatch) -> None:
        """Take a batch of the subscription; :meth:`step` handles it."""
        self._batches.append(batch)

    def lost(self, error: EtcdError) -> None:
        """The subscription has ended, and why."""
        self._lost = error

    def keep(self, now: float) -> float:
        """Renew the lease of this engine's post, if it has one.

        Returns when to call again at the latest. From a thread of its own.

        Errors are retried, never raised. A lease that cannot be renewed may live on all the same (a new leader of etcd
        prolongs all leases), so that only etcd's report that it is gone ends the leadership, at the next step.
        """
        post = self._reign or self._seat
        if post is None:
            return now + self._ttl_s / 3
        try:
            if self._keeper.lease_keepalive(post.lease) <= 0:
                post.is_over = True
            self._keep_trouble = ""
            self._registry.vitals.count("fleet_engine_renewals_total", "done")
        except EtcdError as error:
            if error.on_one_line != self._keep_trouble:
                _LOG.warning("the engine's lease was not renewed: %s", error.on_one_line)
            self._keep_trouble = error.on_one_line
            self._registry.vitals.count("fleet_engine_renewals_total", "failed")
            return now + self._ttl_s / 10
        return now + self._ttl_s / 3

    def step(self, now: float) -> float:
        """Do what is due at ``now``.

        Returns when to call again at the latest. Errors of etcd are retried, never raised."""
        if self._lost is not None:
            if self._view is None or isinstance(self._lost, Compacted):
                self._forget_view()
            self.subscription = self._lost = None
            self._live.show(None)
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
        post = self._reign or self._seat
        if self._reign is not None:
            self._step_down("resigned")
        self._seat = None
        if post is not None:
            try:
                self._client.lease_revoke(post.lease)
            except EtcdError as error:
                _LOG.warning("the engine's lease runs out by itself: %s", error.on_one_line)

    # Following

    def _follow(self, now: float) -> float:
        if self._seat is not None and self._seat.is_over:
            self._seat = None
        is_wanted = self._seat is not None or self._live.is_wanted(now)
        if self._view is not None and not is_wanted:
            self._forget_view()
        elif self._view is None and is_wanted:
            self._view = self._read()
            return now
        if self.subscription is None:
            self._resume(now, self._view) if self._view is not None else self._watch_posts()
        self._absorb(now)
        self._predecessor = self._posts.get(LEADER, self._predecessor)
        if self._seat is not None and self._view is not None:
            if self._planner is None:
                self._planner = Planner(self._view, now, agent_ttl_s=self._agent_ttl_s)
            self._planner.stand_by(now)
            self._chronicle.stand_by(now)
        due = now + IDLE_S
        for post in (LEADER, *self._seats()):
            if post in self._posts:
                self._vacant_since.pop(post, None)
            elif post == LEADER or self._seat is None:
                at = self._vacant_since.setdefault(post, now) + self._modesty_s(post)
                if now >= at and self._take_post(post, now):
                    return now
                due = min(due, max(at, now + AGAIN_S))
        return due

    def _seats(self) -> list[str]:
        return [f"standby/{number}" for number in range(self._standbys)]

    def _modesty_s(self, post: str) -> float:
        """How long this engine leaves a vacant post to others."""
        if post == LEADER:
            return 0.0 if self._seat is not None or self._posts.keys().isdisjoint(self._seats()) else LEAVE_S
        return SPREAD_S * (crc32(self._machine.encode()) % 100) / 100

    def _watch_posts(self) -> None:
        prefix = self._registry.prefix + "engine/"
        found = self._client.range(prefix)
        self._posts = {each.key.removeprefix(prefix): self._registry.holder(each) for each in found.kvs}
        self._subscribe(prefix, found.revision + 1)

    def _take_post(self, post: str, now: float) -> bool:
        """Try to take a vacant post. A standby that succeeds the leader goes on with its lease."""
        key = f"{self._registry.prefix}engine/{post}"
        seat = self._seat
        lease = self._client.lease_grant(self._ttl_s).id if seat is None else seat.lease
        ops = [Op.put(key, codec.leader_bytes(self._machine), lease=lease)]
        if post == LEADER:
            former = "" if self._predecessor == self._machine else self._predecessor
            event = events.Event(events.Kind.LEADER, machine=self._machine, former=former)
            ops.append(self._registry.log.put([event], self._name))
        try:
            done = self._client.txn(
                [Compare.created(key, "==", 0)], ops if seat is None else [*ops, Op.delete(seat.key)]
            )
        except LeaseNotFound:
            self._seat = None
            raise
        if not done.succeeded:
            if seat is None:
                self._client.lease_revoke(lease)
            self._posts[post] = ""  # its event is on its way
            return False
        self._vacant_since.clear()
        if post != LEADER:
            self._seat = _Post(key, lease, done.revision)
            _LOG.info("this engine stands by to lead")
            return True
        doubted = "" if self._predecessor == self._machine else self._predecessor
        self._reign, self._seat = _Post(key, lease, done.revision, doubted, now + self._agent_ttl_s), None
        self._predecessor = self._machine
        # Whatever the predecessor wrote has a smaller revision: no plan before the view contains that.
        self._written, self._heard_at = done.revision, now
        self._retention.begin(now)
        self._registry.vitals.count("fleet_engine_reigns_total")
        _LOG.info("this engine leads from revision %d on", done.revision)
        if self._view is None or self.subscription is None:
            self._forget_view()
        elif self._planner is not None:
            self._planner.succeed()
        return True

    # Leading

    def _lead(self, now: float, reign: _Post) -> float:
        if reign.is_over:
            self._step_down("its lease is gone")
            return now
        if self._view is None:
            self._view = self._read()
            return now  # time has passed, and the watch begins before the first plan
        if self.subscription is None:
            self._resume(now, self._view)
        if self._planner is None:
            self._planner = Planner(self._view, now, agent_ttl_s=self._agent_ttl_s)
            return now
        if not self._absorb(now):
            self._step_down("another engine has its key")
            return now
        self._planner.scheduler.doubted = reign.doubted if now < reign.doubted_until else ""
        self._planner.evict(now)
        return self._write(now, reign, self._view, self._planner)

    # The view

    def _read(self) -> Overview:
        self._forget_view()
        view = self._registry.overview()
        self._posts = view.posts
        self._subscribe(self._registry.prefix, view.revision + 1)
        self._written = 0
        self._show_from = (0, 0.0)
        return view

    def _resume(self, now: float, view: Overview) -> None:
        """Continue the watch from the view's revision."""
        newest = self._registry.revision()
        if newest < view.revision:
            raise EtcdError("etcd has gone back to an earlier revision")
        self._subscribe(self._registry.prefix, view.revision + 1)
        self._heard_at = now
        # Others may look when it has caught up. The newest revision may be of a key that is not fleet's.
        self._show_from = (newest, now + AGAIN_S)
        if self._planner is not None:
            self._planner.evictions.interrupted(now)

    def _absorb(self, now: float) -> bool:
        """Take what the watch has brought; returns whether the leader's key is still this engine's, if it leads."""
        self._show(now)
        while self._batches:
            batch = self._batches.popleft()
            with self._live.changing():
                for event in batch.events:
                    self._apply(event, now)
                if self._view is not None:
                    self._view.revision = max(self._view.revision, batch.revision)
            self._heard_at = now
            self._show(now)
            if self._reign is not None and not self._is_ours(batch, self._reign):
                return False
        return True

    def _is_ours(self, batch: WatchBatch, reign: _Post) -> bool:
        """Whether the leader's key is still this engine's; notes what is heard of its predecessor's machine."""
        for event in batch.events:
            if event.kv.key == reign.key and event.kv.create_revision != reign.fence:
                return False
            if event.kind == "put" and self._registry.speaker(event.kv.key) == reign.doubted:
                reign.doubted = ""
        return True

    def _show(self, now: float) -> None:
        revision, at = self._show_from
        if self._view is not None and self.subscription is not None and (self._view.revision >= revision or now >= at):
            self._live.show(self._view)

    def _apply(self, event: Event, now: float) -> None:
        """Bring posts, view and scheduler up to date with one event."""
        kind, _, rest = event.kv.key.removeprefix(self._registry.prefix).partition("/")
        view = self._view
        before = None if view is None or self._planner is None else Glimpse.of(view, kind, rest)
        if view is None:  # only the posts are followed
            if event.kind == "put":
                self._posts[rest] = self._registry.holder(event.kv)
            else:
                self._posts.pop(rest, None)
        elif event.kind == "put":
            view.put(event.kv)
        else:
            view.delete(event.kv.key)
        if self._seat is not None and event.kv.key == self._seat.key and event.kv.create_revision != self._seat.fence:
            self._seat = None
        if self._planner is not None:
            self._planner.changed(kind, rest, event.kv.mod_revision, now)
        if view is not None and before is not None:
            happened = of_change(view, kind, rest, before)
            if happened is not None:
                self._chronicle.note(happened, event.kv.mod_revision, now)
            if kind == "units":
                self._retention.wrote(2)  # its user has written one event or two

    # Writing

    def _write(self, now: float, reign: _Post, view: Overview, planner: Planner) -> float:
        """Write one transaction, or plan when all is written and has come back; returns when to continue."""
        if not self._writes:
            if view.revision < self._written:
                if now >= self._heard_at + CATCH_UP_S:
                    _LOG.warning("the engine's own writes do not come back through its watch")
                    self.subscription = None
                    return now
                return self._heard_at + CATCH_UP_S
            self._chronicle.prepare()  # not after the plan, which is lost if etcd does not answer
            plan = planner.plan()
            if plan is None:
                return now
            for decision in plan.decisions:
                _LOG.info("%s", described(decision))
                self._registry.vitals.count("fleet_engine_decisions_total", decision.why.value)
            self._queue(now, view, planner, plan)
        if self._writes:
            write = self._writes[0]
            fence = Compare.created(reign.key, "==", reign.fence)
            done = self._client.txn([fence], [*write.ops, *write.log])
            if not done.succeeded:
                self._step_down("another one leads")
                return now
            self._writes.popleft()  # not before: what failed is sent again, for the scheduler counts it as done
            self._registry.vitals.count("fleet_engine_writes_total")
            if write.has_notes:
                self._chronicle.written(write.seen)
            # The view does not contain the log: what changes only that does not come back.
            if any(op.kind == "put" for op in write.ops) or any(
                each.deleted for each in done.responses[: len(write.ops)]
            ):
                self._written, self._heard_at = done.revision, now
            return now
        due = (planner.evictions.next_due(), self._chronicle.due(), self._retention.due())
        return min([now + IDLE_S, *(each for each in due if each is not None)])

    def _queue(self, now: float, view: Overview, planner: Planner, plan: Plan) -> None:
        """Make transactions of a plan, of what the log needs, or of both."""
        for each in planner.events:
            self._chronicle.note(each, 0, now)
        planner.events.clear()
        waiting = [
            (unit, text)
            for unit, text in plan.explanations
            if text is not None and unit not in view.reasons and not planner.scheduler.is_global(unit)
        ]
        happened = of_plan(plan, waiting)
        pairs = list(batches(self._registry, plan, happened))
        notes, seen = self._chronicle.take(now, with_others=bool(pairs))
        if notes and not pairs:
            pairs.append(([], []))
        for number, (ops, said) in enumerate(pairs):
            write = Write(ops)
            if number == 0:
                said = [*notes, *happened.get("", ()), *said]
                write.has_notes, write.seen = bool(notes), seen
            if said:
                write.log.append(self._registry.log.put(said, self._name))
                self._retention.wrote(len(said))
            if write.seen:
                write.log.append(self._registry.log.put_seen(seen))
            self._writes.append(write)
        if not self._writes and self._retention.is_due(now):
            self._writes.extend(Write([], ops) for ops in self._retention.prune(now))

    # Ending

    def _subscribe(self, prefix: str, revision: int) -> None:
        self._serial += 1
        self._batches.clear()
        self.subscription = Subscription(prefix, revision, self._serial)

    @property
    def _name(self) -> str:
        """How the log calls this engine."""
        return f"fleetd {self._machine}"

    def _forget_view(self) -> None:
        self.subscription = None
        self._live.show(None)
        self._view = self._planner = None
        self._batches.clear()
        if any(not each.ops for each in self._writes):
            self._retention.doubt()
        self._writes.clear()
        self._chronicle.doubt()

    def _step_down(self, why: str) -> None:
        _LOG.warning("this engine no longer leads: %s", why)
        self._reign = None
        self._forget_view()
        self._chronicle.clear()
        self._retention.end()
