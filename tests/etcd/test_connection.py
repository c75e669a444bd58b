"""HTTP/1.1 as our connections read it: whole, byte by byte, and from a peer that lies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd.connection import BrokenError, NotConnectedError, Pool, _Connection
from tests.ports import free_ports

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def answered(answer: bytes) -> tuple[int, bytes, bool]:
    """What comes of an exchange with a peer that says this and nothing more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        connection = _Connection(ours)

        def send() -> None:
            with contextlib.suppress(OSError):  # whoever has heard enough hangs up
                theirs.sendall(answer)
                theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return connection.exchange(b"request")
        finally:
            connection.close()
            sender.join()


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%X;x=y\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (OK, (200, b"hi", True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"hi", True)),
        (OK.replace(b"\r\n", b"\n"), (200, b"hi", True)),
        (OK.replace(b"HTTP/1.1", b"HTTP/1.0"), (200, b"hi", False)),
        (OK.replace(b"OK\r\n", b"OK\r\nCONNECTION: Close\r\n"), (200, b"hi", False)),
        (b"HTTP/1.1 204\r\n\r\n", (204, b"", True)),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nuntil the end", (503, b"until the end", False)),
        (chunked(b"a", b"bc" * 70_000)[:-2] + b"Trailer: 1\r\n\r\n", (200, b"a" + b"bc" * 70_000, True)),
        (chunked(), (200, b"", True)),
    ],
)
def test_answers(answer: bytes, expected: tuple[int, bytes, bool]) -> None:
    assert answered(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"SSH-2.0-x\r\n",
        OK[:-1],
        OK.replace(b": 2", b": -2"),
        OK.replace(b": 2", b": 999999999999999999999"),
        OK.replace(b": 2", b": 999999999999"),
        OK.replace(b"Content-Length: 2", b"Transfer-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a" * 100_000,
        chunked(b"ab").replace(b"2;", b"1;"),
        chunked(b"ab").replace(b"2;", b"3;"),
        chunked(b"ab").replace(b"2;", b"-2;"),
        chunked(b"ab").replace(b"2;", b"f" * 20 + b";"),
        chunked(b"ab").replace(b"2;", b";"),
        chunked(b"ab")[:-2],
        chunked(b"ab")[:-2] + b"a: b\r\n" * 300,
    ],
)
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        answered(answer)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", chunked(b"x")[:-7]]))
def test_nothing_else_is_raised_whatever_comes(noise: bytes, before: bytes) -> None:
    try:
        status, body, _ = answered(before + noise)
    except ValueError:
        return
    assert 0 <= status <= 999
    assert len(body) <= len(before + noise)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_chunks_come_together(parts: list[bytes]) -> None:
    assert answered(chunked(*parts)) == (200, b"".join(parts), True)


class Peer:
    """Accepts connections, one after the other, and lets ``serve`` have each; ``accepted`` counts them."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.accepted = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._serve = serve
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with accepted:
                self._serve(accepted)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[socket.socket], None]], Peer]]:
    made: list[Peer] = []

    def make(serve: Callable[[socket.socket], None]) -> Peer:
        made.append(Peer(serve))
        return made[-1]

    yield make
    for each in made:
        each.close()


def received(accepted: socket.socket) -> bytes:
    """One request; b"" when there is none any more."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = accepted.recv(1000)
        if not part:
            return b""
        got += part
    return got


class TestPool:
    def test_a_connection_is_kept(self, peer: Callable[..., Peer]) -> None:
        def serve(accepted: socket.socket) -> None:
            while request := received(accepted):
                assert request.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:")
                accepted.sendall(OK)

        server = peer(serve)
        pool = Pool("127.0.0.1", server.port, timeout=10, kept_max=2)
        assert [pool.request("GET", "/x") for _ in range(3)] == [(200, b"hi")] * 3
        assert server.accepted == 1
        pool.close()

    def test_one_that_the_other_side_closed_meanwhile_is_not_used(self, peer: Callable[..., Peer]) -> None:
        """A write that is sent on it would be lost, and the caller could not know whether it was carried out."""
        closed = threading.Semaphore(0)

        def serve(accepted: socket.socket) -> None:
            received(accepted)
            accepted.sendall(OK)
            accepted.shutdown(socket.SHUT_RDWR)
            closed.release()

        server = peer(serve)
        pool = Pool("127.0.0.1", server.port, timeout=10, kept_max=2)
        for _ in range(3):
            assert pool.request("POST", "/x", b"{}") == (200, b"hi")
            assert closed.acquire(timeout=10)
        assert server.accepted == 3
        pool.close()

    def test_broken_is_not_the_same_as_never_connected(self, peer: Callable[..., Peer]) -> None:
        with pytest.raises(NotConnectedError):
            Pool("127.0.0.1", free_ports(1)[0], timeout=10, kept_max=2).request("GET", "/x")
        server = peer(received)
        with pytest.raises(BrokenError, match="ended in the middle"):
            Pool("127.0.0.1", server.port, timeout=10, kept_max=2).request("GET", "/x")

    def test_no_more_than_so_many_are_kept(self, peer: Callable[..., Peer]) -> None:
        def serve(accepted: socket.socket) -> None:
            while received(accepted):
                accepted.sendall(OK)

        server = peer(serve)
        pool = Pool("127.0.0.1", server.port, timeout=10, kept_max=0)
        for number in range(1, 3):
            assert pool.request("GET", "/x") == (200, b"hi")
            assert server.accepted == number

    def test_a_pool_that_is_dropped_leaves_no_connection(self, peer: Callable[..., Peer]) -> None:
        ended = threading.Event()

        def serve(accepted: socket.socket) -> None:
            received(accepted)
            accepted.sendall(OK)
            received(accepted)
            ended.set()

        server = peer(serve)
        assert Pool("127.0.0.1", server.port, timeout=10, kept_max=2).request("GET", "/x") == (200, b"hi")
        assert ended.wait(10)
