"""The service with TLS, known by the fingerprint in its URL: what is refused, in which words, and that nothing is sent."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import cli, client
from discovery.client import Unreachable, checked, new, read, register, request, watch
from discovery.join import Join
from discovery.server import DiscoveryServer
from terminal import Failure
from tests.eventually import eventually
from webserver import selfmade

ROOT = Path(__file__).parents[2]
Serve = Callable[..., DiscoveryServer]


@pytest.fixture
def seen() -> list[str]:
    """The requests to the services of :func:`serve`."""
    return []


@pytest.fixture
def serve(tmp_path: Path, seen: list[str]) -> Iterator[Serve]:
    """``serve(end=..., secure=...)`` starts a service; ``end`` is that of its certificate."""
    servers: list[DiscoveryServer] = []
    client._contexts.clear()

    def make(*, end: datetime.datetime | None = None, secure: bool = True, port: int = 0) -> DiscoveryServer:
        pem = tmp_path / f"{len(servers)}.pem"
        if secure:
            selfmade.make(pem, ["127.0.0.1", "localhost"], end=end)
        server = DiscoveryServer(
            *("127.0.0.1", port, tmp_path / f"{len(servers)}.json"),
            certificate=(pem, None) if secure else None,
            plain=("127.0.0.1", 0) if secure else None,
            log=seen.append,
        )
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def test_a_token_fills_over_a_pinned_connection(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    fingerprint = selfmade.read_fingerprint(tmp_path / "0.pem")
    assert server.base_url == f"https://127.0.0.1:{server.port}#sha256={fingerprint}"
    url = new(server.base_url, 2)
    token, _, pin = url.partition("#")
    assert token.startswith(f"https://127.0.0.1:{server.port}/")
    assert pin == f"sha256={fingerprint}"
    register(url, "1", "a=http://a:2380")
    register(url, "1", "a=http://a:2380")  # once more, as after an answer that was lost
    roster = read(url)
    late = threading.Thread(target=watch, args=(url, roster))
    late.start()
    register(url, "2", "b=http://b:2380")
    late.join()
    assert read(url).state == "2 of 2: a, b"
    assert read(f"{token}#sha256={fingerprint.upper()}").complete


def test_etcds_own_clients_have_a_door_without_tls(serve: Serve) -> None:
    server = serve()
    url = new(server.plain_url(""), 1)
    assert url.startswith(f"{server.plain_url('')}/")
    assert read(url).size == 1
    assert "#" not in url
    everywhere = DiscoveryServer(
        *("10.0.0.1", 1, "x"), plain=("0.0.0.0", 2), public_url="https://[fd00::1]:7379", certificate=(Path("x"), None)
    )
    assert everywhere.plain_url("t") == "http://[fd00::1]:2/t"


REFUSALS: dict[str, tuple[Callable[[DiscoveryServer, DiscoveryServer], str], str]] = {
    "another pin": (lambda one, _: f"{one.url('f' * 32).partition('#')[0]}#sha256={'0' * 64}", "another certificate"),
    "another service's pin": (
        lambda one, other: f"{one.url('f' * 32).partition('#')[0]}#{other.base_url.partition('#')[2]}",
        "another certificate",
    ),
    "no TLS behind a pin": (
        lambda one, _: f"{one.plain_url('f' * 32).replace('http:', 'https:')}#{one.base_url.partition('#')[2]}",
        "this port speaks no TLS",
    ),
    "no TLS behind https": (
        lambda one, _: one.plain_url("f" * 32).replace("http:", "https:"),
        "this port speaks no TLS",
    ),
    "TLS behind http": (
        lambda one, _: one.url("f" * 32).partition("#")[0].replace("https:", "http:"),
        "speaks TLS, and the URL says http://",
    ),
    "no pin, no authority": (lambda one, _: one.url("f" * 32).partition("#")[0], "no authority that this machine"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_is_not_the_pinned_service_gets_nothing(serve: Serve, seen: list[str], tmp_path: Path, case: str) -> None:
    """The node says why, in its journal; nothing is sent, and no second try is made with less."""
    make_url, message = REFUSALS[case]
    url = make_url(serve(), serve())
    with pytest.raises(Failure, match=message) as refused:
        read(url)
    assert not isinstance(refused.value, Unreachable), "it is no use to wait"
    assert refused.value.hint
    assert "f" * 32 not in str(refused.value), "a token is a secret"
    environment = {
        "ETCD_DISCOVERY": url,
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": "http://10.0.0.1:2380",
        "ETCD_DATA_DIR": str(tmp_path / "data"),
    }
    became: list[object] = []
    join = Join(
        environment,
        certificates=tmp_path / "none",
        say=lambda _: None,
        become=lambda argv, _: became.append(argv),
        sleep=lambda _: pytest.fail("it waits"),
    )
    with pytest.raises(Failure, match=message):
        join.run()
    assert became == []
    assert not [line for line in seen if "/ffffff" in line and " 200 " in line]
    assert not [line for line in seen if "GET /" in line]


def test_an_expired_certificate_says_so(serve: Serve) -> None:
    ended = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)
    server = serve(end=ended)
    with pytest.raises(Failure, match="the certificate of the service has expired") as refused:
        read(server.url(server.new_token(1)))
    assert "clock" in (refused.value.hint or "")


def test_another_certificate_later_is_refused_too(serve: Serve, tmp_path: Path) -> None:
    """What was seen of the first connection does not let a later one pass."""
    first = serve()
    url = first.url(first.new_token(1))
    assert read(url).size == 1
    port = first.port
    first.stop()
    (tmp_path / "0.json").rename(tmp_path / "1.json")
    serve(port=port)
    with pytest.raises(Failure, match="another certificate"):
        read(url)


def test_less_than_tls_1_3_is_refused(tmp_path: Path) -> None:
    selfmade.make(tmp_path / "a.pem", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tmp_path / "a.pem")

    def old(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with pytest.raises(ssl.SSLError), plain:
            context.wrap_socket(plain, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=old, args=(listening,))
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/t#sha256={selfmade.read_fingerprint(tmp_path / 'a.pem')}"
        with pytest.raises(Failure, match=r"does not speak TLS 1\.3"):
            read(url)
        thread.join()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://127.0.0.1:1/x", "without TLS"),
        ("https://127.0.0.1:1/x", "away from the service"),
        ("https://127.0.0.1:1/x#sha256=" + "0" * 64, "away from the service"),
    ],
)
def test_a_pinned_service_sends_no_client_elsewhere(location: str, message: str) -> None:
    url = f"https://127.0.0.1:7379/t#sha256={'1' * 64}"
    with pytest.raises(Failure, match=message):
        client._redirected(url, location)
    assert client._redirected(url, "/other") == url.replace("/t#", "/other#")


@pytest.mark.parametrize(
    "url",
    [
        "http://a/t#sha256=" + "0" * 64,
        "https://a/t#sha256=" + "0" * 63,
        "https://a/t#sha256=" + "0" * 65,
        "https://a/t#sha256=" + "g" * 64,
        "https://a/t#sha1=" + "0" * 40,
        "https://a/t#x",
    ],
)
def test_a_pin_that_is_none_is_refused_rather_than_ignored(url: str) -> None:
    with pytest.raises(Failure, match="no pin of a certificate"):
        request("GET", url, timeout=5)


@given(st.text(max_size=80))
def test_any_fragment_is_a_pin_or_a_failure(fragment: str) -> None:
    try:
        parts = checked(f"https://a/t#{fragment}")[0]
    except Failure:
        return
    assert not parts.fragment or (parts.fragment.startswith("sha256=") and len(parts.fragment) == 71)


def test_a_certificate_of_its_own_is_made_once(tmp_path: Path) -> None:
    """By the command, as a unit starts it; a kill while it was made leaves no key behind."""
    state = tmp_path / "tokens.json"
    left = tmp_path / ".tokens.json.pem.abcd1234"
    left.mkdir()
    (left / "key").touch()
    code = "import sys; from discovery.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "serve", "--listen", "127.0.0.1:0", "--state", str(state)]
    printed = []
    for options in ([], ["--plain-listen", "127.0.0.1:0"]):
        with subprocess.Popen([*argv, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(1 + bool(options))]
            printed += lines
            assert [read(new(line, 2)).size for line in lines] == [2] * len(lines)
            process.terminate()
            assert process.wait() == 0
    assert printed[0].partition("#")[2] == printed[1].partition("#")[2], "the second start has the certificate"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tokens.json", "tokens.json.pem"]
    assert stat.S_IMODE((tmp_path / "tokens.json.pem").stat().st_mode) == 0o600


def test_what_openssl_says_of_a_selfmade_certificate(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    selfmade.make(pem, ["discovery", "10.0.2.100", "fd00::1"])
    asked = ["openssl", "x509", "-in", str(pem), "-noout", "-text", "-fingerprint", "-sha256"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    for expected in (
        "Not Before: Jan  1 00:00:00 2020 GMT",
        "DNS:discovery, IP Address:10.0.2.100, IP Address:FD00:0:0:0:0:0:0:1",
        "CA:FALSE",
        "TLS Web Server Authentication",
        "prime256v1",
    ):
        assert expected in said
    assert selfmade.read_fingerprint(pem) == said.rpartition("ingerprint=")[2].strip().replace(":", "").lower()
    with pytest.raises(Failure, match="not names of a server"):
        selfmade.make(pem, ["a\nb = c"])
    with pytest.raises(Failure, match="no certificate can be made"):
        selfmade.make(tmp_path / "no/where.pem", ["a"])


def test_a_given_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selfmade.make(tmp_path / "both.pem", ["127.0.0.1"])
    key, _, crt = (tmp_path / "both.pem").read_text().partition("-----BEGIN CERTIFICATE")
    (tmp_path / "a.key").write_text(key)
    (tmp_path / "a.crt").write_text("-----BEGIN CERTIFICATE" + crt)
    server = DiscoveryServer(
        *("127.0.0.1", 0, tmp_path / "tokens.json"), certificate=(tmp_path / "a.crt", tmp_path / "a.key")
    )
    server.start()
    assert read(new(server.base_url, 1)).size == 1
    server.stop()
    (tmp_path / "empty").touch()
    for arguments, message in (
        (["--certificate", "gone"], "cannot be served with"),
        (["--certificate", "empty"], "cannot be served with"),
        (["--certificate", "a.crt"], "cannot be served with"),
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Failure, match=message):
            cli.run(["serve", "--listen", "127.0.0.1:0", "--state", "s.json", *arguments])
    with pytest.raises(Failure, match="no certificate in it"):
        selfmade.read_fingerprint(tmp_path / "empty")


def test_an_authority_of_the_machine_needs_no_pin(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "0.pem"))
    assert read(server.url(server.new_token(1)).partition("#")[0]).size == 1


def test_noise_on_the_secure_port_stops_nothing(serve: Serve) -> None:
    server = serve()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(2000), b""):
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(noise)
            plain.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(4096):
                    pass
    eventually(lambda: [one.connections for one in server._http] == [0, 0], "all of it has ended")
    assert read(server.url(server.new_token(1))).size == 1
