"""A node's rounds: it says what it is, becomes what the others made of it, and, if it leads the voters, takes the next
step of the membership.

Who leads is raft's leader, so that there is one. One that led and does not know yet that it does not any more is held
off three times: its changes go through raft, which refuses them; it writes what it is about to do in a transaction that
fails if another leader has written meanwhile; and it drops a step that it looked for too long ago.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from discovery.beside import Beside, Peers, Running
from discovery.node import reached_at
from discovery.upkeep import desired, look
from discovery.upkeep.desired import Desired, Offer, Report
from discovery.upkeep.plan import History, Limits, Sight, Step, next_step, standing, wanted
from etcd.client import Client
from etcd.errors import EtcdError
from etcd.protocol import Compare, Member, Op
from etcd.transport import Tls
from terminal import Failure

REST: Final = 12
"""Rounds between two looks at everything while nothing is wrong; a proxy, which has nothing to lead, makes only those."""
STALE: Final = 2
"""Rounds after which what was seen is too old to act upon."""
AGAIN: Final = 2
"""Rounds after which a process that was asked to end, and is still there, is asked again."""


class Settings(NamedTuple):
    """``every_s``: between two rounds of a voter. ``machine`` is this node's id among the keys below ``machines``."""

    machine: str
    every_s: float = 5.0
    limits: Limits = Limits()
    prefix: str = desired.PREFIX
    machines: str = desired.MACHINES
    timeout_s: float = 3.0


class Upkeep:
    """One node's. ``restart`` ends this node's etcd, which is then started again, as what it should be."""

    def __init__(
        self,
        beside: Beside,
        settings: Settings,
        *,
        tls: Tls | None = None,
        say: Callable[[str], None],
        restart: Callable[[Running], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beside = beside
        self._settings = settings
        self._tls = tls
        self._say = say
        self._restart = restart
        self._clock = clock
        self._client: Client | None = None
        self._endpoints: tuple[str, ...] = ()
        self._wake = threading.Event()
        self._stopped = False
        self._asked_at = float("-inf")
        self._offered: tuple[str, int] | None = None
        self._rounds = 0
        self._history: History | None = None
        self._failures: dict[str, int] = {}
        self._said = ""

    def run(self) -> None:
        """Make rounds until :meth:`stop`, from any thread."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        while not self._stopped:
            pause_s = self._settings.every_s
            try:
                pause_s = self.round()
            except (Failure, OSError) as trouble:
                self._history = None  # a look is missing: absences are counted from the next one on
                self._report(trouble.on_one_line if isinstance(trouble, Failure) else f"cannot read: {trouble}")
            self._wake.wait(pause_s)
            self._wake.clear()

    def stop(self) -> None:
        """End :meth:`run`, after its present round."""
        self._stopped = True
        self._wake.set()
        if self._client is not None:
            self._client.close()

    def round(self) -> float:
        """Look, and do what there is to do; returns how many seconds the next round may wait. Raises Failure, OSError."""
        running = self._beside.read_running()
        if running is None or not running.is_alive:
            self._history = None
            return self._settings.every_s
        client = self._connected(running)
        members = client.members(agreed=True)
        self._learn(running, members)
        mine = next((each for each in members if not set(each.peer_urls).isdisjoint(running.urls)), None)
        self._rounds += 1
        if running.kind == "proxy":
            self._history = None
            self._offer(client, running, "proxy", mine.id if mine is not None and mine.name else 0)
            if mine is not None and not mine.name:
                self._end(running, "the others have added this node: it joins them")
                return self._settings.every_s
            self._follow(running, members)
            return self._settings.every_s * REST
        if mine is None:
            return self._settings.every_s  # etcd notices it by itself, and ends
        self._offer(client, running, "learner" if mine.learner else "voter", 0)
        if client.status(running.client).leader != mine.id:
            self._history = None
            return self._settings.every_s
        return self._lead(client, running, mine, members)

    # What every node does

    def _connected(self, running: Running) -> Client:
        """A client that begins at this machine's own address, and goes on with the members that were last seen."""
        endpoints = tuple(dict.fromkeys((running.client, *self._endpoints)))
        if self._client is None or endpoints != self._endpoints:
            if self._client is not None:
                self._client.close()
            self._client = Client(endpoints, timeout=self._settings.timeout_s, tls=self._tls)
            self._endpoints = endpoints
        return self._client

    def _learn(self, running: Running, members: tuple[Member, ...]) -> None:
        """Remember where the members are, for a start at which fewer answer."""
        self._beside.write_peers(Peers(running.discovery, tuple(url for each in members for url in each.peer_urls)))
        clients = (url for each in members if not each.learner for url in reached_at(each))
        endpoints = tuple(dict.fromkeys((running.client, *clients)))
        if endpoints != self._endpoints:
            self._client, self._endpoints = None, endpoints

    def _offer(self, client: Client, running: Running, role: str, lost: int) -> None:
        """Say what this node is, if that is not what its key says."""
        if self._offered == (role, lost) and self._rounds % REST:
            return
        key, prefix = desired.key_node(self._settings.prefix, running.name), desired.key_node(self._settings.prefix, "")
        found = client.get(key)
        known = desired.decode_offer(found.value) if found is not None else None
        since = known.since if known is not None and known.role == role else now()
        offer = Offer(running.urls, self._settings.machine, role, since, lost)
        if offer != known:
            former = (
                kv.key
                for kv in client.range(prefix).kvs
                if kv.key != key
                and (other := desired.decode_offer(kv.value)) is not None
                and not set(other.urls).isdisjoint(running.urls)
            )
            client.txn((), [Op.put(key, offer.encoded()), *map(Op.delete, former)])
        self._offered = role, lost

    def _follow(self, running: Running, members: tuple[Member, ...]) -> None:
        """Be the proxy of all members that there are now. One that is gone does no harm."""
        known = self._beside.read_proxied()
        voters = (each for each in members if not each.learner and set(each.peer_urls).isdisjoint(running.urls))
        endpoints = tuple(url.partition("://")[2] for each in voters for url in reached_at(each))
        if not set(endpoints) <= set(known.endpoints):
            self._end(running, f"the members are others than before: is a proxy of {', '.join(endpoints)}")

    def _end(self, running: Running, why: str) -> None:
        if self._clock() >= self._asked_at + AGAIN * self._settings.every_s:
            self._asked_at = self._clock()
            self._report(why)
            self._restart(running)

    # What the leader does

    def _lead(self, client: Client, running: Running, mine: Member, members: tuple[Member, ...]) -> float:
        began = self._clock()
        if self._history is None:
            self._history, self._rounds = History(), 0
        seen = self._history.seen(members, look.healths(client, members, mine.id), self._clock())
        if self._rounds % REST and all(each.healthy and not each.learner for each in seen):
            return self._settings.every_s
        found = desired.decode(client.range(self._settings.prefix).kvs, self._settings.prefix)
        alive = look.Leased(client, self._settings.machines).alive()
        target = found.report.target if found.report is not None else 0
        sight = Sight(mine.id, seen, found.nodes(self._failures), alive, found.size, target)
        step = next_step(sight, self._settings.limits)
        if not self._written(client, running, sight, step, found):
            self._report("another member leads")
            return self._settings.every_s
        self._report(f"{step.kind}: {step.reason}")
        if step.kind == "nothing":
            return self._settings.every_s
        if self._clock() > began + max(STALE * self._settings.every_s, 2 * self._settings.timeout_s):
            return 0.0
        self._rounds = -1  # the next round looks at everything
        self._take(client, step)
        return self._settings.every_s / 5

    def _take(self, client: Client, step: Step) -> None:
        """Etcd itself refuses a change that is not safe; it is asked again in a later round."""
        if step.kind == "add":
            client.add_learner(step.urls)
        elif step.kind == "promote":
            client.promote(step.member)
        else:
            client.remove_member(step.member)
        if step.kind == "evict":
            self._failures[step.node] = self._failures.get(step.node, 0) + 1

    def _written(self, client: Client, running: Running, sight: Sight, step: Step, found: Desired) -> bool:
        """Say what is about to be done; whether no other leader has said something since ``found`` was read."""
        key, before = desired.key_report(self._settings.prefix), found.report
        report = _report(running.name, sight, step, before)
        write = Op.get(key) if report == before else Op.put(key, report.encoded())
        return client.txn([Compare.modified(key, "==", found.fence)], [write]).succeeded

    def _watch(self) -> None:
        """Wake the rounds when the leader has said something new."""
        while not self._stopped:
            client = self._client
            if client is not None:
                with suppress(EtcdError), closing(client.watch(desired.key_report(self._settings.prefix))) as watch:
                    for batch in watch:
                        if batch.events:
                            self._wake.set()
            time.sleep(self._settings.every_s)

    def _report(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)


def _report(by: str, sight: Sight, step: Step, before: Report | None) -> Report:
    """What stays as it was keeps the time since when it is so."""
    at = now()
    known: Mapping[int, tuple[str, str]] = before.members if before is not None else {}
    members = {}
    for each in sight.members:
        text = standing(sight, each)
        said, since = known.get(each.id, ("", at))
        members[each.id] = text, since if said == text else at
    bare = step._replace(urls=())
    since = before.since if before is not None and before.step == bare else at
    return Report(by, bare, since, wanted(sight), members)


def now() -> str:
    """The time of day, as keys have it: UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
