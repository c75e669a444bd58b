"""One command's dealings with a cluster: what it last read of its units, and patience with a cluster in trouble.

While etcd elects a leader, or a fleetd restarts, or the node at the other end of the tunnel dies, a command that has
begun goes on: it says so once, tries again, and opens another way if the one that it had is broken. A request that may
have been carried out is looked at before it is made again: someone else may have changed the unit since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from fleet.ctl import waiting
from fleet.ctl.client import ApiError, Progress, UnitRecord, Unreachable
from fleet.ctl.reach import Reach
from fleet.model.entities import Machine, UnitState
from terminal import Failure
from unitfile.text import UnitFile

PATIENCE_S = 60.0
"""Seconds of trouble that a command bears that does not wait for its units, and so has no limit of its own."""

BATCH_MAX = 100
"""Units of one request that changes them."""

BATCH_SIZE_MAX = 256 << 10
"""Characters of their texts: etcd takes 1.5 MiB, and JSON may need some bytes for each."""

Answer = TypeVar("Answer")


class Session:
    """The cluster as one command sees it. ``report`` gets what the user should know meanwhile.

    ``patience_s`` is how long trouble may last (``None``: for ever). Nothing is borne before the first answer: then the
    endpoint is probably wrong. Methods raise :class:`Failure`."""

    def __init__(
        self,
        reach: Reach,
        report: Callable[[str], None],
        patience_s: float | None = PATIENCE_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = reach.client
        self._reach = reach
        self._report = report
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._has_answered = False
        self._progress: dict[str, Progress] = {}
        self._texts: dict[str, UnitFile] = {}
        self._machines: dict[str, Machine] = {}

    # What was read

    def refresh(self, names: Collection[str]) -> None:
        """Read these units, once: whoever waits for them has patience of his own.

        Raises :class:`Trouble` for what may pass."""
        try:
            self._read(names)
        except (ApiError, Unreachable) as failure:
            raise self._trouble(failure) from failure

    def read(self, names: Collection[str]) -> None:
        """Read these units."""
        self.ask(lambda: self._read(names))

    def _read(self, names: Collection[str]) -> None:
        for wanted, is_brief in (
            ([name for name in names if name in self._texts], True),
            ([name for name in names if name not in self._texts], False),
        ):
            found = self.client.progress({name: self._home(name) for name in wanted}, is_brief=is_brief)
            for name in wanted:
                self._progress[name] = found.get(name, Progress(None, ()))
                record = self._progress[name].record
                if record is not None and not is_brief:
                    self._texts[name] = record.unitfile

    def _home(self, name: str) -> str:
        known = self._progress.get(name)
        if known is None:
            return ""
        if known.record is not None and known.record.machine:
            return known.record.machine
        return known.states[0].machine if known.states else ""

    def record(self, name: str) -> UnitRecord | None:
        """A unit as it was read last; its text as it was read first, or put since."""
        found = self._progress[name].record if name in self._progress else None
        return None if found is None else found.with_text(self._texts.get(name, found.unitfile))

    def states(self, name: str) -> Sequence[UnitState]:
        """What machines said of a unit when it was read last."""
        return self._progress[name].states if name in self._progress else ()

    def machine(self, identity: str) -> Machine:
        """The machine of that id, read when it is first needed; only its id when it is gone."""
        if identity and identity not in self._machines:
            self._machines |= {each.id: each for each in self.ask(lambda: self.client.machines())}
        return self._machines.get(identity, Machine(identity))

    # What is requested

    def want(self, units: Mapping[str, UnitFile | None], desired: str) -> None:
        """Request a state of units. Those with a text are created, or replaced when their text differs.

        What ends it early says which units it has requested."""
        done: list[str] = []
        with self.reporting(list(units), done):
            for batch in _batches(units):
                self.ask(partial(self._put, batch, desired), partial(self._have, batch, desired))
                done.extend(batch)
                for name in batch:
                    if batch[name] is not None:
                        self._texts.pop(name, None)

    def delete(self, name: str) -> None:
        """Remove the unit, if it is there."""
        self.ask(partial(self.client.delete, name), lambda: True if self.client.unit(name) is None else None)

    def _put(self, units: Mapping[str, UnitFile | None], desired: str) -> bool:
        self.client.ask(units, desired)
        return True

    def _have(self, units: Mapping[str, UnitFile | None], desired: str) -> bool | None:
        """True if the cluster has these units as they are wanted, else None."""
        found = self.client.progress(dict.fromkeys(units, ""))
        for name, text in units.items():
            record = found[name].record if name in found else None
            if (
                record is None
                or record.desired != desired
                or (text is not None and record.unitfile.hash() != text.hash())
            ):
                return None
        return True

    def ask(self, call: Callable[[], Answer], done: Callable[[], Answer | None] | None = None) -> Answer:
        """One or more requests, patiently.

        ``done`` is for those that change something: it looks whether that has come about, when it is not known, and
        returns what ``call`` would; None means that it has not."""
        since: float | None = None
        reported = ""
        is_doubtful = False
        while True:
            try:
                found = done() if done is not None and is_doubtful else None
                answer = found if found is not None else call()
            except (ApiError, Unreachable) as failure:
                # The server's 503 does not say whether etcd has it.
                is_doubtful = is_doubtful or not isinstance(failure, Unreachable) or failure.maybe_applied
                trouble = self._trouble(failure)
            else:
                self._has_answered = True
                return answer
            now = self._clock()
            since = now if since is None else since
            if self._patience_s is not None and now - since >= self._patience_s:
                raise trouble.cause from None
            if trouble.message != reported:
                reported = trouble.message
                self._report(reported)
            self._sleep(waiting.POLL_S)

    def _trouble(self, failure: ApiError | Unreachable) -> Trouble:
        """Trouble that may pass, after opening the way again if it was that; raises ``failure`` if it is none."""
        if not self._has_answered or (isinstance(failure, ApiError) and failure.status != 503):
            raise failure
        self.client.turn()
        if isinstance(failure, Unreachable):
            try:
                self._reach.open_again()
            except Failure as worse:
                return Trouble(worse)
        return Trouble(failure)

    @contextmanager
    def reporting(self, names: Sequence[str], done: Collection[str]) -> Iterator[None]:
        """What ends the block early, reports which of the units in ``names`` are ``done`` and which are not."""

        def outcome() -> str:
            rest = [name for name in names if name not in done]
            return f"requested: {' '.join(done)}\n  not requested: {' '.join(rest)}"

        try:
            yield
        except Failure as failure:
            if not done:
                raise
            raise Failure(f"{failure}\n  {outcome()}", hint=failure.hint) from None
        except KeyboardInterrupt:
            self._report(outcome())
            raise


def _batches(units: Mapping[str, UnitFile | None]) -> Iterator[dict[str, UnitFile | None]]:
    """The units in requests that etcd takes as one transaction."""
    batch: dict[str, UnitFile | None] = {}
    size = 0
    for name, text in units.items():
        more = 0 if text is None else len(text.serialize())
        if batch and (len(batch) == BATCH_MAX or size + more > BATCH_SIZE_MAX):
            yield batch
            batch, size = {}, 0
        batch[name] = text
        size += more
    if batch:
        yield batch


class Trouble(Exception):  # noqa: N818 - no error: it may pass
    """The cluster does not answer now. ``message`` says so; ``cause`` is what to raise when patience has ended."""

    def __init__(self, cause: Failure) -> None:
        self.cause = cause
        self.message = f"waiting for the cluster: {str(cause).partition(chr(10))[0]}"
        super().__init__(self.message)
