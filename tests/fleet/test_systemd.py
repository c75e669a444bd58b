"""Our side of systemd's D-Bus interface, against a small bus that speaks the real protocol."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.agent.steps import Ended, Known, SystemdError, SystemdState, await_end
from fleet.agent.systemd import SystemdManager, unit_path
from tests.eventually import WITHIN_S, eventually, is_blocked
from tests.fleet.systembus import SystemBus


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SystemBus]:
    made = SystemBus(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()


@pytest.fixture
def changes() -> queue.SimpleQueue[list[str]]:
    return queue.SimpleQueue()


@pytest.fixture
def systemd(bus: SystemBus, changes: queue.SimpleQueue[list[str]]) -> SystemdManager:
    return SystemdManager(lambda units: changes.put(list(units)))


@pytest.mark.parametrize(
    ("unit", "escaped"),
    [
        ("ssh.service", "ssh_2eservice"),
        ("polop@redis.service", "polop_40redis_2eservice"),
        ("1a-b_c.service", "_31a_2db_5fc_2eservice"),
    ],
)
def test_object_paths(unit: str, escaped: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{escaped}"


def test_calls(bus: SystemBus, systemd: SystemdManager) -> None:
    systemd.reload()
    systemd.start("x.service")
    systemd.enable("x.service")
    systemd.disable("x.service")
    systemd.forget_failure("x.service")
    assert systemd.states(["x.service"]) == {"x.service": SystemdState("loaded", "active", "running")}
    calls = [call for call in bus.calls if call[0] not in ("Hello", "AddMatch", "Subscribe")]
    assert calls == [
        ("Reload", ()),
        ("StartUnit", ("x.service", "replace")),
        ("EnableUnitFiles", (["x.service"], True, True)),
        ("DisableUnitFiles", (["x.service"], True)),
        ("ResetFailedUnit", ("x.service",)),
        ("ListUnitsByNames", (["x.service"],)),
    ]


def test_what_systemd_knows_of_a_name(bus: SystemBus, systemd: SystemdManager) -> None:
    assert systemd.known("free.service") == Known()
    bus.properties |= {
        "LoadState": ("s", "loaded"),
        "ActiveState": ("s", "active"),
        "FragmentPath": ("s", "/usr/lib/systemd/system/user.slice"),
        "Perpetual": ("b", True),
        "SliceOf": ("as", ["a.service", "b.scope"]),
    }
    assert systemd.known("user.slice") == Known(
        "loaded", "active", "/usr/lib/systemd/system/user.slice", True, ("a.service", "b.scope")
    )
    assert bus.called("LoadUnit") == [("free.service",), ("user.slice",)]
    assert bus.called("GetAll") == [("org.freedesktop.systemd1.Unit",)] * 2


def test_a_start_has_a_job_whose_end_is_waited_for(bus: SystemBus, systemd: SystemdManager) -> None:
    job = systemd.start("x.service")
    results: queue.SimpleQueue[str] = queue.SimpleQueue()
    waiting = threading.Thread(target=lambda: results.put(systemd.result(job)))
    waiting.start()
    eventually(lambda: systemd._awaited)
    bus.end_job("x.service", "dependency")
    assert results.get(timeout=WITHIN_S) == "dependency"
    waiting.join(WITHIN_S)
    assert not systemd._awaited


def test_a_start_whose_bus_breaks_has_no_result(bus: SystemBus, systemd: SystemdManager) -> None:
    job = systemd.start("x.service")
    ends: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    threading.Thread(target=lambda: ends.put(await_end("x.service", job, systemd))).start()
    eventually(lambda: systemd._awaited)
    bus.cut()
    assert ends.get(timeout=WITHIN_S) == Ended("x.service", job, "")


def test_properties_are_those_of_any_unit_and_of_its_type(bus: SystemBus, systemd: SystemdManager) -> None:
    assert systemd.properties("x.timer")["LoadState"] == "not-found"
    assert bus.called("GetAll") == [("org.freedesktop.systemd1.Unit",), ("org.freedesktop.systemd1.Timer",)]
    bus.errors["GetAll"] = "org.freedesktop.DBus.Error.UnknownInterface"
    assert systemd.properties("x.timer") == {}


def test_a_stop_waits_for_its_job(bus: SystemBus, systemd: SystemdManager) -> None:
    bus.finish_jobs = False
    stopping = threading.Thread(target=systemd.stop, args=("x.service",))
    stopping.start()
    eventually(lambda: bus.called("StopUnit"))
    stopping.join(0.1)
    assert stopping.is_alive()
    bus.end_job("x.service")
    stopping.join(WITHIN_S)
    assert not stopping.is_alive()


def test_a_job_that_is_done_before_the_answer_is_read(bus: SystemBus, systemd: SystemdManager) -> None:
    systemd.states([])
    bus.end_job("x.service")
    bus.finish_jobs = False
    eventually(lambda: systemd._jobs)
    systemd.stop("x.service")


def test_a_stop_that_is_cancelled_is_an_error(bus: SystemBus, systemd: SystemdManager) -> None:
    systemd.states([])
    bus.finish_jobs = False
    bus.end_job("x.service", "canceled")
    with pytest.raises(SystemdError, match="cancelled by another job"):
        systemd.stop("x.service")


def test_stopping_what_systemd_does_not_know_is_done(bus: SystemBus, systemd: SystemdManager) -> None:
    bus.errors["StopUnit"] = "org.freedesktop.systemd1.NoSuchUnit"
    systemd.stop("x.service")


def test_a_refusal_is_reported_in_systemd_s_words(bus: SystemBus, systemd: SystemdManager) -> None:
    bus.errors["StartUnit"] = "org.freedesktop.systemd1.BadUnitSetting"
    with pytest.raises(SystemdError, match="no"):
        systemd.start("x.service")


def test_changes_of_observed_units_are_reported(
    bus: SystemBus, systemd: SystemdManager, changes: queue.SimpleQueue[list[str]]
) -> None:
    systemd.observe("before.service", wanted=True)
    systemd.states([])
    systemd.observe("after@1.service", wanted=True)
    assert len([rule for (rule,) in bus.called("AddMatch") if "PropertiesChanged" in str(rule)]) == 2
    assert bus.called("RefUnit") == [("before.service",), ("after@1.service",)]
    bus.change(unit_path("other.service"))
    bus.change(unit_path("after@1.service"))
    bus.change(unit_path("before.service"))
    assert [changes.get(timeout=WITHIN_S), changes.get(timeout=WITHIN_S)] == [["after@1.service"], ["before.service"]]


def test_reloads_are_shared(bus: SystemBus, systemd: SystemdManager) -> None:
    """Twenty that come while one runs need one more, not twenty."""
    systemd.states([])
    bus.reload_gate.clear()
    first = threading.Thread(target=systemd.reload)
    first.start()
    eventually(lambda: bus.called("Reload"))
    others = [threading.Thread(target=systemd.reload) for _ in range(20)]
    for other in others:
        other.start()
    eventually(lambda: all(is_blocked(other) for other in others))
    bus.reload_gate.set()
    for thread in (first, *others):
        thread.join(WITHIN_S)
    assert len(bus.called("Reload")) == 2


def test_a_bus_that_breaks_is_connected_again(
    bus: SystemBus, systemd: SystemdManager, changes: queue.SimpleQueue[list[str]]
) -> None:
    systemd.observe("x.service", wanted=True)
    systemd.states([])
    bus.finish_jobs = False
    errors: list[SystemdError] = []

    def stop() -> None:
        try:
            systemd.stop("x.service")
        except SystemdError as error:
            errors.append(error)

    stopping = threading.Thread(target=stop)
    stopping.start()
    eventually(lambda: bus.called("StopUnit"))
    bus.cut()
    stopping.join(WITHIN_S)
    assert len(errors) == 1, "a stop whose end cannot be known is an error, to be tried again"
    assert changes.get(timeout=WITHIN_S) == ["x.service"], "anything may have happened meanwhile"
    assert systemd.states(["x.service"])["x.service"].active == "active"
    assert len(bus.called("Subscribe")) == 2


@pytest.mark.parametrize(("state", "is_ending"), [("running", False), ("degraded", False), ("stopping", True)])
def test_the_end_of_the_machine(bus: SystemBus, systemd: SystemdManager, state: str, is_ending: bool) -> None:
    bus.properties["SystemState"] = ("s", state)
    assert systemd.is_ending() is is_ending


def test_no_bus_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    systemd = SystemdManager(lambda _: None)
    systemd.observe("x.service", wanted=True)
    with pytest.raises(SystemdError) as caught:
        systemd.states(["x.service"])
    assert caught.value.hint == "is dbus.service running?"
