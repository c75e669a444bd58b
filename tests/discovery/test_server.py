"""The service over HTTP: each request of etcd's client, and what else may come to an open port."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from discovery import protocol
from discovery.server import DiscoveryServer
from terminal import Failure
from tests.eventually import WITHIN_S, eventually
from webserver import server as http_server


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def serve(state: Path) -> Iterator[Callable[..., DiscoveryServer]]:
    servers: list[DiscoveryServer] = []

    def make(**options: Any) -> DiscoveryServer:
        server = DiscoveryServer("127.0.0.1", options.pop("port", 0), options.pop("state", state), **options)
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., DiscoveryServer]) -> DiscoveryServer:
    return serve()


def ask(server: DiscoveryServer, method: str, path: str, form: str | None = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body=form, headers={name.replace("_", "-"): v for name, v in headers.items()})
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())
    finally:
        connection.close()


def register(server: DiscoveryServer, token: str, name: str) -> Reply:
    return ask(server, "PUT", f"/{token}/{name}?prevExist=false", f"value={name}%3Dhttp%3A%2F%2F{name}%3A2380")


def test_new(server: DiscoveryServer) -> None:
    for method, path, size in (("GET", "/new", "3"), ("PUT", "/new?size=5", "5")):
        reply = ask(server, method, path)
        assert reply.status == 200
        url = reply.body.decode()
        token = url.removeprefix(f"http://127.0.0.1:{server.port}/")
        assert len(token) == 32
        assert ask(server, "GET", f"/{token}/_config/size").json["node"]["value"] == size


@pytest.mark.parametrize("size", ["0", "-1", "x", "", "99999999999", "65", "%C2%B2", "3;"])
def test_new_refuses_sizes(server: DiscoveryServer, size: str) -> None:
    expected = 200 if size == "" else 400  # an empty parameter is no parameter
    assert ask(server, "GET", f"/new?size={size}").status == expected


def test_what_etcd_asks_in_order(server: DiscoveryServer) -> None:
    token = server.new_token(2)
    size = ask(server, "GET", f"/{token}/_config/size?quorum=false&recursive=false&sorted=false")
    assert size.json["action"] == "get"
    assert size.json["node"]["value"] == "2"
    assert size.json["node"]["createdIndex"] >= 2
    empty = ask(server, "GET", f"/{token}?quorum=false&recursive=false&sorted=false")
    assert empty.json["node"] | {"dir": True, "nodes": []} == empty.json["node"]

    first = register(server, token, "a")
    assert first.status == 201
    assert first.json["action"] == "create"
    index = first.json["node"]["createdIndex"]
    assert first.json["node"] == {
        "key": f"/{token}/a",
        "value": "a=http://a:2380",
        "modifiedIndex": index,
        "createdIndex": index,
    }
    own = ask(server, "GET", f"/{token}/a?recursive=false&wait=true&waitIndex={index}")
    assert own.json == first.json, "the creation is in the history"

    listing = ask(server, "GET", f"/{token}/")
    assert [node["key"] for node in listing.json["node"]["nodes"]] == [f"/{token}/a"]
    after = int(listing.headers["X-Etcd-Index"]) + 1
    threading.Timer(0.1, register, (server, token, "b")).start()
    event = ask(server, "GET", f"/{token}?recursive=true&wait=true&waitIndex={after}")
    assert event.json["action"] == "create"
    assert event.json["node"]["value"] == "b=http://b:2380"
    assert event.json["node"]["createdIndex"] >= after


def test_a_watch_without_index_begins_now(server: DiscoveryServer) -> None:
    token = server.new_token(2)
    register(server, token, "before")
    answered = threading.Event()

    def keep_registering() -> None:  # since it is not known when the watch has begun
        for number in range(100):
            if answered.wait(0.1):
                return
            register(server, token, f"after{number}")

    others = threading.Thread(target=keep_registering)
    others.start()
    event = ask(server, "GET", f"/{token}?wait=true").json
    answered.set()
    others.join()
    assert event["node"]["value"].startswith("after")


def test_a_watch_is_kept_alive_by_empty_answers(serve: Callable[..., DiscoveryServer]) -> None:
    server = serve(keep_alive_s=0.1)
    token = server.new_token(2)
    reply = ask(server, "GET", f"/{token}?recursive=true&wait=true&waitIndex=9")
    assert (reply.status, reply.body) == (200, b"")


def test_a_slot_is_taken_once_whoever_races(server: DiscoveryServer) -> None:
    token = server.new_token(2)
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(register(server, token, "a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [201] + [412] * 7
    refused = next(reply for reply in replies if reply.status == 412)
    assert refused.json["errorCode"] == 105
    assert refused.json["index"] == int(refused.headers["X-Etcd-Index"])
    assert len(ask(server, "GET", f"/{token}").json["node"]["nodes"]) == 1


def test_machines_beyond_the_size_see_for_themselves(server: DiscoveryServer) -> None:
    token = server.new_token(1)
    assert [register(server, token, name).status for name in "ab"] == [201, 201]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/{unknown}/_config/size", 404, 100),
        ("GET", "/{unknown}", 404, 100),
        ("GET", "/{unknown}?wait=true", 404, 100),
        ("PUT", "/{unknown}/a?value=a%3Dhttp://a:1", 404, 100),
        ("GET", "/{token}/unknown", 404, 100),
        ("GET", "/{token}/a/b/c", 404, 100),
        ("GET", "/../../etc/passwd", 404, 100),
        ("GET", "/{token}?wait=true&waitIndex=x", 400, 203),
        ("PUT", "/{token}/a", 400, 209),
        ("PUT", "/{token}/a?value=junk", 400, 209),
        ("PUT", "/{token}/_a?value=a%3Dhttp://a:1", 400, 209),
        ("PUT", "/{token}/a?prevExist=true&value=a%3Dhttp://a:1", 400, 209),
    ],
)
def test_errors_are_those_of_etcd(server: DiscoveryServer, method: str, path: str, status: int, code: int) -> None:
    reply = ask(server, method, path.format(unknown="f" * 32, token=server.new_token(1)))
    assert reply.status == status
    assert reply.json["errorCode"] == code
    assert set(reply.json) == {"errorCode", "message", "cause", "index"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/{token}/a"),
        ("DELETE", "/{token}"),
        ("PUT", "/{token}"),
        ("PUT", "/{token}/_config/size"),
        ("POST", "/health"),
        ("DELETE", "/new"),
        ("PATCH", "/"),
    ],
)
def test_methods_that_would_break_who_waits(server: DiscoveryServer, method: str, path: str) -> None:
    reply = ask(server, method, path.format(token=server.new_token(1)))
    assert reply.status == 405
    assert "GET" in reply.headers["Allow"]


def test_head_and_the_small_paths(server: DiscoveryServer) -> None:
    token = server.new_token(1)
    head = ask(server, "HEAD", f"/{token}")
    assert head.status == 200
    assert head.body == b""
    assert int(head.headers["Content-Length"]) > 0
    assert ask(server, "GET", "/health").body == b"OK\n"
    assert b"Disallow: /" in ask(server, "GET", "/robots.txt").body
    assert ask(server, "GET", "/").status == 200


def test_bodies_are_bounded(server: DiscoveryServer) -> None:
    path = f"/{server.new_token(1)}/a"
    assert ask(server, "PUT", path, "value=" + "x" * 5000).status == 413
    assert ask(server, "PUT", path, Content_Length="99999999999999").status == 413
    assert ask(server, "PUT", path, Content_Length="-1").status == 411
    assert ask(server, "PUT", path, Content_Length="x").status == 411
    assert ask(server, "PUT", path, Transfer_Encoding="chunked").status == 411
    assert ask(server, "PUT", path, "&".join(["a=1"] * 100)).status == 400
    assert ask(server, "GET", "/" + "x" * 70000).status == 414


def test_noise_on_the_port_stops_nothing(server: DiscoveryServer) -> None:
    for noise in (
        b"\x16\x03\x01\x02\x00\x01",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(noise)
    assert ask(server, "GET", "/health").status == 200


def test_a_request_that_drips_in_is_dropped(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., DiscoveryServer]
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_TIMEOUT_S", 0.5)
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as loris:
        begin = time.monotonic()
        with suppress(OSError):  # in the end the other side is gone
            loris.sendall(b"GET /health HTTP/1.1\r\n")
            while time.monotonic() < begin + 25:
                loris.sendall(b"X-Slow: 1\r\n")
                time.sleep(0.05)  # it drips
        assert time.monotonic() < begin + 20
    assert ask(server, "GET", "/health").status == 200


def test_a_watch_may_take_longer_than_a_request(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., DiscoveryServer]
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_TIMEOUT_S", 0.2)
    server = serve(keep_alive_s=0.6)
    reply = ask(server, "GET", f"/{server.new_token(1)}?wait=true&waitIndex=9")
    assert (reply.status, reply.body) == (200, b"")


def test_requests_in_one_go_are_answered_in_order(server: DiscoveryServer) -> None:
    token = server.new_token(1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(30)
        connection.sendall(
            f"GET /{token}/_config/size HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
            "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    statuses = [line.split()[1] for line in answer.splitlines() if line.startswith(b"HTTP/1.1")]
    assert statuses == [b"200", b"404", b"200"]


@pytest.mark.parametrize(
    "path", ["/..", "/../../etc/passwd", "/%2e%2e/etc", "//", "/\x7f", "/new/../x", "/{token}/../x", "http://[/x"]
)
def test_no_path_leads_anywhere_else(server: DiscoveryServer, path: str) -> None:
    token = server.new_token(1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(30)
        connection.sendall(f"GET {path.format(token=token)} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        status = int(connection.recv(4096).split()[1])
    assert status in (200, 400, 404)
    assert status != 200 or path == "//", "two slashes are the welcome page"


def test_what_a_kill_left_of_a_change_goes_at_the_next_start(
    serve: Callable[..., DiscoveryServer], state: Path
) -> None:
    unfinished = state.with_name(f".{state.name}.abcd1234")
    unfinished.write_text("{")
    serve()
    assert [path.name for path in state.parent.iterdir()] == [state.name]


def test_a_restart_forgets_nothing(serve: Callable[..., DiscoveryServer], state: Path) -> None:
    first = serve()
    token = first.new_token(3)
    assert register(first, token, "a").status == 201
    first.stop()
    assert state.stat().st_mode & 0o777 == 0o600, "who knows a token may join"
    second = serve(port=first.port)
    listing = ask(second, "GET", f"/{token}").json["node"]["nodes"]
    assert [node["value"] for node in listing] == ["a=http://a:2380"]
    assert register(second, token, "a").status == 412


def test_stop_frees_who_waits(server: DiscoveryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    token = server.new_token(2)
    waits, wait = threading.Event(), server.changed.wait

    def seen(timeout: float | None = None) -> bool:
        waits.set()
        return wait(timeout)

    monkeypatch.setattr(server.changed, "wait", seen)
    replies: list[Reply] = []
    waiting = threading.Thread(target=lambda: replies.append(ask(server, "GET", f"/{token}?wait=true&waitIndex=99")))
    waiting.start()
    idle = socket.create_connection(("127.0.0.1", server.port))
    eventually(lambda: [one.connections for one in server._http] == [2], "both are accepted")
    assert waits.wait(WITHIN_S), "a request that is accepted, and not read yet, would be cut off"
    begin = time.monotonic()
    server.stop()
    server.stop()
    waiting.join(30)
    idle.close()
    assert time.monotonic() - begin < 20, "far less than the keep-alive that it would have waited for"
    assert (replies[0].status, replies[0].body) == (200, b"")


def test_tokens_end(serve: Callable[..., DiscoveryServer]) -> None:
    now = [1000.0]
    server = serve(ttl_s=60, clock=lambda: now[0])
    token = server.new_token(1)
    now[0] = 1059
    assert ask(server, "GET", f"/{token}/_config/size").status == 200
    now[0] = 1061
    assert ask(server, "GET", f"/{token}/_config/size").status == 404


def test_the_url_that_machines_see(serve: Callable[..., DiscoveryServer]) -> None:
    server = serve(public_url="http://10.0.2.100:7379/")
    assert server.url("x") == "http://10.0.2.100:7379/x"
    assert ask(server, "GET", "/new").body.startswith(b"http://10.0.2.100:7379/")


def test_the_log_contains_no_tokens(serve: Callable[..., DiscoveryServer]) -> None:
    lines: list[str] = []
    server = serve(log=lines.append)
    token = server.new_token(1)
    ask(server, "GET", f"/{token}/_config/size")
    assert lines
    assert not any(token in line for line in lines)


def test_a_registration_that_is_not_on_disk_did_not_happen(server: DiscoveryServer, state: Path) -> None:
    token = server.new_token(1)
    state.parent.rename(state.parent.with_name("gone"))
    try:
        reply = register(server, token, "a")
        assert reply.status == 500
        assert reply.json["errorCode"] == 300
    finally:
        state.parent.with_name("gone").rename(state.parent)
    assert ask(server, "GET", f"/{token}").json["node"]["nodes"] == []


def test_a_port_that_is_taken(server: DiscoveryServer, tmp_path: Path) -> None:
    second = DiscoveryServer("127.0.0.1", server.port, tmp_path / "other.json")
    with pytest.raises(Failure, match="cannot listen") as refused:
        second.start()
    assert str(server.port) in str(refused.value)
    assert refused.value.hint
    second.stop()


@pytest.mark.parametrize("content", ["", "{", "\x00"])
def test_a_state_that_cannot_be_read(state: Path, content: str) -> None:
    state.write_text(content)
    with pytest.raises(Failure):
        DiscoveryServer("127.0.0.1", 0, state).start()
    assert state.read_text() == content


def test_an_address_of_no_machine(state: Path) -> None:
    with pytest.raises(Failure, match="not an address of this machine") as refused:
        DiscoveryServer("256.1.1.1", 0, state).start()
    assert refused.value.hint


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot write") as refused:
        DiscoveryServer("127.0.0.1", 0, tmp_path / "none" / "tokens.json").start()
    assert refused.value.hint


def test_sizes_from_code(server: DiscoveryServer) -> None:
    with pytest.raises(Failure, match="1 to 64"):
        server.new_token(0)


class TestCaps:
    """One client leaves room for the others. The second one is a loopback that counts as no loopback."""

    @pytest.fixture
    def clients(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (protocol, http_server):
            monkeypatch.setattr(module, "client_of", lambda address: address)

    @pytest.mark.usefixtures("clients")
    def test_connections_of_one_client_leave_room(
        self, serve: Callable[..., DiscoveryServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "_CLIENT_CONNECTIONS_MAX", 3)
        server = serve()
        held = []
        for _ in range(3):
            held.append(socket.create_connection(("127.0.0.1", server.port)))
            held[-1].sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert held[-1].recv(100).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as refused:
            assert refused.recv(1) == b""
        other = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=other) as heard:
            heard.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            assert heard.recv(100).startswith(b"HTTP/1.1 200")
        for each in held:
            each.close()

    @pytest.mark.usefixtures("clients")
    def test_tokens_of_one_client_leave_room(self, server: DiscoveryServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "_CLIENT_TOKENS_MAX", 2)
        assert [ask(server, "GET", "/new").status for _ in range(3)] == [200, 200, 403]
        assert len(server.registry.tokens) == 2

    def test_an_empty_token_ends_within_the_hour(self, serve: Callable[..., DiscoveryServer]) -> None:
        now = [1000.0]
        server = serve(ttl_s=7 * 86400.0, clock=lambda: now[0])
        empty, used = server.new_token(1), server.new_token(1)
        assert ask(server, "PUT", f"/{used}/a", "value=a=http://a:2380").status == 201
        now[0] += 3601
        assert ask(server, "GET", f"/{empty}").status == 404
        assert ask(server, "GET", f"/{used}").status == 200
