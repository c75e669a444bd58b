"""Reading a token: from our service, through redirects and proxies, and from what is no service at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from discovery import cli
from discovery.client import Unreachable, new, read, request
from discovery.server import DiscoveryServer
from terminal import Failure


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DiscoveryServer]:
    server = DiscoveryServer("127.0.0.1", 0, tmp_path / "tokens.json")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """``answering(status, body, **headers)`` is the URL of a server that says just that."""
    servers: list[ThreadingHTTPServer] = []

    def make(status: int, body: bytes, **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET  # noqa: N815 - names of the base class

            def log_message(self, *args: object) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(http)
        return f"http://127.0.0.1:{http.server_port}"

    yield make
    for http in servers:
        http.shutdown()
        http.server_close()


def register(url: str, member: str, value: str) -> int:
    return request("PUT", f"{url}/{member}?prevExist=false", timeout=5, form={"value": value})[0]


def test_a_token_fills(server: DiscoveryServer) -> None:
    url = new(server.base_url, 2)
    assert read(url).state == "0 of 2"
    assert register(url, "2", "b=http://b:2380") == 201
    assert read(url).state == "1 of 2: b"
    assert not read(url).complete
    assert register(url, "1", "a=http://a:2380,a=http://a2:2380") == 201
    assert register(url, "3", "late=http://late:2380") == 201
    roster = read(url)
    assert roster.complete
    assert roster.state == "2 of 2: b, a", "in the order in which they came; the third is none"
    assert roster.initial_cluster == "b=http://b:2380,a=http://a:2380,a=http://a2:2380"
    assert roster.members[1].urls == ("http://a:2380", "http://a2:2380")


def test_redirects_are_followed_but_not_for_ever(
    server: DiscoveryServer, answering: Callable[..., str], tmp_path: Path
) -> None:
    moved = answering(302, b"", Location=f"{server.base_url}/health")
    assert request("GET", moved, timeout=5) == (200, b"OK\n")
    with pytest.raises(Failure, match="redirects"):
        request("GET", answering(302, b"", Location="/again"), timeout=5)
    with pytest.raises(Failure, match="no URL"):
        request("GET", answering(302, b"", Location="http://[::1"), timeout=5)


def test_errors_name_no_tokens(server: DiscoveryServer, answering: Callable[..., str]) -> None:
    token = "0123456789abcdef" * 2
    for base, message in (
        (server.base_url, "not know"),
        (answering(200, b"{}"), "not that"),
        (answering(503, b""), "503"),
    ):
        with pytest.raises(Failure, match=message) as refused:
            read(f"{base}/{token}")
        assert token not in str(refused.value)
        assert "/012345..." in str(refused.value)


def test_a_proxy_gets_the_whole_url(server: DiscoveryServer) -> None:
    url = server.url(server.new_token(4))
    # Our own service takes absolute URLs, as every HTTP/1.1 server must, and so can play its own proxy.
    elsewhere = url.replace("127.0.0.1", "nowhere.invalid")
    assert read(elsewhere, proxy=server.base_url).size == 4
    assert read(elsewhere, proxy=server.base_url.removeprefix("http://")).size == 4
    with pytest.raises(Failure, match="not an http URL"):
        read(elsewhere, proxy="http://[::1")


def test_an_unknown_token(server: DiscoveryServer) -> None:
    with pytest.raises(Failure, match="does not know this token") as refused:
        read(server.url("f" * 32))
    assert not isinstance(refused.value, Unreachable)
    assert refused.value.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"node": {"value": "x"}}',
        b'{"node": {"value": "0"}}',
        b'{"node": {"value": "1", "nodes": [7]}}',
        b"[" * 100_000,
        b'{"node": {"value": "1", "nodes": [{"key": "/x/a", "value": "a=http://a", "createdIndex": Infinity}]}}',
        b'{"node": {"value": "1", "nodes": [{"key": "/x/a", "value": "a\\nREADY=1=http://a", "createdIndex": 3}]}}',
        b'{"node": {"value": "1", "nodes": [{"key": "/x/a", "value": "a\\u0000=http://a", "createdIndex": 3}]}}',
    ],
)
def test_what_is_no_discovery_service(answering: Callable[..., str], body: bytes) -> None:
    with pytest.raises(Failure, match="not that of a discovery token"):
        read(answering(200, body))


def test_trouble_that_passes_and_trouble_that_does_not(answering: Callable[..., str], server: DiscoveryServer) -> None:
    with pytest.raises(Unreachable, match="503"):
        read(answering(503, b""))
    with pytest.raises(Failure, match="refuses: Oh: dear"):
        read(answering(403, b'{"message": "Oh", "cause": "dear"}'))
    gone = server.base_url
    server.stop()
    with pytest.raises(Unreachable, match="cannot reach"):
        read(gone)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a/b",
        "http://",
        "http://a:x/",
        "http://[::1",
        "http://a b/",
        "http://a/\nb",
        "http://a/\udcff",
        "http://\u00e4/",
        f"http://{'a' * 64}/",
    ],
)
def test_urls_are_checked(url: str) -> None:
    with pytest.raises(Failure, match="not an http URL"):
        read(url)


def test_commands(server: DiscoveryServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["new", "--size", "2", server.base_url]) == 0
    url = capsys.readouterr().out.strip()
    register(url, "1", "a=http://a:2380")
    assert cli.run(["status", url]) == 0
    assert capsys.readouterr().out == (
        "ID  NAME  PEER URLS\n1   a     http://a:2380\nwaiting for 1 of 2: a\n"  # as a person sees it
    )
    assert cli.run(["status", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "size": 2,
        "complete": False,
        "members": [{"id": "1", "names": ["a"], "peer_urls": ["http://a:2380"]}],
    }
    with pytest.raises(Failure, match="1 to 64"):
        cli.run(["new", "--size", "0", server.base_url])
    for address in ("nonsense", "127.0.0.1:\u00b2", "127.0.0.1:"):
        with pytest.raises(Failure, match="ADDR:PORT"):
            cli.run(["serve", "--listen", address])
    for seconds in ("0", "-1", "nan"):
        with pytest.raises(Failure, match="number of seconds"):
            cli.run(["serve", "--ttl", seconds])
    for address in ("0.0.0.0:7379", "[::]:7379"):
        with pytest.raises(Failure, match="all addresses") as refused:
            cli.run(["serve", "--listen", address])
        assert refused.value.hint
        assert "--public-url" in refused.value.hint
    with pytest.raises(Failure, match="not an http URL"):
        cli.run(["serve", "--public-url", "10.0.2.100:7379"])
    for url in ("http://10.0.2.100:7379", f"https://10.0.2.100:7379#sha256={'0' * 64}"):
        with pytest.raises(Failure, match="speaks TLS, and pins"):
            cli.run(["serve", "--public-url", url])
    with pytest.raises(Failure, match="without its certificate"):
        cli.run(["serve", "--key", "a.key"])
    with pytest.raises(Failure, match="--plain-listen nonsense"):
        cli.run(["serve", "--plain-listen", "nonsense"])
