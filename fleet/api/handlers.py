"""From a request to a response, as values: no sockets here.

Peculiarities of the original client are handled where they matter: a unit that exists is never 404 under ``/state``
(fleetctl 1.0.0 would crash on that), a replaced text resets the desired state, and the current state is ``inactive``
only when the unit's machine has released it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from etcd.errors import EtcdError, NoSpace, TooLarge, Unavailable
from fleet.api import callers, health, shapes
from fleet.api.events import Busy, Events, EventsRequest
from fleet.api.original import STOP_S, Restarts, is_original
from fleet.api.pages import Pages
from fleet.api.seen import Seen, all_seen, look_at
from fleet.model.entities import Desired, Placement, Unit, UnitState
from fleet.model.live import Live
from fleet.model.registry import LOCAL, Contended, NoSuchUnit, Registry, UnitExists
from fleet.model.requirements import RequirementsError
from terminal import Failure
from unitfile.name import UnitName, UnitNameError
from unitfile.text import UnitFileError
from webserver.message import Request, Response

_BASES = (["fleet", "v1"], ["v1-alpha"])

_HANDLERS = frozenset(
    ("ask", "discovery", "events", "healthz", "machines", "metrics", "progress", "readyz", "state", "units", "why")
)

ELECTION_S = 15.0
"""Seconds that a request waits for etcd to elect a leader.

A member stands for election after one to two election timeouts, 5 s each where CPUs are emulated, and a new leader must
commit an entry before it can be read from.
"""

MANY = 100
"""Units of one request that count as a list: whoever waits for so many will ask again."""

_LOG = logging.getLogger(__name__)
_AGAIN_S = 0.5
_LOOK_S = 0.1


class _NotJson(Failure):
    """The body is of another type: HTTP 415."""


Row = TypeVar("Row")
Query = Mapping[str, list[str]]
Verbs = Mapping[str, Callable[[], Response]]


class Api:
    """The API over a registry, of which ``live`` may be a view. Thread-safe as far as the registry is.

    ``patience_s``: a client gets a 503 only after etcd had so many seconds to find a leader, unless a write was lost on
    the way.
    """

    def __init__(self, registry: Registry, live: Live | None = None, *, patience_s: float = ELECTION_S) -> None:
        self._registry = registry
        self._live = live or Live(registry)
        self._pages = Pages()
        self._restarts = Restarts()
        self._events = Events(registry.log)
        self._patience_s = patience_s
        self._looks: Verbs = {
            "healthz": lambda: health.healthz(registry),
            "readyz": lambda: health.readyz(registry, self._live),
            "metrics": lambda: health.metrics(registry, self._live),
        }

    def handle(self, request: Request) -> Response:
        """Answer ``request``; whatever is wrong with it, or with etcd, is an answer too."""
        begin = time.monotonic()
        response = self._answer(request)
        vitals, handler = self._registry.vitals, handler_name(request)
        vitals.observe("fleet_api_request_seconds", time.monotonic() - begin, handler)
        vitals.count("fleet_api_requests_total", handler, request.method, str(int(response.status)))
        return response

    def _answer(self, request: Request) -> Response:
        try:
            return self._patiently(request)
        except callers.Forbidden as failure:
            return failed(HTTPStatus.FORBIDDEN, failure.message, failure.hint)
        except _NotJson as failure:
            return failed(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, failure.message)
        except NoSuchUnit as failure:
            return failed(HTTPStatus.NOT_FOUND, "unit does not exist", failure.hint)
        except (shapes.BadRequest, UnitNameError, UnitFileError, RequirementsError) as failure:
            return failed(HTTPStatus.BAD_REQUEST, str(failure), failure.hint)
        except (UnitExists, Contended) as failure:
            return failed(HTTPStatus.CONFLICT, str(failure), failure.hint)
        except Busy as failure:
            return failed(HTTPStatus.SERVICE_UNAVAILABLE, failure.message, failure.hint)
        except Unavailable:
            return failed(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "fleet server unable to communicate with etcd",
                "etcd is starting, or has no majority: see systemctl status etcd on the nodes",
            )
        except NoSpace as failure:
            return failed(HTTPStatus.INSUFFICIENT_STORAGE, failure.message, failure.hint)
        except TooLarge as failure:
            return failed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, failure.message, failure.hint)
        except EtcdError as failure:
            hint = failure.hint or "see: systemctl status etcd, journalctl -u etcd on the nodes"
            return failed(HTTPStatus.INTERNAL_SERVER_ERROR, f"etcd refused: {failure.message}", hint)

    def _patiently(self, request: Request) -> Response:
        """As :meth:`_route`, again and again while etcd elects a leader.

        Each write is one transaction, and the last thing that its request does: if it was not lost, nothing was done
        yet.
        """
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._route(request)
            except Unavailable as trouble:
                # An etcd that does not run will not elect a leader.
                if trouble.maybe_applied or not trouble.reached or time.monotonic() >= until:
                    raise
            time.sleep(_AGAIN_S)

    def _route(self, request: Request) -> Response:
        try:
            parts = urlsplit(request.target)
        except ValueError:
            raise shapes.BadRequest("the address is no URL") from None
        callers.check(request, is_change=callers.changes(request, parts.path))
        segments = [unquote(each) for each in parts.path.split("/")[1:]]
        try:
            query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise shapes.BadRequest("the query has too many fields") from None
        look = self._looks.get("/".join(segments))
        if look is not None:
            return _by_verb(request, {"GET": look})
        for base in _BASES:
            if segments[: len(base)] == base:
                return _by_verb(request, self._verbs(segments[len(base) :], query, request))
        # The original answers "/" with 405, whatever the verb.
        return failed(HTTPStatus.METHOD_NOT_ALLOWED if segments == [""] else HTTPStatus.NOT_FOUND)

    def _verbs(self, path: Sequence[str], query: Query, request: Request) -> Verbs | None:
        """The handlers of ``path``, by verb; ``None`` when there is no such path."""
        match path:
            case [] | [""]:
                return {}
            case ["machines"]:
                return {"GET": lambda: self._machines(query), "PATCH": lambda: self._patch_machines(request)}
            case ["units"]:
                return {"GET": lambda: self._units(query)}
            case ["units", name]:
                return {
                    "GET": lambda: self._unit(name, request),
                    "PUT": lambda: self._put(name, request),
                    "DELETE": lambda: self._delete(name, request),
                }
            case ["state"]:
                return {"GET": lambda: self._states(query)}
            case ["state", name]:
                return {"GET": lambda: self._state(name)}
            case ["ask"]:
                return {"POST": lambda: self._ask(request)}
            case ["progress"]:
                return {"POST": lambda: self._progress(request)}
            case ["events"]:
                return {"GET": lambda: self._log_of_events(query)}
            case ["why", name]:
                return {"GET": lambda: self._why(name)}
            case ["discovery"]:
                return {"GET": _discovery}
        return None

    def _machines(self, query: Query) -> Response:
        return self._page("machines", query, self._registry.machines, shapes.machine)

    def _patch_machines(self, request: Request) -> Response:
        _require_json(request)
        changes = shapes.metadata_changes(request.body)
        self._registry.set_metadata(changes, by=client_name(request))
        _note(request, f"changes metadata of {callers.named({machine for machine, _ in changes})}")
        return _respond(HTTPStatus.NO_CONTENT)

    def _units(self, query: Query) -> Response:
        def read() -> list[Seen]:
            with self._live.reading(all_of_it=True) as view:
                return list(all_seen(view or self._registry.overview()))

        return self._page("units", query, read, _listed)

    def _unit(self, name: str, request: Request) -> Response:
        seen = self._look(name)
        current = "" if seen.is_global else seen.current.value
        if current == Desired.LOADED and is_original(request.headers) and self._restarts.lingers(name):
            current = Desired.LAUNCHED.value
        return _json(shapes.unit(seen.unit, current=current, machine_id=seen.machine, reason=seen.reason))

    def _why(self, name: str) -> Response:
        seen = self._look(name)
        current = "" if seen.is_global else seen.current.value
        reason = seen.reason or _no_reason(seen)
        return _json(shapes.why(seen.unit, current=current, machine_id=seen.machine, reason=reason))

    def _put(self, name: str, request: Request) -> Response:
        _require_json(request)
        UnitName.parse(name)
        wanted = shapes.UnitRequest.parse(request.body)
        if wanted.name not in ("", name):
            raise shapes.BadRequest(f"the name in the body, {wanted.name!r}, is not the one in the path, {name!r}")
        existing = self._registry.unit(name)
        unitfile = wanted.unitfile
        if unitfile is not None and (existing is None or existing.hash != unitfile.hash()):
            unit = Unit.of(name, unitfile, wanted.desired or Desired.INACTIVE)
            self._registry.create_unit(unit, replace=existing is not None, by=client_name(request))
            _note(request, f"gives {name} its text, and wants it {unit.desired}")
            return _respond(HTTPStatus.CREATED)
        if existing is None:
            return failed(HTTPStatus.CONFLICT, "unit does not exist and options field empty", "send the unit's options")
        if wanted.desired is None:
            return failed(HTTPStatus.CONFLICT, "the unit exists and desiredState is empty", "send a desiredState")
        if is_original(request.headers):
            self._note_restart(name, wanted.desired)
        self._registry.set_desired(name, wanted.desired, by=client_name(request))
        _note(request, f"wants {name} {wanted.desired}")
        return _respond(HTTPStatus.NO_CONTENT)

    def _ask(self, request: Request) -> Response:
        """Many units at once, all or none; ours, for a client that would else send hundreds of requests."""
        _require_json(request)
        wanted = shapes.requested(request.body)
        self._registry.ask(wanted, by=client_name(request))
        for desired in dict.fromkeys(each for _, each in wanted.values()):
            names = [name for name, (_, each) in wanted.items() if each is desired]
            _note(request, f"wants {callers.named(names)} {desired}")
        return _respond(HTTPStatus.NO_CONTENT)

    def _note_restart(self, name: str, desired: Desired) -> None:
        if desired is Desired.LOADED and self._look(name).current is Desired.LAUNCHED:
            self._restarts.stops(name)
        elif desired is Desired.LAUNCHED and self._restarts.starts(name):
            until = time.monotonic() + STOP_S
            while self._look(name).current is Desired.LAUNCHED and time.monotonic() < until:
                time.sleep(_LOOK_S)

    def _delete(self, name: str, request: Request) -> Response:
        UnitName.parse(name)
        self._registry.delete_unit(name, by=client_name(request))
        _note(request, f"destroys {name}")
        return _respond(HTTPStatus.NO_CONTENT)

    def _states(self, query: Query) -> Response:
        machine, unit = _one(query, "machineID"), _one(query, "unitName")

        def read() -> list[UnitState]:
            if unit:
                found = self._on_machines({unit: ""})[unit][1]
            else:
                with self._live.reading(all_of_it=not machine) as view:
                    found = list(view.states.values()) if view else self._registry.states(machine or None)
            return sorted((each for each in found if machine in ("", each.machine)), key=_by_unit)

        return self._page("states", query, read, shapes.state)

    def _state(self, name: str) -> Response:
        seen = self._look(name)
        states = sorted(seen.states, key=lambda each: (each.machine != seen.machine, each.machine))
        # Without a state the answer is still 200: the unit exists, and the original client dereferences the answer.
        nothing = UnitState(name, seen.machine, load="not-found", active="inactive", sub="dead")
        return _json(shapes.state(states[0] if states else nothing))

    def _look(self, name: str) -> Seen:
        """One unit, its place and its states, without reading the whole cluster. Raises :class:`NoSuchUnit`."""
        UnitName.parse(name)
        seen = self._look_at({name: ""})
        if not seen:
            raise NoSuchUnit(name)
        return seen[0]

    def _look_at(self, units: Mapping[str, str]) -> list[Seen]:
        with self._live.reading(all_of_it=len(units) >= MANY) as view:
            return look_at(view or self._registry, units)

    def _on_machines(self, units: Mapping[str, str]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        with self._live.reading(all_of_it=len(units) >= MANY) as view:
            return (view or self._registry).on_machines(units)

    def _progress(self, request: Request) -> Response:
        """Many units at once, and nothing else, for a client that waits for them."""
        _require_json(request)
        wanted = shapes.ProgressRequest.parse(request.body)
        seen = self._look_at(wanted.units)
        # Of one that is destroyed, machines may have something left.
        gone = wanted.units.keys() - {each.unit.name for each in seen}
        left = self._on_machines({name: wanted.units[name] for name in sorted(gone)}) if gone else {}
        rows = [
            shapes.progress(
                each.unit,
                current="" if each.is_global else each.current.value,
                machine_id=each.machine,
                reason=each.reason,
                states=sorted(each.states, key=_by_unit),
                is_brief=wanted.is_brief,
            )
            for each in seen
        ]
        rows += [
            {"name": name, "states": [shapes.state(each) for each in states]}
            for name, (_, states) in left.items()
            if states
        ]
        return _json({"units": rows} if rows else {})

    def _log_of_events(self, query: Query) -> Response:
        """What happened, for whoever reads it or waits for it."""
        return _json(dict(self._events.answer(EventsRequest.parse(lambda name: _one(query, name)))))

    def _page(
        self, key: str, query: Query, read: Callable[[], Sequence[Row]], shape: Callable[[Row], shapes.Json]
    ) -> Response:
        """A page of the list that ``read`` reads, as the query wants it, each row in its ``shape``."""
        filters = {name: values for name, values in query.items() if name != "nextPageToken"}
        rows, token = self._pages.page(
            json.dumps([key, filters], sort_keys=True),
            _one(query, "nextPageToken"),
            read,
        )
        fields: shapes.Json = {key: [shape(each) for each in rows]} if rows else {}
        return _json(fields | {"nextPageToken": token} if token else fields)


def failed(
    status: HTTPStatus, message: str = "", hint: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error response; without a message the status's own phrase."""
    body = shapes.error(status.value, message or status.phrase, hint)
    return _respond(status, json.dumps(body).encode(), headers)


def handler_name(request: Request) -> str:
    """How the metrics call what answers ``request``: a bounded number of names, whatever clients send."""
    path = request.target.partition("?")[0].split("/")[1:]
    for base in _BASES:
        if path[: len(base)] == base:
            path = path[len(base) :]
    return path[0] if path and path[0] in _HANDLERS else "other"


def client_name(request: Request) -> str:
    """How the log of events calls who sent ``request``: see :attr:`webserver.message.Request.by`."""
    return request.by or LOCAL


def _note(request: Request, change: str) -> None:
    """The line in the journal for a change that was made."""
    _LOG.info("%s %s", callers.shown(request), change)


def _respond(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, body, "application/json", headers or {})


def _by_verb(request: Request, verbs: Verbs | None) -> Response:
    if verbs is None:
        return failed(HTTPStatus.NOT_FOUND)
    method = "GET" if request.method == "HEAD" else request.method
    if method in verbs:
        return verbs[method]()
    if urlsplit(request.target).path.endswith("/discovery"):
        return failed(HTTPStatus.BAD_REQUEST, "only GET is supported here")  # as the original
    return failed(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(sorted(verbs))})


def _require_json(request: Request) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", "application/json-patch+json"):
        raise _NotJson("the body must be application/json")


def _listed(seen: Seen) -> shapes.Json:
    """A unit in the list; the current state of a global one is ``inactive`` there, as the original has it."""
    current = Desired.INACTIVE if seen.is_global else seen.current
    return shapes.unit(seen.unit, current=current.value, machine_id=seen.machine, reason=seen.reason)


def _no_reason(seen: Seen) -> str:
    """The reason for a unit about which the engine has written nothing."""
    if seen.unit.desired is Desired.INACTIVE:
        return "not requested: its desired state is inactive"
    if seen.machine:
        return "the engine placed it there and gave no reason"
    return "the engine has not looked at it yet"


def _by_unit(state: UnitState) -> tuple[str, str]:
    return state.name, state.machine


def _one(query: Query, name: str) -> str:
    values = query.get(name, [""])
    if len(values) > 1:
        raise shapes.BadRequest(f"{name} is given {len(values)} times")
    return values[0]


def _json(fields: shapes.Json) -> Response:
    return _respond(HTTPStatus.OK, json.dumps(fields, ensure_ascii=False).encode())


def _discovery() -> Response:
    """A Google discovery document, with the parts that tools read.

    See https://developers.google.com/discovery/v1/reference/apis."""
    methods = [
        ("Machine", "List", "GET", "machines"),
        ("Unit", "List", "GET", "units"),
        ("Unit", "Get", "GET", "units/{unitName}"),
        ("Unit", "Set", "PUT", "units/{unitName}"),
        ("Unit", "Delete", "DELETE", "units/{unitName}"),
        ("UnitState", "List", "GET", "state"),
        ("UnitState", "Get", "GET", "state/{unitName}"),
    ]
    resources: dict[str, dict[str, dict[str, shapes.Json]]] = {}
    for resource, method, verb, path in methods:
        of_resource = resources.setdefault(resource + "s", {"methods": {}})
        of_resource["methods"][method] = {"id": f"fleet.{resource}.{method}", "httpMethod": verb, "path": path}
    return _json(
        {
            "kind": "discovery#restDescription",
            "discoveryVersion": "v1",
            "id": "fleet:v1",
            "name": "fleet",
            "version": "v1",
            "title": "fleet API",
            "protocol": "rest",
            "basePath": "/fleet/v1/",
            "servicePath": "fleet/v1/",
            "resources": resources,
        }
    )
