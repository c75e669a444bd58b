"""systemd over D-Bus: the few calls of org.freedesktop.systemd1 that an agent makes, and the signals that it receives.

Interface: https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html. One connection, made
when first needed and again when it breaks; one thread reads it. Calls may come from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_method_call,
)
from jeepney.auth import AuthenticationError
from jeepney.bus_messages import DBus
from jeepney.io.common import RouterClosed
from jeepney.io.threading import DBusConnection, ReceiveStopped, open_dbus_connection

from fleet.agent.journal import last_lines
from fleet.agent.steps import Known, RefusedError, SystemdError, SystemdState

CALL_S = 90.0
"""Longest wait for an answer: a daemon-reload of a busy, emulated machine is slow."""

_JOBS_MAX = 1000
_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _NAME, f"{_NAME}.Manager")
_UNITS = "/org/freedesktop/systemd1/unit/"
_NO_SUCH_UNIT = (f"{_NAME}.NoSuchUnit", f"{_NAME}.UnitNotLoaded", "org.freedesktop.DBus.Error.FileNotFound")

_LOG = logging.getLogger(__name__)


def unit_path(unit: str) -> str:
    """The object path of a unit: systemd writes every byte but letters and non-leading digits as ``_xx``."""
    escaped = "".join(
        chr(byte) if chr(byte).isalpha() or (at and chr(byte).isdigit()) else f"_{byte:02x}"
        for at, byte in enumerate(unit.encode("ascii"))
    )
    return _UNITS + escaped


class Bus:
    """One connection to the system bus. Dead for good once :attr:`is_open` is false."""

    def __init__(self, on_signal: Callable[[Message], None], on_end: Callable[[], None]) -> None:
        try:
            self._connection: DBusConnection = open_dbus_connection("SYSTEM")
        except (OSError, AuthenticationError, RouterClosed) as error:
            raise SystemdError("cannot connect to the system bus", hint="is dbus.service running?") from error
        self.is_open = True
        self._on_signal = on_signal
        self._on_end = on_end
        self._replies: dict[int, Future[Message]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="dbus", daemon=True).start()

    def call(self, message: Message) -> tuple[object, ...]:
        """Send a method call and return the body of the answer. Raises :class:`SystemdError`."""
        reply: Future[Message] = Future()
        with self._lock:
            if not self.is_open:
                raise SystemdError("the connection to the system bus is closed")
            serial = next(self._connection.outgoing_serial)
            self._replies[serial] = reply
        try:
            self._connection.send(message, serial=serial)
            answer = reply.result(timeout=CALL_S)
        except TimeoutError as error:
            raise SystemdError(f"systemd did not answer within {CALL_S:.0f} s") from error
        except OSError as error:
            raise SystemdError("the connection to the system bus broke") from error
        finally:
            with self._lock:
                self._replies.pop(serial, None)
        if answer.header.message_type is MessageType.error:
            name = str(answer.header.fields.get(HeaderFields.error_name, ""))
            raise RefusedError(name, str(answer.body[0]) if answer.body else "")
        return tuple(answer.body)

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.receive()
                with self._lock:
                    reply = self._replies.get(message.header.fields.get(HeaderFields.reply_serial, -1))
                if reply is not None:
                    if not reply.done():
                        reply.set_result(message)
                elif message.header.message_type is MessageType.signal:
                    self._on_signal(message)
        except (OSError, ReceiveStopped) as error:
            _LOG.warning("the connection to the system bus ended: %s", error)
        finally:
            with self._lock:
                self.is_open = False
                waiting = list(self._replies.values())
            for reply in waiting:
                if not reply.done():
                    reply.set_exception(SystemdError("the connection to the system bus ended"))
            self._connection.close()
            self._on_end()


class SystemdManager:
    """The machine's systemd.

    See :class:`fleet.agent.steps.Systemd`. ``on_change`` gets names of observed units, from another thread."""

    def __init__(self, on_change: Callable[[Sequence[str]], None]) -> None:
        self._on_change = on_change
        self._bus: Bus | None = None
        self._opening = threading.Lock()
        self._ending = threading.Lock()
        self._jobs: OrderedDict[str, str] = OrderedDict()  # path -> result, of jobs that have ended
        self._awaited: dict[str, Future[str]] = {}  # path -> where its result goes
        self._observed: dict[str, str] = {}  # path -> unit
        self._reloading = threading.Lock()
        self._reloads_begun = 0
        self._reloads_done = 0  # number of the last that ended well

    def reload(self) -> None:
        """See :class:`fleet.agent.steps.Systemd`. Callers that come while a reload runs share the next one."""
        came = self._reloads_begun
        with self._reloading:
            if self._reloads_done > came:
                return  # one that began after we came has ended well
            self._reloads_begun += 1
            self._call("Reload")
            self._reloads_done = self._reloads_begun

    def known(self, unit: str) -> Known:
        """See :class:`fleet.agent.steps.Systemd`."""
        (path,) = self._call("LoadUnit", "s", (unit,))
        properties = self._properties(str(path), "Unit")
        return Known(
            load=str(properties["LoadState"]),
            active=str(properties["ActiveState"]),
            fragment=str(properties["FragmentPath"]),
            is_perpetual=bool(properties["Perpetual"]),
            members=tuple(map(str, properties.get("SliceOf", ()))),  # since systemd 249
        )

    def properties(self, unit: str) -> Mapping[str, object]:
        """See :class:`fleet.agent.steps.Systemd`."""
        try:
            kind = unit.rpartition(".")[2].capitalize()
            return self._properties(unit_path(unit), "Unit") | self._properties(unit_path(unit), kind)
        except RefusedError as error:
            _LOG.info("%s: systemd does not report its properties: %s", unit, error)
            return {}

    def journal(self, unit: str, invocation: str, since_us: int) -> Sequence[str]:
        """See :class:`fleet.agent.steps.Systemd`."""
        return last_lines(unit, invocation, since_us)

    def start(self, unit: str) -> str:
        """See :class:`fleet.agent.steps.Systemd`."""
        (job,) = self._call("StartUnit", "ss", (unit, "replace"))
        return str(job)

    def result(self, job: str) -> str:
        """See :class:`fleet.agent.steps.Systemd`."""
        return self._job_result(self._connected(), job)

    def stop(self, unit: str) -> None:
        """See :class:`fleet.agent.steps.Systemd`. As long as its ``TimeoutStopSec`` allows."""
        bus = self._connected()
        try:
            (job,) = bus.call(new_method_call(_MANAGER, "StopUnit", "ss", (unit, "replace")))
        except RefusedError as error:
            if error.name in _NO_SUCH_UNIT:
                return
            raise
        result = self._job_result(bus, str(job))
        if result == "canceled":
            raise SystemdError("the stop was cancelled by another job", where=unit)

    def enable(self, unit: str) -> None:
        """See :class:`fleet.agent.steps.Systemd`."""
        self._call("EnableUnitFiles", "asbb", ([unit], True, True))

    def disable(self, unit: str) -> None:
        """See :class:`fleet.agent.steps.Systemd`."""
        try:
            self._call("DisableUnitFiles", "asb", ([unit], True))
        except RefusedError as error:
            _LOG.info("%s was not disabled: %s", unit, error.on_one_line)

    def forget_failure(self, unit: str) -> None:
        """See :class:`fleet.agent.steps.Systemd`."""
        try:
            self._call("ResetFailedUnit", "s", (unit,))
        except RefusedError as error:
            if error.name not in _NO_SUCH_UNIT:
                raise

    def states(self, units: Sequence[str]) -> dict[str, SystemdState]:
        """See :class:`fleet.agent.steps.Systemd`."""
        (rows,) = self._call("ListUnitsByNames", "as", (list(units),))
        if not isinstance(rows, list):
            raise SystemdError("systemd's list of units is no list")
        return {str(row[0]): SystemdState(str(row[2]), str(row[3]), str(row[4])) for row in rows}

    def is_ending(self) -> bool:
        """See :class:`fleet.agent.steps.Systemd`."""
        return bool(self._properties(_MANAGER.object_path, "Manager").get("SystemState") == "stopping")

    def observe(self, unit: str, wanted: bool) -> None:
        """See :class:`fleet.agent.steps.Systemd`.

        Never raises: what a broken bus keeps from us, the next poll finds."""
        path = unit_path(unit)
        if wanted:
            self._observed[path] = unit
        else:
            self._observed.pop(path, None)
        bus = self._bus
        if bus is not None and bus.is_open:
            try:
                if wanted:
                    _follow(bus, path, unit)
                else:
                    bus.call(DBus().RemoveMatch(_changes_of(path)))
                    bus.call(new_method_call(_MANAGER, "UnrefUnit", "s", (unit,)))
            except SystemdError as error:
                _LOG.info("changes of %s are not reported: %s", unit, error.on_one_line)

    def _call(self, method: str, signature: str | None = None, body: tuple[object, ...] = ()) -> tuple[object, ...]:
        return self._connected().call(new_method_call(_MANAGER, method, signature, body))

    def _properties(self, path: str, interface: str) -> dict[str, Any]:
        properties = DBusAddress(path, _NAME, "org.freedesktop.DBus.Properties")
        (found,) = self._connected().call(new_method_call(properties, "GetAll", "s", (f"{_NAME}.{interface}",)))
        if not isinstance(found, dict):
            raise SystemdError("systemd's properties of a unit are no properties", where=path)
        return {name: value for name, (_, value) in found.items()}

    def _connected(self) -> Bus:
        with self._opening:
            if self._bus is None or not self._bus.is_open:
                bus = Bus(self._on_signal, self._on_end)
                bus.call(
                    DBus().AddMatch(f"type='signal',sender='{_NAME}',interface='{_NAME}.Manager',member='JobRemoved'")
                )
                for path, unit in list(self._observed.items()):
                    _follow(bus, path, unit)
                bus.call(new_method_call(_MANAGER, "Subscribe"))
                self._bus = bus
            return self._bus

    def _job_result(self, bus: Bus, job: str) -> str:
        with self._ending:
            if job in self._jobs:
                return self._jobs[job]
            if not bus.is_open:
                raise SystemdError("the connection to the system bus ended before the job did")
            end = self._awaited.setdefault(job, Future())
        return end.result()

    def _on_signal(self, message: Message) -> None:
        fields = message.header.fields
        if fields.get(HeaderFields.member) == "JobRemoved":
            _, job, _, result = message.body
            with self._ending:
                self._jobs[job] = result
                while len(self._jobs) > _JOBS_MAX:
                    self._jobs.popitem(last=False)
                awaited = self._awaited.pop(job, None)
            if awaited is not None:
                awaited.set_result(result)
            return
        unit = self._observed.get(str(fields.get(HeaderFields.path)))
        if unit is not None:
            self._on_change([unit])

    def _on_end(self) -> None:
        with self._ending:
            given_up = list(self._awaited.values())
            self._awaited.clear()
        for each in given_up:
            each.set_exception(SystemdError("the connection to the system bus ended before the job did"))
        self._on_change(list(self._observed.values()))


def _follow(bus: Bus, path: str, unit: str) -> None:
    """Have changes of a unit reported, and have systemd remember it.

    Otherwise systemd forgets a unit that does not run, and with it how that came: its result, and which of its
    conditions did not hold. It drops the reference when the connection ends."""
    bus.call(DBus().AddMatch(_changes_of(path)))
    try:
        bus.call(new_method_call(_MANAGER, "RefUnit", "s", (unit,)))
    except RefusedError as error:
        _LOG.info("%s: systemd does not keep it: %s", unit, error)


def _changes_of(path: str) -> str:
    return (
        f"type='signal',sender='{_NAME}',path='{path}',"
        "interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'"
    )
