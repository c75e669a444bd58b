"""The original's client, fleetctl 1.0.0, as it behaves on the wire, against our API, engine and agent.

Each test plays one of its commands request by request, as recorded of the Go binary (``User-Agent``, ``?alt=json``,
``%40``, gzip): what it asks for first, what it polls each quarter of a second, and which answer ends its wait.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from etcd.fake import FakeEtcd
from fleet.agent.unitstore import UnitStore
from fleet.api import original
from fleet.api.server import ApiServer
from fleet.config import Config
from fleet.daemon import Daemon
from fleet.model.entities import Machine
from fleet.model.registry import Registry
from tests.eventually import WITHIN_S, eventually
from tests.fleet.world import FakeSystemd
from unitfile.text import UnitFile
from webserver.unix import UnixConnection

MACHINE = "a" * 32
WINDOW_S = 2.0
"""One attempt of its waits."""
POLL_S = 0.25

HELLO = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep \\\n  1000\n"


class Cluster:
    """fleetd on one machine, with its API on a socket. Only systemd and etcd are ours."""

    def __init__(self, folder: Path) -> None:
        etcd = FakeEtcd()
        units = folder / "systemd"
        units.mkdir()
        self.systemd = FakeSystemd(units)
        store = UnitStore(folder / "fleet", units)
        store.prepare()
        self.registry = Registry(etcd)
        machine = Machine(MACHINE, "10.77.0.11", {"disk": "ssd"}, "boot")
        self._daemon = Daemon(Registry(etcd.connect()), machine, store, Config())
        self._thread = threading.Thread(target=self._daemon.run, args=(self.systemd,))
        self._thread.start()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / "fleet.sock"))
        listening.listen()
        self._server = ApiServer(self.registry, sockets=[listening])
        self._server.start()
        eventually(self.registry.machines)

    def close(self) -> None:
        self._server.stop()
        self._daemon.stop()
        self._thread.join(WITHIN_S)


class GoClient:
    """One run of the original's fleetctl: one connection, its headers, its loops."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path, host="domain-sock", timeout_s=WITHIN_S)

    def close(self) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: object = None, **query: str) -> tuple[int, Any]:
        target = (
            "/fleet/v1/" + path + "?" + "&".join(f"{key}={value}" for key, value in {"alt": "json", **query}.items())
        )
        headers = {"User-Agent": "google-api-go-client/0.5", "Accept-Encoding": "gzip"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, target, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None

    def unit(self, name: str) -> dict[str, Any] | None:
        status, body = self("GET", f"units/{quote(name)}")
        assert status in (http.client.OK, http.client.NOT_FOUND)
        return dict(body) if status == http.client.OK else None

    def all(self, path: str, key: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        token = ""
        while True:
            status, body = self("GET", path, **({"nextPageToken": token} if token else {}))
            assert status == http.client.OK
            rows += body.get(key, [])
            token = body.get("nextPageToken", "")
            if not token:
                return rows

    def create(self, name: str, text: str) -> None:
        """Submits a unit, and waits until it is inactive: always, whatever the command."""
        options = [
            {"section": each.section, "name": each.name, "value": each.value} for each in UnitFile.parse(text).options
        ]
        status, _ = self("PUT", f"units/{quote(name)}", {"name": name, "options": options, "desiredState": "inactive"})
        assert status == http.client.CREATED
        self.wait(name, "inactive")

    def ask(self, name: str, state: str) -> None:
        status, body = self("PUT", f"units/{quote(name)}", {"name": name, "desiredState": state})
        assert (status, body) == (http.client.NO_CONTENT, None)

    def wait(self, name: str, state: str, attempts: int = 5) -> None:
        """It looks at once, and then each quarter of a second."""
        until = time.monotonic() + attempts * WINDOW_S
        seen = None
        while time.monotonic() < until:
            seen = self.unit(name)
            if seen is not None and seen.get("currentState") == state:
                return
            time.sleep(POLL_S)
        raise AssertionError(f"timed out waiting for unit {name} to report state {state}: {seen}")

    def start(self, name: str, text: str = HELLO) -> None:
        if self.unit(name) is None:
            self.create(name, text)
        found = self.unit(name)
        assert found is not None
        if found["desiredState"] == "launched":
            return
        self.ask(name, "launched")
        self.wait(name, "launched")
        self.all("machines", "machines")
        until = time.monotonic() + WINDOW_S  # one window, whatever --block-attempts says
        while time.monotonic() < until:
            status, state = self("GET", f"state/{quote(name)}")
            assert status == http.client.OK, "it would crash"
            if (state["systemdActiveState"], state["systemdLoadState"]) == ("active", "loaded"):
                return
            time.sleep(POLL_S)
        raise AssertionError(f"{name} is not active: {state}")

    def existing(self, name: str) -> dict[str, Any]:
        """stop, unload, destroy and restart list all units first."""
        return next(each for each in self.all("units", "units") if each["name"] == name)

    def restart(self, name: str) -> None:
        assert self.existing(name)["currentState"] == "launched"
        self.ask(name, "loaded")
        time.sleep(POLL_S)  # its first look is lost, and so the second counts
        self.wait(name, "launched")
        self.ask(name, "launched")
        self.wait(name, "launched")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture
def go(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[], GoClient]]:
    """Each call is one more run of the command."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(GoClient(tmp_path / "fleet.sock")))


def test_start_stop_unload_destroy(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    name = "hello@1.service"
    go().start(name)
    assert cluster.systemd.active == {name: True}
    go().start(name)
    assert cluster.systemd.starts == {name: 1}, "launched already: it neither asks nor waits"

    client = go()
    assert client.existing(name)["machineID"] == MACHINE
    client.ask(name, "loaded")
    client.wait(name, "loaded")
    assert cluster.systemd.active == {name: False}

    client = go()
    client.existing(name)
    client.ask(name, "inactive")
    client.wait(name, "inactive")

    client = go()
    client.existing(name)
    assert client("DELETE", f"units/{quote(name)}") == (http.client.NO_CONTENT, None)
    assert client.unit(name) is None
    assert client("DELETE", f"units/{quote(name)}")[0] == http.client.NOT_FOUND


def test_restart(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    """It waits for the wrong state; the unit is stopped and started all the same, once each, and then runs."""
    go().start("hello.service")
    go().restart("hello.service")
    assert cluster.systemd.starts == {"hello.service": 2}
    assert cluster.systemd.log.count("stop hello.service") == 1
    eventually(lambda: cluster.systemd.active == {"hello.service": True})


def test_restart_of_a_unit_that_takes_its_time_to_stop(
    cluster: Cluster, go: Callable[[], GoClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start is requested while the unit still stops: the two must not cancel each other."""
    go().start("hello.service")
    stop = cluster.systemd.stop
    requested = threading.Event()
    stops = original.Restarts.starts

    def slow(unit: str) -> None:
        assert requested.wait(WITHIN_S)
        stop(unit)

    def starts(restarts: original.Restarts, name: str) -> bool:
        try:
            return stops(restarts, name)
        finally:
            threading.Timer(0.3, requested.set).start()

    monkeypatch.setattr(cluster.systemd, "stop", slow)
    monkeypatch.setattr(original.Restarts, "starts", starts)
    go().restart("hello.service")
    assert cluster.systemd.starts == {"hello.service": 2}


def test_ours_sees_the_truth_meanwhile(cluster: Cluster, go: Callable[[], GoClient], tmp_path: Path) -> None:
    client = go()
    client.start("hello.service")
    client.ask("hello.service", "loaded")
    eventually(lambda: not cluster.systemd.active["hello.service"])

    def current() -> str:
        with contextlib.closing(UnixConnection(tmp_path / "fleet.sock", timeout_s=WITHIN_S)) as connection:
            connection.request("GET", "/fleet/v1/units/hello.service")
            return str(json.loads(connection.getresponse().read())["currentState"])

    eventually(lambda: current() == "loaded")
    client.wait("hello.service", "loaded")


def test_replace(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    """New options without a desired state: the unit is inactive, and only when its machine has let go of it."""
    go().start("hello.service")
    client = go()
    assert client.unit("hello.service") is not None
    options = [{"section": "Service", "name": "ExecStart", "value": "/bin/sleep 2000"}]
    status, _ = client("PUT", "units/hello.service", {"name": "hello.service", "options": options})
    assert status == http.client.CREATED
    client.wait("hello.service", "inactive")
    assert cluster.systemd.active == {"hello.service": False}
    assert not (cluster.systemd.folder / "hello.service").exists()
    client.ask("hello.service", "launched")
    client.wait("hello.service", "launched")
    assert "/bin/sleep 2000" in (cluster.systemd.folder / "hello.service").read_text()


def test_an_instance_of_a_template(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    """It looks for the instance, then for the template, and sends the instance with the template's options."""
    go().create("hello@.service", HELLO)
    client = go()
    assert client.unit("hello@7.service") is None
    template = client.unit("hello@.service")
    assert template is not None
    body = {"name": "hello@7.service", "options": template["options"], "desiredState": "inactive"}
    assert client("PUT", "units/hello%407.service", body)[0] == http.client.CREATED
    client.wait("hello@7.service", "inactive")
    client.start("hello@7.service")
    instance = client.unit("hello@7.service")
    assert instance is not None
    assert instance["options"] == template["options"]
    status, body = client("PUT", "units/hello%40.service", {"name": "hello@.service", "desiredState": "launched"})
    assert status == http.client.BAD_REQUEST


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ExecStart=/bin/sleep \\\n  1000\n", "/bin/sleep \\\n  1000"),
        ("ExecStart=/bin/sleep \\\n  1000 \\\n\n", "/bin/sleep \\\n  1000 \\\n"),
        ("ExecStart=/bin/sleep \\\n# a comment \\\n  1000\n", "/bin/sleep \\\n# a comment \\\n  1000"),
    ],
)
def test_continued_lines_are_the_same_text_for_both(
    cluster: Cluster, go: Callable[[], GoClient], text: str, value: str
) -> None:
    """It compares hashes of what it parsed itself with what comes back: another text would be a warning each time."""
    client = go()
    client.start("hello.service", f"[Service]\n{text}")
    found = client.unit("hello.service")
    assert found is not None
    assert [each["value"] for each in found["options"]] == [value]
    (state,) = client.all("state", "states")
    assert state["hash"] == UnitFile.parse(f"[Service]\n{text}").hash()


def test_lists(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    go().start("hello.service")
    client = go()
    assert client.all("machines", "machines") == [
        {"id": MACHINE, "primaryIP": "10.77.0.11", "metadata": {"disk": "ssd"}}
    ]
    (state,) = client.all("state", "states")
    original_fields = {"name", "hash", "machineID", "systemdLoadState", "systemdActiveState", "systemdSubState"}
    assert original_fields <= state.keys()
    assert (state["systemdLoadState"], state["systemdActiveState"], state["systemdSubState"]) == (
        "loaded",
        "active",
        "running",
    )
    (unit,) = client.all("units", "units")
    assert {"name", "options", "desiredState", "currentState", "machineID"} <= unit.keys()
    for number in range(120):
        client("PUT", f"units/n{number}.service", {"options": unit["options"], "desiredState": "inactive"})
    names = [each["name"] for each in client.all("units", "units")]
    assert len(names) == 121
    assert names == sorted(names)


@pytest.mark.slow
def test_a_start_that_systemd_refuses_ends(cluster: Cluster, go: Callable[[], GoClient]) -> None:
    """It is launched, as in the original, and not active: the command gives up after its window, and does not hang."""
    cluster.systemd.ends["bad.service"] = ("dependency", "inactive", "dead")
    with pytest.raises(AssertionError, match=r"bad.service is not active"):
        go().start("bad.service")


class TestRestarts:
    def test_for_how_long(self) -> None:
        now = [100.0]
        restarts = original.Restarts(clock=lambda: now[0])
        assert not restarts.lingers("x.service")
        assert not restarts.starts("x.service")
        restarts.stops("x.service")
        now[0] += original.LINGER_S - 0.01
        assert restarts.lingers("x.service")
        assert not restarts.lingers("y.service")
        now[0] += 0.02
        assert not restarts.lingers("x.service")
        now[0] = 100 + original.RESTART_S - 0.01
        assert restarts.starts("x.service")
        assert not restarts.starts("x.service"), "once"
        restarts.stops("x.service")
        now[0] += original.RESTART_S
        assert not restarts.starts("x.service")

    def test_of_many_that_are_stopped_few_are_remembered(self) -> None:
        now = [100.0]
        restarts = original.Restarts(clock=lambda: now[0])
        for number in range(1000):
            restarts.stops(f"{number}.service")
            now[0] += 1
        assert len(restarts._stopped) <= original.RESTART_S + 1
