"""The API over real sockets: what HTTP itself may do to it."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd.fake import FakeEtcd
from fleet.api import server
from fleet.api.server import ApiServer
from fleet.model.entities import Machine
from fleet.model.registry import Registry
from terminal.version import VERSION


@pytest.fixture
def registry() -> Registry:
    return Registry(FakeEtcd())


@pytest.fixture
def address(registry: Registry) -> Iterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    api = ApiServer(registry, sockets=[listening])
    api.start()
    yield listening.getsockname()
    api.stop()


def exchange(address: tuple[str, int], raw: bytes) -> bytes:
    """All that the server answers to raw bytes until it closes the connection."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def test_one_connection_carries_many_requests(address: tuple[str, int]) -> None:
    statuses = []
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        body = '{"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]}'
        for method, path, content in (
            ("GET", "/fleet/v1/machines", None),
            ("PUT", "/fleet/v1/units/hello.service", body),
            ("HEAD", "/fleet/v1/units/hello.service", None),
            ("DELETE", "/fleet/v1/units/hello.service", None),
            ("BREW", "/fleet/v1/units", None),
        ):
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
            assert response.getheader("Server") == f"fleetd/{VERSION}"
    assert statuses == [200, 201, 200, 204, 501]


def test_several_sockets_one_of_them_unix(registry: Registry, tmp_path: Path) -> None:
    listening = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    listening[1].bind(str(tmp_path / "api.sock"))
    listening[1].listen()
    api = ApiServer(registry, sockets=listening)
    api.start()
    try:
        for each in (socket.create_connection(listening[0].getsockname()), socket.socket(socket.AF_UNIX)):
            with each as connection:
                if connection.family == socket.AF_UNIX:
                    connection.connect(str(tmp_path / "api.sock"))
                connection.sendall(b"GET /fleet/v1/machines HTTP/1.0\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    finally:
        api.stop()
    with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as late:
        late.connect(str(tmp_path / "api.sock"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"PUT /fleet/v1/units/x.service HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"PUT /fleet/v1/units/x.service HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"PUT /fleet/v1/units/x.service HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (b"PUT /fleet/v1/units/x.service HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(200)) + b"\r\n", b"431"),
    ],
)
def test_broken_http_gets_a_json_error_and_the_door(address: tuple[str, int], raw: bytes, status: bytes) -> None:
    answer = exchange(address, raw)
    assert b" " + status + b" " in answer.partition(b"\r\n")[0]
    assert answer.rstrip().endswith(b"}}")
    assert b"Connection: close" in answer
    assert b"Traceback" not in answer


def test_a_body_that_ends_early_is_dropped(address: tuple[str, int], registry: Registry) -> None:
    answer = exchange(
        address,
        b"PUT /fleet/v1/units/x.service HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
    )
    assert b"400" in answer.partition(b"\r\n")[0]
    assert registry.units() == []


def test_a_bug_is_a_plain_500_and_its_traceback_is_in_our_log(
    address: tuple[str, int], registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[Machine]:
        raise ZeroDivisionError("a secret of ours")

    monkeypatch.setattr(registry, "machines", broken)
    with caplog.at_level(logging.ERROR):
        answer = exchange(address, b"GET /fleet/v1/machines HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert "a secret of ours" in caplog.text


def test_more_connections_than_slots_wait_their_turn(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    listening = socket.create_server(("127.0.0.1", 0))
    api = ApiServer(registry, sockets=[listening])
    api.start()
    with contextlib.ExitStack() as stack:
        stack.callback(api.stop)
        silent = [socket.create_connection(listening.getsockname()) for _ in range(2)]
        answers: list[bytes] = []
        last = threading.Thread(
            target=lambda: answers.append(exchange(listening.getsockname(), b"GET /fleet/v1/units HTTP/1.0\r\n\r\n"))
        )
        last.start()
        last.join(0.2)
        assert answers == []
        silent[0].close()
        last.join(30)
        assert answers[0].startswith(b"HTTP/1.1 200 ")
        silent[1].close()
