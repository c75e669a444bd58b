"""One server, and what clients may do to it: each bound is met by a client that ignores it."""

from __future__ import annotations

import http.client
import io
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.certificate import self_signed
from tests.eventually import eventually
from webserver import server as http_server
from webserver.message import Refusal, Request, Response, client_of
from webserver.server import LINE_BYTES_MAX, Server, Site, listen

Start = Callable[..., Server]
BODY_BYTES = 1000


def handle(request: Request) -> Response:
    """Says what came."""
    match request.target:
        case "/bug":
            raise ZeroDivisionError("a secret of ours")
        case "/refuse":
            raise Refusal(403, "not here")
        case "/file":
            return Response(200, headers={"Content-Length": "300000"}, file=io.BytesIO(b"x" * 300_000))
        case "/large":
            return Response(200, b"x" * 50_000_000)
        case "/nothing":
            return Response(204, headers={"X-Why": "no body"})
        case "/accept":
            return Response(200, request.headers["accept"].encode())
        case "/last":
            return Response(200, b"last", close=True)
        case _:
            return Response(200, f"{request.method} {request.target} ".encode() + request.body)


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def make(*, tls: ssl.SSLContext | None = None, **site: Any) -> Server:
            usual: dict[str, Any] = {"handle": handle, "name": "test", "log": lambda *_: None, "body_bytes": BODY_BYTES}
            server = Server(listen(("127.0.0.1", 0)), Site(**usual | site), tls=tls)
            stack.callback(server.stop, 0)
            server.start()
            return server

        yield make


@pytest.fixture
def server(start: Start) -> Server:
    return start()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(address(server), timeout=30)


def address(server: Server) -> tuple[str, int]:
    host, port = server._listening.getsockname()
    return str(host), int(port)


def read(connection: socket.socket) -> bytes:
    """Until the server closes."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def exchange(server: Server, raw: bytes) -> bytes:
    with connect(server) as connection:
        connection.sendall(raw)
        return read(connection)


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def is_served(server: Server) -> bool:
    return exchange(server, b"GET /x HTTP/1.0\r\n\r\n").endswith(b"GET /x ")


# Well-behaved clients


def test_several_headers_of_one_name_are_a_list(start: Start) -> None:
    """RFC 9110, 5.3."""
    with connect(start()) as connection:
        connection.sendall(b"GET /accept HTTP/1.0\r\nAccept: a/b\r\nHost: x\r\naccept: c/d, e/f\r\n\r\n")
        assert read(connection).endswith(b"\r\n\r\na/b, c/d, e/f")


def test_one_connection_carries_many_requests(server: Server) -> None:
    connection = http.client.HTTPConnection(*address(server), timeout=30)
    answers = []
    for method, path, body in (
        ("GET", "/a", None),
        ("PUT", "/b", "body"),
        ("HEAD", "/c", None),
        ("GET", "/nothing", None),
    ):
        connection.request(method, path, body)
        response = connection.getresponse()
        answers.append((response.status, response.read()))
        assert response.headers["Server"] == "test"
    assert answers == [(200, b"GET /a "), (200, b"PUT /b body"), (200, b""), (204, b"")]
    assert response.headers["X-Why"] == "no body"
    assert server.connections == 1
    connection.close()
    eventually(lambda: server.connections == 0)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    answer = exchange(
        server,
        b"PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nonePUT /b HTTP/1.1\r\nContent-Length: 3\r\n\r\ntwo"
        b"HEAD /c HTTP/1.1\r\n\r\nGET /d HTTP/1.1\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\n\r\n",
    )
    assert statuses(answer) == [200] * 4
    assert [answer.index(each) for each in (b"PUT /a one", b"PUT /b two", b"GET /d ")] == sorted(
        answer.index(each) for each in (b"PUT /a one", b"PUT /b two", b"GET /d ")
    )
    assert b"HEAD /c" not in answer
    assert b"never" not in answer


@pytest.mark.parametrize("request_", [b"GET /a HTTP/1.0\r\n\r\n", b"GET /last HTTP/1.1\r\n\r\n"])
def test_what_ends_a_connection_says_so(server: Server, request_: bytes) -> None:
    assert b"\r\nConnection: close\r\n" in exchange(server, request_)


def test_head_is_get_without_the_body(server: Server) -> None:
    for path in ("/file", "/nothing", "/a"):
        get, head = (
            exchange(server, f"{method} {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
            for method in ("GET", "HEAD")
        )
        assert statuses(head[0]) == statuses(get[0])
        assert head[2] == b""
        assert (b"Content-Length" in head[0]) == (path != "/nothing")


def test_a_file_ends_the_connection(server: Server) -> None:
    head, _, body = exchange(server, b"GET /file HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert body == b"x" * 300_000


def test_a_client_that_asks_first_may_continue(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"body")
        assert read(connection).endswith(b"PUT /a body")


def test_a_handler_may_take_longer_than_a_request(start: Start) -> None:
    released = threading.Event()

    def wait(_: Request) -> Response:
        return Response(200 if released.wait(0.5) else 504)

    assert statuses(exchange(start(handle=wait, request_s=0.1), b"GET / HTTP/1.0\r\n\r\n")) == [504]


def test_tls_is_handed_in(start: Start, tmp_path: Path) -> None:
    context = self_signed(tmp_path / "pem", x509.DNSName("localhost"))
    server = start(tls=context, request_s=2.0)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "pem"))
    # A client that does not speak TLS, and one that sends nothing, delay no other.
    with connect(server) as silent, connect(server) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with trusting.wrap_socket(connect(server), server_hostname="localhost") as connection:
            connection.sendall(b"GET /a HTTP/1.1\r\n\r\nGET /file HTTP/1.1\r\n\r\n")
            answer = read(connection)
        assert statuses(answer) == [200, 200]
        assert answer.endswith(b"x" * 300_000)
        assert silent.recv(1) == b""
    eventually(lambda: server.connections == 0)


# Clients that send too much, or what is no request


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"x" * LINE_BYTES_MAX + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"h: x\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nh: " + b"x" * LINE_BYTES_MAX + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"h: " + b"x" * 40_000 + b"\r\n") * 10 + b"\r\n", 431),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, 413),
        (b"PUT / HTTP/1.1\r\nContent-Length: 9" + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx", 411),
        (b"BREW / HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n", 400),
        (b"PROXY TCP4 10.0.0.1 0.0.0.0 0 0\r\nGET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /refuse HTTP/1.1\r\n\r\n", 403),
    ],
)
def test_what_is_refused_ends_the_connection(server: Server, raw: bytes, status: int) -> None:
    answer = exchange(server, raw + b"GET /after HTTP/1.1\r\n\r\n")
    assert statuses(answer) == [status]
    assert b"\r\nConnection: close\r\n" in answer
    assert b"/after" not in answer


def test_a_refusal_has_the_sites_shape(start: Start) -> None:
    server = start(refuse=lambda status, message: Response(status, f"{status}: {message}".encode()))
    assert exchange(server, b"GET /refuse HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n403: not here")
    assert exchange(server, b"PUT / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n").endswith(
        b"413: the body is larger than 1000 bytes"
    )


def test_who_is_refused_while_it_sends_can_read_why(server: Server) -> None:
    """A socket that is closed with bytes unread resets the connection, and the answer is gone."""
    with connect(server) as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000)
        assert statuses(read(connection)) == [413]


def test_a_body_that_ends_early_reaches_no_handler(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"PUT /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort")
        connection.shutdown(socket.SHUT_WR)
        answer = read(connection)
    assert statuses(answer) == [400]
    assert b"short" not in answer


@pytest.mark.parametrize(
    "sent", [b"", b"GET /large", b"GET /large HTTP/1.1\r\n\r\n", b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_client_that_goes_away_is_no_news(server: Server, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    with connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes by a reset
        connection.sendall(sent)
        eventually(lambda: server.connections == 1)
    eventually(lambda: server.connections == 0)
    assert caplog.records == []
    assert is_served(server)


def test_a_bug_is_a_plain_500_with_its_traceback_in_our_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    answer = exchange(server, b"GET /bug HTTP/1.1\r\n\r\n")
    assert statuses(answer) == [500]
    assert b"secret" not in answer
    assert "a secret of ours" in caplog.text


def test_the_log_has_no_control_characters(start: Start) -> None:
    said: list[tuple[str, str]] = []
    server = start(log=lambda *line: said.append(line))
    exchange(server, b"GET /\x1b[2J\x7f HTTP/1.0\r\n\r\n")
    assert said == [("127.0.0.1", '"GET /?[2J? HTTP/1.0" 200 -')]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from([b"GET / HTTP/1.1\r\n", b"PUT /a HTTP/1.1\r\n", b"Content-Length: 3\r\n", b"\r\n", b"abc", b"Expect: 100-continue\r\n"])
        | st.binary(max_size=60),
        max_size=8,
    )
)  # fmt: skip
def test_any_bytes_are_requests_or_are_refused(
    server: Server, caplog: pytest.LogCaptureFixture, said: list[bytes]
) -> None:
    with connect(server) as connection, suppress(ConnectionError):
        connection.sendall(b"".join(said))
        connection.shutdown(socket.SHUT_WR)
        assert set(statuses(read(connection))) <= {100, 200, 400, 413, 411, 431, 501, 505}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Clients that are slow


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET / HTTP/1.1\r\n", b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"GET /ok HTTP/1.1\r\n\r\n"],
)
def test_a_request_that_drips_in_is_dropped(start: Start, begin: bytes) -> None:
    """A byte now and then keeps no connection alive: the bound is one for the whole request."""
    server = start(request_s=0.5)
    begun = time.monotonic()
    with connect(server) as loris, suppress(OSError):
        loris.sendall(begin)
        while time.monotonic() < begun + 25:
            loris.sendall(b"X")
            time.sleep(0.05)  # it drips
    assert time.monotonic() < begun + 20
    assert is_served(server)


def test_a_silent_client_is_dropped(start: Start) -> None:
    server = start(request_s=0.2)
    with connect(server) as silent:
        assert silent.recv(1) == b""


def test_a_client_that_does_not_read_is_dropped(start: Start) -> None:
    server = start(request_s=0.5)
    with connect(server) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        eventually(lambda: server.connections == 1)
        eventually(lambda: server.connections == 0)


# Clients that are many


def test_one_connection_too_many_is_closed(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start(connections=2)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(2)]
        eventually(lambda: server.connections == 2)
        for _ in range(3):
            with connect(server) as refused:
                assert refused.recv(1) == b""
        held[0].close()
        eventually(lambda: server.connections == 1)
        assert is_served(server)
    assert len(caplog.records) == 1, "a flood of connections is none of our log"


def test_one_connection_too_many_waits_if_the_site_has_a_queue(start: Start) -> None:
    server = start(connections=1, queue_s=30)
    with connect(server) as held, connect(server) as waiting:
        eventually(lambda: server.connections == 1)
        waiting.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        waiting.settimeout(30)
        held.close()
        assert statuses(read(waiting)) == [200]


def test_one_client_leaves_room_for_others(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "client_of", lambda address: address)  # loopbacks count as none
    server = start(connections_client=1)
    with connect(server), connect(server) as refused:
        assert refused.recv(1) == b""
        with socket.create_connection(address(server), timeout=30, source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"GET /a HTTP/1.0\r\n\r\n")
            assert statuses(read(other)) == [200]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
    ],
)
def test_who_counts_as_one(address: str, client: str) -> None:
    assert client_of(address) == client


# The end


def test_stop_lets_responses_leave_and_reads_no_more(start: Start) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(_: Request) -> Response:
        begun.set()
        go.wait(30)
        return Response(200, b"done")

    server = start(handle=wait)
    with connect(server) as busy, connect(server) as idle:
        busy.sendall(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        assert begun.wait(30)
        eventually(lambda: server.connections == 2)
        where = address(server)
        stopping = threading.Thread(target=server.stop, args=(30,))
        stopping.start()
        assert idle.recv(1) == b""
        go.set()
        answer = read(busy)
        stopping.join()
    assert (statuses(answer), answer[-4:]) == ([200], b"done")
    assert b"\r\nConnection: close\r\n" in answer
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def test_stop_drops_what_takes_too_long(start: Start) -> None:
    server = start(handle=lambda _: Response(200, b"x" * 50_000_000))
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1)
        server.stop(0.1)
        assert len(read(connection)) < 50_000_000
        eventually(lambda: server.connections == 0)
        server.stop()


def test_stop_does_not_wait_for_a_queue(start: Start) -> None:
    server = start(connections=1, queue_s=600)
    with connect(server), connect(server) as waiting:
        eventually(lambda: server.connections == 1)
        server.stop()
        with suppress(ConnectionResetError):  # if it was not accepted by then
            assert waiting.recv(1) == b""


def test_a_unix_socket_replaces_a_dead_one_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server.at(path, Site(handle=handle, name="test", log=lambda *_: None))
    server.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        assert statuses(read(connection)) == [200]
    server.stop()
    assert not path.exists()
