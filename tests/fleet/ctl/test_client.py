"""The client against servers that are no fleet API, or a broken one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.ctl.client import ApiError, Client, Unreachable
from fleet.ctl.endpoint import Endpoint
from terminal import Failure, UsageFailure

Serve = Callable[..., Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers each connection with the next of some raw texts, then hangs up; returns a client of
    it.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    clients: list[Client] = []

    def start(*answers: bytes) -> Client:
        def answer() -> None:
            for each in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(each)

        threading.Thread(target=answer, daemon=True).start()
        clients.append(Client(Endpoint(*listening.getsockname()), timeout_s=0.5))
        return clients[-1]

    yield start
    for each in clients:
        each.close()
    listening.close()


def response(body: bytes, status: str = "200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status.encode(), len(body), more, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"machines": 1}',
        b'{"machines": [1]}',
        b'{"machines": [{"id": 1}]}',
        b'{"machines": [{"metadata": {"a": 1}}]}',
        b'{"nextPageToken": 5}',
    ],
)
def test_an_answer_of_the_wrong_shape_is_a_failure(serve: Serve, body: bytes) -> None:
    with pytest.raises(Failure, match="fleet API"):
        serve(response(body)).machines()


def test_pages_that_go_round_and_round_end(serve: Serve) -> None:
    with pytest.raises(Failure, match="leads back to itself"):
        serve(response(b'{"nextPageToken": "x"}'), response(b'{"nextPageToken": "x"}')).units()


def test_a_connection_that_the_server_dropped_is_opened_again(serve: Serve) -> None:
    """The server of this test hangs up after each answer, as a real one does after a minute of silence."""
    client = serve(response(b"{}"), response(b'{"machines": [{"id": "a"}]}'))
    assert client.machines() == []
    assert [each.id for each in client.machines()] == ["a"]


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        (b'{"error": {"code": 409, "message": "no", "hint": "do this"}}', "no", "do this"),
        (b'{"error": "no"}', "the fleet API answered 409 Conflict", None),
        (b'{"error": {"message": 5}}', "the fleet API answered 409 Conflict", None),
        (b"<html>", "the fleet API answered 409 Conflict", None),
    ],
)
def test_an_error_is_reported_in_the_servers_words(serve: Serve, body: bytes, message: str, hint: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        serve(response(body, "409 Conflict")).machines()
    assert (caught.value.status, caught.value.message, caught.value.hint) == (409, message, hint)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection without an answer"),
        (b"nonsense\r\n\r\n", "cannot talk to the fleet API"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "cannot talk to the fleet API"),
    ],
)
def test_broken_http(serve: Serve, answer: bytes, message: str) -> None:
    with pytest.raises(Unreachable, match=message):
        serve(answer).machines()


def test_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = Client(Endpoint(*listening.getsockname()), timeout_s=0.05)
        with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
            client.machines()


@given(st.text())
def test_any_endpoint_is_understood_or_refused(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except UsageFailure:
        return
    assert text.casefold().startswith(("unix:///", "http://", "https://"))
    assert endpoint.path.startswith("/") or endpoint.host
