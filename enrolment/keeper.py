"""When a node enrols, renews and reads lists: for as long as it runs, without a person.

Renewal is due at two thirds of the certificates' life, a little later on some nodes than on others, so that not all ask
and restart at once. What fails is tried again, ever more seldom. A clock that jumps does no harm: one that is behind
renews late, and one that is ahead renews at once, and again an hour later at the earliest.
"""

from __future__ import annotations

import datetime
import hashlib
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from enrolment import node
from enrolment.client import Issuer
from enrolment.node import ORDERS, Orders
from enrolment.place import Enrolment, Place
from terminal import Failure

LISTS_EVERY_S: Final = 20.0
"""What was revoked is on every node within a minute, an answer that is late included."""
_SPREAD_S: Final = 5.0
_ENROL_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
RENEW_DELAYS_S: Final = (60.0, 120.0, 300.0, 900.0, 3600.0)
"""After a failure; there is a third of the life to try in. The last one repeats, and follows a success, too."""
_SPREAD: Final = 30
"""One part in so many of the life: by that, at most, a renewal is late."""


def due(enrolment: Enrolment) -> datetime.datetime:
    """When these certificates are to be renewed."""
    issued, end = map(datetime.datetime.fromisoformat, (enrolment.issued, enrolment.not_after))
    share = int.from_bytes(hashlib.sha256(enrolment.name.encode()).digest()[:4], "big") / (1 << 32)
    life = end - issued
    return issued + life * 2 / 3 + life / _SPREAD * share


def restarted(authorities: bool) -> tuple[str, ...]:
    """The units that read their certificate once, when they start; etcd reads an authority once, too."""
    return (*("etcd.service",) * authorities, "etcd-upkeep.service", "fleet.service")


def enrol(
    place: Place,
    name: str,
    say: Callable[[str], None],
    *,
    orders: Path = ORDERS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Enrol as user-data says, if the node has not, however long that takes. Raises Failure: user-data says nothing."""
    wanted = node.orders(orders)
    if wanted is None:
        if place.enrolment() is None:
            raise Failure("user-data names no issuer", where=str(orders), hint="it does by flotilla.trust")
        return
    attempt, last = 0, ""
    while True:
        try:
            done = node.fulfilled(place, wanted)
            if not done:
                given = node.enrol(place, wanted, name)
                say(f"{given.name}: certificates of {given.url}, valid until {given.not_after}")
            orders.unlink(missing_ok=True)
        except Failure as failure:
            # Once for one trouble: it may last for hours.
            if (text := _one_line(failure)) != last:
                say(f"{text}; tries again")
            last = text
        else:
            return
        sleep(_ENROL_DELAYS_S[min(attempt, len(_ENROL_DELAYS_S) - 1)])
        attempt += 1


class Keeper:
    """Keeps a node's certificates new, and its lists. ``run`` gets the commands that restart what has to be."""

    def __init__(
        self,
        place: Place,
        say: Callable[[str], None],
        *,
        run: Callable[[Sequence[str]], None],
        orders: Path = ORDERS,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._say = say
        self._run = run
        self._orders = orders
        self._now = now
        self._clock = clock
        self._issuer: Issuer | None = None
        self._tag = ""
        self._is_lost = False
        self._failures = 0
        self._not_before = 0.0

    def step(self) -> float:
        """Do what is due; returns the seconds to the next step."""
        try:
            self._forget_secret()
            self._lists()
            if self._is_lost:
                self._say("the issuer answers again")
                self._is_lost = False
        except Failure as failure:
            self._issuer = None
            if not self._is_lost:
                self._say(f"{_one_line(failure)}; this node's lists of revoked certificates are what they were")
            self._is_lost = True
        if self._clock() >= self._not_before:
            self._renew()
        return LISTS_EVERY_S + random.uniform(0, _SPREAD_S)  # noqa: S311 - no secret

    def _lists(self) -> None:
        known = self._place.enrolment()
        if known is None:
            raise Failure("this node has not enrolled", where=str(self._place.link))
        if self._issuer is None:
            self._issuer = node.contact(known.url, known.fingerprint)
        self._tag, changed = node.refresh(self._place, self._issuer, self._tag)
        if changed:
            self._say("certificates were revoked: has the new lists")

    def _renew(self) -> None:
        try:
            known = self._place.enrolment()
            if known is None or self._now() < due(known):
                return
            given, authorities = node.renew(self._place)
        except Failure as failure:
            delay = RENEW_DELAYS_S[min(self._failures, len(RENEW_DELAYS_S) - 1)]
            self._failures += 1
            self._say(f"cannot renew: {_one_line(failure)}; tries again in {delay / 60:.0f} min")
        else:
            delay, self._failures = RENEW_DELAYS_S[-1], 0
            self._say(f"renewed, valid until {given.not_after}")
            self._tag = ""
            for unit in restarted(authorities):
                self._run(("systemctl", "--no-block", "try-restart", unit))
        self._not_before = self._clock() + delay

    def _forget_secret(self) -> None:
        """User-data was applied again, and the node has what it asks for."""
        wanted: Orders | None = node.orders(self._orders)
        if wanted is not None and node.fulfilled(self._place, wanted):
            self._orders.unlink(missing_ok=True)


def run(words: Sequence[str], say: Callable[[str], None]) -> None:
    """Run a command; what goes wrong is said."""
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"{' '.join(words)}: {error}")


def _one_line(failure: Failure) -> str:
    cause = f" ({failure.__cause__})" if failure.__cause__ is not None else ""
    return f"{failure.on_one_line}{cause}"
