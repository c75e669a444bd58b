"""The fleet HTTP API as typed calls, at one of several endpoints. One connection, kept open; nothing prints or waits.

The API is untrusted input like any other: an answer of the wrong shape is a :class:`Failure` that reports it, never a
traceback.
"""

from __future__ import annotations

import http.client
import json
import select
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from fleet.ctl.endpoint import NO_CREDENTIALS, Credentials, Endpoint, explained
from fleet.model.entities import Machine, UnitState
from terminal import Failure, record
from unitfile.text import Option, UnitFile

BASE = "/fleet/v1"

CONNECT_S = 4.0
"""Seconds that one of several endpoints has at least to take a connection; an emulated node's handshake takes three."""

ANSWER_SIZE_MAX = 64 << 20
"""Bytes of one answer: a page of a hundred units of the largest size is less."""


class ApiError(Failure):
    """The API refused; ``status`` is the HTTP status of its answer."""

    def __init__(self, status: int, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class Unreachable(Failure):
    """No server answers at the endpoint. ``maybe_applied``: the request was sent, and what became of it is unknown."""

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, maybe_applied: bool = False
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.maybe_applied = maybe_applied


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """A unit as the API shows it. ``current`` and ``machine`` are "" when the API leaves them out; ``reason`` is the
    engine's reason for a unit that it cannot place ("" for none)."""

    name: str
    unitfile: UnitFile
    desired: str
    current: str
    machine: str
    reason: str

    @property
    def is_global(self) -> bool:
        """True for a unit that runs on every machine that it suits."""
        values = self.unitfile.get("X-Fleet", "Global")
        return bool(values) and values[-1].lower() in ("true", "yes", "1", "on", "t")

    def with_text(self, unitfile: UnitFile) -> UnitRecord:
        """The same, with this text."""
        return replace(self, unitfile=unitfile)


@dataclass(frozen=True, slots=True)
class Why:
    """The engine's explanation of a unit: one sentence, and how many machines it refused for which reason."""

    record: UnitRecord
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A unit (``None``: it was destroyed) and the machines' reports about it."""

    record: UnitRecord | None
    states: Sequence[UnitState]


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the cluster's log. ``time`` is UTC (RFC 3339); texts are "" where they do not apply."""

    time: str
    kind: str
    unit: str
    machine: str
    former: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Log:
    """Events, the oldest first; ``revision`` is where the next ones begin. ``is_torn``: some before these are lost."""

    events: Sequence[Happened]
    revision: int
    is_torn: bool


class Client:
    """The API at ``endpoints``, of which one is in use, and another one when that fails.

    ``timeout_s`` bounds each request. Raises :class:`ApiError` and :class:`Unreachable`. ``where`` and ``hint`` describe
    a single endpoint in an error, when its address here means nothing to the user.
    """

    def __init__(
        self,
        *endpoints: Endpoint,
        credentials: Credentials = NO_CREDENTIALS,
        timeout_s: float = 30.0,
        where: str = "",
        hint: str | None = None,
    ) -> None:
        self._endpoints = deque(endpoints)
        self._credentials = credentials
        self._where = where
        self._timeout_s = timeout_s
        self._hint = hint or "on a node, is fleet.service running? from elsewhere, set --tunnel, or a --context"
        self._connection: http.client.HTTPConnection | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The one in use."""
        return self._endpoints[0]

    def move(self, endpoint: Endpoint, where: str) -> None:
        """Go on at another endpoint, and nowhere else."""
        self.close()
        self._endpoints = deque([endpoint])
        self._where = where

    def turn(self) -> None:
        """Go on at the next endpoint, if there are several."""
        self.close()
        self._endpoints.rotate(-1)

    def close(self) -> None:
        """Close the connection; the client opens another one when it is used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def machines(self) -> list[Machine]:
        """All machines that are alive, by id."""
        return [
            Machine(_text(each, "id"), _text(each, "primaryIP"), _texts(each, "metadata"))
            for each in self._pages("/machines", "machines")
        ]

    def units(self) -> list[UnitRecord]:
        """All units, by name."""
        return [_record(each) for each in self._pages("/units", "units")]

    def unit(self, name: str) -> UnitRecord | None:
        """One unit, or ``None`` when there is none of that name."""
        try:
            answer = self._json("GET", f"/units/{quote(name, safe='')}")
        except ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return None
            raise
        return _record(answer)

    def ask(self, units: Mapping[str, UnitFile | None], desired: str) -> None:
        """Request a state of units, all or none: those with a text are created, or replaced when their text differs.

        Up to 100, and one if they are large."""
        rows = []
        for name, unitfile in units.items():
            row: dict[str, object] = {"name": name, "desiredState": desired}
            if unitfile is not None:
                options = [
                    {"section": each.section, "name": each.name, "value": each.value} for each in unitfile.options
                ]
                row["options"] = options
            rows.append(row)
        self._request("POST", "/ask", json.dumps({"units": rows}).encode())

    def delete(self, name: str) -> bool:
        """Remove the unit; False when there was none."""
        try:
            self._request("DELETE", f"/units/{quote(name, safe='')}")
        except ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return False
            raise
        return True

    def progress(self, units: Mapping[str, str], *, is_brief: bool = False) -> dict[str, Progress]:
        """All that is known of these units, in few requests; without those that do not exist and have left nothing.

        ``units`` has the machine where each was last seen, or "". ``is_brief`` leaves out the texts."""
        found: dict[str, Progress] = {}
        names = list(units)
        size = 1000 if is_brief else 50
        for begin in range(0, len(names), size):
            wanted = [{"name": name, "machineID": units[name]} for name in names[begin : begin + size]]
            answer = self._json("POST", "/progress", {"units": wanted, "brief": is_brief})
            for row in _rows(answer, "units"):
                record = _record(row) if row.get("desiredState") else None
                found[_text(row, "name")] = Progress(record, [_state(each) for each in _rows(row, "states")])
        return found

    def states(self, unit: str = "") -> list[UnitState]:
        """The machines' reports about their units (about ``unit`` only, when given), by unit and machine."""
        query = {"unitName": unit} if unit else {}
        return [_state(each) for each in self._pages("/state", "states", query)]

    def why(self, name: str) -> Why | None:
        """Why the unit is where it is, or nowhere; ``None`` when there is none of that name."""
        try:
            answer = self._json("GET", f"/why/{quote(name, safe='')}")
        except ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return None
            raise
        return Why(_record(answer), _text(answer, "reason"))

    def events(
        self, *, after: int = 0, wait_s: float = 0.0, unit: str = "", machine: str = "", since: float = 0.0
    ) -> Log:
        """The events after revision ``after`` (0: all that are kept), of this unit, of the machine whose id begins so,
        and since then (Unix seconds), if that is given.

        Waits ``wait_s`` seconds for one, half of the time of a request at most."""
        query: dict[str, str] = {}
        if after:
            query |= {"after": str(after), "wait": f"{min(wait_s, self._timeout_s / 2):g}"}
        query |= {"unit": unit} if unit else {}
        query |= {"machine": machine} if machine else {}
        query |= {"since": f"{since:.3f}"} if since else {}
        answer = self._json("GET", "/events" + ("?" + urlencode(query) if query else ""))
        revision = answer.get("revision")
        if isinstance(revision, bool) or not isinstance(revision, int) or revision < 0:
            raise self._nonsense("revision is no number")
        return Log([_happened(each) for each in _rows(answer, "events")], revision, answer.get("torn") is True)

    def _pages(self, path: str, key: str, query: Mapping[str, str] | None = None) -> Iterator[Mapping[str, object]]:
        token = ""
        seen: set[str] = set()
        while token not in seen:
            seen.add(token)
            parameters = {**(query or {}), **({"nextPageToken": token} if token else {})}
            answer = self._json("GET", path + ("?" + urlencode(parameters) if parameters else ""))
            yield from _rows(answer, key)
            token = _text(answer, "nextPageToken")
            if not token:
                return
        raise self._nonsense("a page leads back to itself")

    def _json(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Mapping[str, object]:
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = record.parse(self._request(method, path, content))
        except ValueError:
            raise self._nonsense("its answer is not JSON") from None
        if not isinstance(answer, dict):
            raise self._nonsense("its answer is no JSON object")
        return answer

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer of the first endpoint that can give one.

        One that only reads is made again elsewhere after whatever trouble; one that changes something, only if it
        cannot have been applied.
        """
        only_reads = method == "GET" or path == "/progress"
        trouble: list[ApiError | Unreachable] = []
        while True:
            try:
                return self._answer(method, path, body, only_reads)
            except Unreachable as failure:
                if failure.maybe_applied and not only_reads:
                    raise
                trouble.append(failure)
            except ApiError as failure:
                if failure.status != http.client.SERVICE_UNAVAILABLE or not only_reads:
                    raise
                trouble.append(failure)
            self.turn()
            if len(trouble) == len(self._endpoints):
                raise _all_of(trouble)

    def _answer(self, method: str, path: str, body: bytes | None, only_reads: bool) -> bytes:
        """That of the endpoint in use."""
        kept = self._connection is not None and self._is_quiet()
        if not kept:
            self._connect()
        try:
            status, answer = self._exchange(method, path, body)
        except TimeoutError:
            self.close()
            raise self._silence(maybe_applied=True) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept and only_reads and isinstance(error, ConnectionError | http.client.BadStatusLine):
                # It was idle, and the server closed it at this moment.
                return self._answer(method, path, body, only_reads)
            raise self._unreachable(error, maybe_applied=explained(error) is None) from error
        if status >= http.client.BAD_REQUEST:
            message, hint = _error_in(status, answer)
            raise ApiError(status, message, where=self._place if len(self._endpoints) > 1 else None, hint=hint)
        return answer

    def _is_quiet(self) -> bool:
        """Whether nothing came on the kept connection since the last answer: what comes unrequested is its end."""
        sock = None if self._connection is None else self._connection.sock
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)

    def _connect(self) -> None:
        """Nothing is sent yet when this fails. Raises :class:`Unreachable`."""
        self.close()
        several = len(self._endpoints)
        seconds = self._timeout_s if several == 1 else min(self._timeout_s, max(CONNECT_S, self._timeout_s / several))
        connection = self.endpoint.connection(seconds, self._credentials)
        try:
            connection.connect()
            connection.timeout = self._timeout_s
            connection.sock.settimeout(self._timeout_s)
        except TimeoutError:
            connection.close()
            raise self._silence(maybe_applied=False, seconds=seconds) from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a name that is none
            connection.close()
            raise self._unreachable(error, maybe_applied=False) from error
        self._connection = connection

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        assert self._connection is not None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, BASE + path, body=body, headers=headers)
        response = self._connection.getresponse()
        answer = response.read(ANSWER_SIZE_MAX + 1)
        if len(answer) > ANSWER_SIZE_MAX:
            self.close()
            raise self._nonsense(f"its answer is larger than {ANSWER_SIZE_MAX >> 20} MiB")
        if response.length:  # still to come, but nothing comes
            raise http.client.IncompleteRead(answer, response.length)
        return response.status, answer

    @property
    def _place(self) -> str:
        return self._where or str(self.endpoint)

    def _silence(self, *, maybe_applied: bool, seconds: float | None = None) -> Unreachable:
        return Unreachable(
            f"no answer within {seconds or self._timeout_s:g} s",
            where=self._place,
            hint="raise --request-timeout",
            maybe_applied=maybe_applied,
        )

    def _unreachable(self, error: BaseException, *, maybe_applied: bool) -> Unreachable:
        message, hint = explained(error) or ("cannot talk to the fleet API", self._hint)
        if isinstance(error, http.client.RemoteDisconnected):
            message = "the other end closed the connection without an answer"
        return Unreachable(message, where=self._place, hint=hint, maybe_applied=maybe_applied)

    def _nonsense(self, message: str) -> Failure:
        return Failure(f"this is no fleet API: {message}", where=self._place, hint="check --endpoint")


def _all_of(trouble: Sequence[ApiError | Unreachable]) -> ApiError | Unreachable:
    """What was wrong with each of several endpoints, as one failure."""
    last = trouble[-1]
    if len(trouble) == 1:
        return last
    listed = "".join(f"\n  {each}" for each in trouble)
    hint = next((each.hint for each in trouble if each.hint), None)
    if all(isinstance(each, ApiError) for each in trouble):
        return ApiError(http.client.SERVICE_UNAVAILABLE, f"no endpoint can answer now:{listed}", hint=hint)
    return Unreachable(f"no endpoint answers:{listed}", hint=hint)


def _error_in(status: int, body: bytes) -> tuple[str, str | None]:
    """Message and hint of an error body ``{"error":{"code":N,"message":"...","hint":"..."}}``, or the plain status."""
    try:
        error = record.parse(body)["error"]
        message, hint = error.get("message"), error.get("hint")
    except (ValueError, LookupError, TypeError, AttributeError):
        message = hint = None
    plain = f"the fleet API answered {status} {http.client.responses.get(status, '')}".rstrip()
    return (
        message if isinstance(message, str) and message else plain,
        hint if isinstance(hint, str) and hint else None,
    )


def _record(value: Mapping[str, object]) -> UnitRecord:
    raw = value.get("options", [])
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise Failure("a unit of the fleet API has options of the wrong shape", where=_text(value, "name"))
    options = [Option(_text(each, "section"), _text(each, "name"), _text(each, "value")) for each in raw]
    return UnitRecord(
        _text(value, "name"),
        UnitFile(tuple(options)),
        _text(value, "desiredState"),
        _text(value, "currentState"),
        _text(value, "machineID"),
        _text(value, "statusReason"),
    )


def _state(value: Mapping[str, object]) -> UnitState:
    return UnitState(
        _text(value, "name"),
        _text(value, "machineID"),
        _text(value, "systemdLoadState"),
        _text(value, "systemdActiveState"),
        _text(value, "systemdSubState"),
        _text(value, "hash"),
        error=_text(value, "error"),
        start=_text(value, "start"),
        note=_text(value, "note"),
        log=_lines(value, "log"),
    )


def _happened(value: Mapping[str, object]) -> Happened:
    fields = ("time", "kind", "unit", "machine", "former", "by", "reason")
    return Happened(*(_text(value, each) for each in fields))


def _rows(value: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Failure(f"this is no fleet API: {key} is no list of objects", hint="check --endpoint")
    return found


def _text(value: Mapping[str, object], key: str) -> str:
    """A text field; "" when it is left out, as the API does with empty ones."""
    found = value.get(key, "")
    if not isinstance(found, str):
        raise Failure(f"a field of the fleet API is no text: {key}", hint="check --endpoint")
    return found


def _lines(value: Mapping[str, object], key: str) -> tuple[str, ...]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise Failure(f"a field of the fleet API is no list of texts: {key}", hint="check --endpoint")
    return tuple(found)


def _texts(value: Mapping[str, object], key: str) -> dict[str, str]:
    found = value.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise Failure(f"a field of the fleet API is no map of texts: {key}", hint="check --endpoint")
    return found
