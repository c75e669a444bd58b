"""Watches that ask servers: a web server, and a stand-in for systemd's private socket, both real sockets."""

import http.server
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jeepney import Message, Parser, new_error, new_method_return

from guest import conversation, manager
from guest.loop import Loop
from guest.watch import Watch
from tests.ports import free_ports

Make = Callable[..., "Watched"]


class Systemd:
    """Answers ``Get`` of ``NFailedUnits`` and ``ActiveState``, as PID 1 does on its private socket; a D-Bus library
    reads and writes it.
    """

    def __init__(self, path: Path) -> None:
        self.states: dict[str, str] = {}
        self.calls = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line, suppress(ConnectionError):  # the caller may have been dropped meanwhile
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        heard = b""
        while b"BEGIN\r\n" not in heard:
            if not (piece := line.recv(4096)):
                return
            heard += piece
        assert re.match(rb"\0AUTH EXTERNAL [0-9a-f]+\r\n", heard)
        assert heard.endswith(b"BEGIN\r\n"), "systemd does not look at what comes in one piece with it"
        line.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        parser = Parser()
        calls: list[Message] = []
        while not calls:
            if not (piece := line.recv(4096)):
                return
            calls = parser.feed(piece)
        (call,) = calls
        self.calls += 1
        _, name = call.body
        path = {str(key.name): value for key, value in call.header.fields.items()}["path"]
        units = {manager.escaped(unit): state for unit, state in self.states.items()}
        if name == "NFailedUnits":
            reply = new_method_return(call, "v", (("u", list(units.values()).count("failed")),))
        elif path.rpartition("/")[2] in units:
            reply = new_method_return(call, "v", (("s", units[path.rpartition("/")[2]]),))
        else:
            reply = new_error(call, "org.freedesktop.systemd1.NoSuchUnit", "s", ("no such unit",))
        line.sendall(reply.serialise(serial=1))


@pytest.fixture
def systemd(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    monkeypatch.setattr(manager, "SOCKET", str(short / "private"))
    served = Systemd(short / "private")
    yield served
    served.close()


@pytest.fixture
def watching() -> Iterator[Make]:
    """Makes watches, and drops them in the end."""
    made: list[Watched] = []

    def make(conditions: list[dict[str, Any]], units: tuple[str, ...] = ()) -> Watched:
        made.append(Watched(conditions, units))
        return made[-1]

    yield make
    for watched in made:
        watched.close()


class Watched:
    """A watch that goes on for as long as a test looks at it."""

    def __init__(self, conditions: list[dict[str, Any]], units: tuple[str, ...] = ()) -> None:
        self.sent: list[dict[str, Any]] = []
        self._loop = Loop()
        request = {"conditions": conditions, "units": list(units), "interval": 0.05}
        self.watch = Watch(1, request, self._loop, self.sent.append)

    def go_on(self, until: Callable[[], bool] = lambda: False, seconds: float = 10.0) -> None:
        """Let it look, until ``until`` or for ``seconds``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            if not self.watch.is_over:
                self.watch.tick(time.monotonic())
            self._loop.once(0.02)

    def is_silent(self) -> bool:
        """Whether it waits for no answer any more."""
        return not self._loop._handlers

    def close(self) -> None:
        """Drop it."""
        self.watch.drop()
        self._loop.close()

    def holds(self, count: int) -> bool:
        self.go_on(lambda: sum("held" in message for message in self.sent) >= count)
        return sum("held" in message for message in self.sent) == count


def test_an_http_server_is_polled_until_it_says_so(watching: Make) -> None:
    said = [(503, "no"), (200, '{"health":"false"}'), (200, '{"health":"true"}')]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = said.pop(0)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        watched = watching([{"http": server.server_port, "path": "/health", "has": '"health":"true"'}])
        assert watched.holds(1)
        server.shutdown()
    assert said == []
    assert watched.sent == [{"id": 1, "held": 0}, {"id": 1, "exit": 0}]


def test_one_of_several_conditions_is_asked_for_while_the_others_are_looked_at(tmp_path: Path, watching: Make) -> None:
    path = tmp_path / "data.proxy"
    (closed,) = free_ports(1)
    watched = watching([{"any": [{"exists": str(path)}, {"http": closed, "path": "/", "has": ""}]}])
    watched.go_on(seconds=0.2)
    assert watched.sent == []
    path.touch()
    assert watched.holds(1)


def test_a_server_that_is_not_there_yet_or_hangs_is_tried_again(
    short: Path, monkeypatch: pytest.MonkeyPatch, watching: Make
) -> None:
    monkeypatch.setattr(conversation, "DEADLINE_S", 0.3)
    path = short / "fleet.sock"
    watched = watching([{"http": str(path), "path": "/machines", "has": '"id":', "times": 2}])
    watched.go_on(seconds=0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        watched.go_on(seconds=1)  # it is connected, and gets no answer
        assert watched.sent == []
        listener.setblocking(False)
        monkeypatch.setattr(conversation, "DEADLINE_S", 30)
        while not watched.sent:  # those that were given up come first
            with suppress(BlockingIOError):
                line, _ = listener.accept()
                watched.go_on(seconds=0.1)  # it says what it wants, as far as it has not given up
                with line, suppress(BrokenPipeError):
                    line.recv(4096)
                    line.sendall(b'HTTP/1.0 200 OK\r\n\r\n[{"id":1},{"id":2}]')
            watched.go_on(lambda: bool(watched.sent), seconds=0.1)
    assert watched.holds(1)


def test_a_units_state_is_a_condition(systemd: Systemd, watching: Make) -> None:
    watched = watching([{"unit": "a-b.service", "is": "active"}])
    watched.go_on(seconds=0.3)
    assert watched.sent == []
    systemd.states["a-b.service"] = "activating"
    watched.go_on(seconds=0.3)
    assert watched.sent == []
    systemd.states["a-b.service"] = "active"
    assert watched.holds(1)


@pytest.mark.slow
def test_a_unit_that_fails_is_reported_once_and_others_failures_are_not(systemd: Systemd, watching: Make) -> None:
    systemd.states = {"etcd.service": "active", "fleet.service": "activating", "other.service": "failed"}
    watched = watching([{"exists": "/no/such/file"}], ("etcd.service", "fleet.service"))
    watched.go_on(seconds=3.0)
    assert watched.sent == []
    systemd.states["etcd.service"] = "failed"
    watched.go_on(lambda: bool(watched.sent))
    assert watched.sent == [{"id": 1, "failed": ["etcd.service"]}]
    watched.go_on(seconds=0.5)
    assert len(watched.sent) == 1
    systemd.states["etcd.service"] = "active"
    watched.go_on(lambda: len(watched.sent) == 2)
    assert watched.sent[1] == {"id": 1, "failed": []}


def test_no_manager_is_no_failure(short: Path, monkeypatch: pytest.MonkeyPatch, watching: Make) -> None:
    monkeypatch.setattr(manager, "SOCKET", str(short / "none"))
    watched = watching([{"unit": "x.service", "is": "active"}, {"exists": "/"}], ("x.service",))
    watched.go_on(seconds=0.5)
    assert watched.sent == []


def test_a_watch_that_is_given_up_says_so_and_looks_no_more(systemd: Systemd, watching: Make) -> None:
    watched = watching([{"unit": "x.service", "is": "active"}], ("x.service",))
    watched.go_on(lambda: systemd.calls > 2)
    with pytest.raises(ValueError, match="takes no input"):
        watched.watch.receive({"do": "input", "data": ""})
    watched.watch.drop()
    assert watched.sent == []
    assert watched.is_silent()
