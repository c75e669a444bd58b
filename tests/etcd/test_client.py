"""The client against endpoints that misbehave: dead, mute, cut off, talking nonsense; then TLS and a lost quorum for
real.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from etcd import (
    Client,
    Compacted,
    Compare,
    Corrupt,
    Denied,
    EtcdError,
    LeaseNotFound,
    NoSpace,
    Op,
    Tls,
    TooLarge,
    Unavailable,
)
from etcd.connection import Pool
from etcd.paging import PageSize
from etcd.wire import prefix_end
from tests.eventually import eventually
from tests.ports import free_ports

Answer = Callable[[BaseHTTPRequestHandler], object]


class Impostor(ThreadingHTTPServer):
    """An endpoint that answers every request with ``answer``, and counts requests by path."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        self.paths: list[str] = []
        paths = self.paths

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                paths.append(self.path)
                answer(self)

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def says(body: object, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def streams(*lines: object, then: Callable[[], object] = lambda: None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for line in lines:
            data = (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        then()
        handler.close_connection = True

    return answer


CREATED = {"result": {"header": {"revision": "7"}, "created": True}}
PUT = {"header": {"revision": "7"}}


@pytest.fixture
def impostor() -> Iterator[Callable[[Answer], Impostor]]:
    servers: list[Impostor] = []

    def make(answer: Answer) -> Impostor:
        server = Impostor(answer)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    with contextlib.ExitStack() as stack:

        def make(*endpoints: str, timeout: float = 2.0, watch_silence: float | None = None) -> Client:
            client = Client(endpoints, timeout=timeout, watch_silence=watch_silence)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def dead() -> str:
    """An endpoint where no one listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


Make = Callable[[Answer], Impostor]
Connect = Callable[..., Client]


# Failover


def test_a_dead_endpoint_is_passed_over_by_writes_too_and_then_left_aside(
    impostor: Make, connect: Connect, dead: str
) -> None:
    alive = impostor(says(PUT))
    client = connect(dead, alive.endpoint, timeout=20.0)
    assert client.put("a", b"") == 7
    before = time.monotonic()
    assert client.put("a", b"") == 7
    assert time.monotonic() - before < 10
    assert alive.paths == ["/v3/kv/put"] * 2


@pytest.mark.parametrize(
    "trouble",
    [hangs_up, says({"error": "etcdserver: leader changed", "code": 14}, 503), says(b"<html>bad gateway</html>", 502)],
    ids=["hangs up", "leader changed", "proxy"],
)
def test_a_read_goes_on_to_the_next_endpoint_a_sent_write_does_not(
    impostor: Make, connect: Connect, trouble: Answer
) -> None:
    bad, good = impostor(trouble), impostor(says(PUT))
    assert connect(bad.endpoint, good.endpoint).get("a") is None
    writes: tuple[Callable[[Client], object], ...] = (
        lambda client: client.put("a", b""),
        lambda client: client.delete("a"),
        lambda client: client.txn([Compare.created("a", "==", 0)], [Op.put("a", b"")]),
        lambda client: client.compact(3),
    )
    for write in writes:
        bad.paths.clear()
        good.paths.clear()
        with pytest.raises(Unavailable) as lost:
            write(connect(bad.endpoint, good.endpoint))
        assert lost.value.maybe_applied
        assert lost.value.where == bad.endpoint
        assert (len(bad.paths), good.paths) == (1, [])


def test_a_mute_endpoint_costs_one_timeout(impostor: Make, connect: Connect) -> None:
    free = threading.Event()
    mute, good = impostor(lambda handler: free.wait(60)), impostor(says(PUT))
    before = time.monotonic()
    assert connect(mute.endpoint, good.endpoint, timeout=0.5).get("a") is None
    assert time.monotonic() - before < 10
    assert len(mute.paths) == 1
    free.set()


def test_a_read_that_was_refused_everywhere_did_reach_an_etcd(impostor: Make, connect: Connect, dead: str) -> None:
    """Which distinguishes an election, over in a moment, from an etcd that does not run."""
    electing = impostor(says({"error": "etcdserver: leader changed", "code": 14}, 503)).endpoint
    for endpoints in ([electing], [electing, dead]):
        with pytest.raises(Unavailable) as trouble:
            connect(*endpoints).get("a")
        assert (trouble.value.reached, trouble.value.maybe_applied) == (True, False)


def test_no_endpoint_answers(connect: Connect, dead: str) -> None:
    with pytest.raises(Unavailable) as single:
        connect(dead).put("a", b"")
    assert (single.value.where, single.value.reached, single.value.maybe_applied) == (dead, False, False)
    with pytest.raises(Unavailable, match="no endpoint of etcd answered") as both:
        connect(dead, dead).put("a", b"")
    assert (both.value.reached, both.value.maybe_applied) == (False, False)
    with pytest.raises(Unavailable):
        connect(dead, dead).watch("a")
    assert not connect(dead).health()


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"",
        {"kvs": 7},
        {"kvs": [7]},
        {"kvs": [{"key": "not base64!"}]},
        {"kvs": [{"key": "YQ==", "mod_revision": "x"}]},
        {"kvs": [{"key": "YQ==", "mod_revision": True}]},
        {"header": "x"},
        b'{"kvs": ' + b"[" * 100_000,
    ],
)
def test_nonsense_is_an_error_with_its_endpoint(impostor: Make, connect: Connect, answer: object) -> None:
    server = impostor(says(answer))
    with pytest.raises(EtcdError) as refused:
        connect(server.endpoint).get("a")
    assert refused.value.where == server.endpoint
    assert not isinstance(refused.value, Unavailable)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"error": "etcdserver: mvcc: required revision has been compacted", "code": 11}, 400, Compacted),
        ({"error": "etcdserver: requested lease not found", "code": 5}, 404, LeaseNotFound),
        ({"error": "etcdserver: no leader", "code": 14}, 503, Unavailable),
        ({"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}, 200, Unavailable),
        ({"error": "etcdserver: mvcc: database space exceeded", "code": 8}, 429, NoSpace),
        ({"error": "etcdserver: corrupt cluster", "code": 15}, 500, Corrupt),
        ({"error": "etcdserver: request is too large", "code": 3}, 400, TooLarge),
        ({"error": "grpc: received message larger than max (3 vs. 2)", "code": 8}, 429, TooLarge),
        ({"error": "etcdserver: permission denied", "code": 7}, 403, Denied),
        ({"error": "etcdserver: invalid auth token", "code": 16}, 401, Denied),
        ({"error": "etcdserver: user name is empty", "code": 3}, 400, Denied),
        ({"message": "Not Found"}, 404, EtcdError),
    ],
)
def test_refusals_by_kind(impostor: Make, connect: Connect, body: object, status: int, kind: type[EtcdError]) -> None:
    with pytest.raises(EtcdError) as refused:
        connect(impostor(says(body, status)).endpoint).put("a", b"", lease=9)
    assert type(refused.value) is kind
    assert refused.value.hint or kind in (Compacted, LeaseNotFound, Unavailable, EtcdError)


@pytest.mark.parametrize(
    "url",
    ["ftp://a:1", "http://", "http://a:99999", "http://a/b", "http://a:x", f"http://{'a' * 64}:1", "http://a..b", ""],
)
def test_endpoints_are_checked(url: str) -> None:
    with pytest.raises(EtcdError) as refused:
        Client([url])
    assert refused.value.hint
    with pytest.raises(EtcdError):
        Client([])


def test_the_end_of_a_prefix() -> None:
    assert prefix_end(b"a/") == b"a0"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == b"\0"
    assert prefix_end(b"") == b"\0"


# Watches that end badly


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([CREATED], Unavailable),
        ([CREATED, {"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}], Unavailable),
        ([CREATED, {"result": {"canceled": True, "cancel_reason": "tired"}}], Unavailable),
        ([CREATED, {"result": {"canceled": True, "compact_revision": "5"}}], Compacted),
        ([CREATED, {"result": {"canceled": True, "cancel_reason": "etcdserver: permission denied"}}], Denied),
        ([CREATED, {"result": {"events": [{"kv": {"key": "!"}}]}}], EtcdError),
        ([CREATED, 7], EtcdError),
        ([CREATED, b"[" * 100_000], EtcdError),
    ],
)
def test_a_stream_that_ends_says_how(impostor: Make, connect: Connect, lines: list[object], kind: type) -> None:
    server = impostor(streams(*lines))
    watch = connect(server.endpoint).watch("a")
    with pytest.raises(EtcdError) as ended:
        next(watch)
    assert type(ended.value) is kind
    watch.close()
    assert next(watch, None) is None


@pytest.mark.parametrize("lines", [[], [{"result": {"canceled": True, "created": False}}], [7]])
def test_a_watch_that_is_not_confirmed(impostor: Make, connect: Connect, lines: list[object]) -> None:
    with pytest.raises(EtcdError):
        connect(impostor(streams(*lines)).endpoint).watch("a")


def test_silence_is_noticed_on_request(impostor: Make, connect: Connect) -> None:
    free = threading.Event()
    server = impostor(streams(CREATED, then=lambda: free.wait(5)))
    watch = connect(server.endpoint, watch_silence=0.2).watch("a")
    with pytest.raises(Unavailable, match="silent"):
        next(watch)
    watch.close()
    free.set()


def test_an_idle_watch_outlives_the_request_timeout(impostor: Make, connect: Connect) -> None:
    event = {"result": {"events": [{"kv": {"key": "YQ==", "mod_revision": "9"}}]}}

    def late(handler: BaseHTTPRequestHandler) -> None:
        streams(CREATED, then=lambda: time.sleep(1.5))(handler)  # longer than a request may take
        data = json.dumps(event).encode() + b"\n"
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    watch = connect(impostor(late).endpoint, timeout=1.0).watch("a")
    assert next(watch).revision == 9
    watch.close()


# For real


@pytest.mark.slow
@pytest.mark.etcd
def test_a_member_without_its_quorum_ends_the_watch(make_etcd: Callable[[], Any], connect: Connect) -> None:
    """Else a client of a member that was cut off would wait for ever, and know nothing."""
    one, two = make_etcd(), make_etcd()
    for name, member in (("one", one), ("two", two)):
        member.start(f"--name={name}", f"--initial-cluster=one={one.peer},two={two.peer}")
    one.wait_healthy()
    client = connect(one.endpoint)
    watch = client.watch("a")
    two.kill()
    with pytest.raises(Unavailable, match="no leader"):
        next(watch)
    watch.close()
    with pytest.raises(Unavailable):
        client.put("a", b"")
    assert not client.health()


def _certificates(directory: Path) -> Tls:
    """An authority, and one certificate for 127.0.0.1 that serves both sides."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        def common(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        authority = name == issuer
        # Python 3.13 refuses an authority that does not say what its key may be used for.
        use = x509.KeyUsage(
            digital_signature=not authority,
            key_cert_sign=authority,
            crl_sign=authority,
            **dict.fromkeys(
                (
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            ),
        )
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            x509.CertificateBuilder()
            .subject_name(common(name))
            .issuer_name(common(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(use, critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(issuer_key, hashes.SHA256())
        )

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(certificate("ca", authority_key, "ca", authority_key).public_bytes(pem))
    (directory / "node.pem").write_bytes(certificate("node", key, "ca", authority_key).public_bytes(pem))
    (directory / "node.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(str(directory / "ca.pem"), str(directory / "node.pem"), str(directory / "node.key"))


@pytest.mark.etcd
def test_mutual_tls(make_etcd: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = _certificates(tmp_path)
    server = make_etcd("https")
    server.start(
        f"--initial-cluster=default={server.peer}",
        f"--trusted-ca-file={tls.cafile}",
        f"--cert-file={tls.certfile}",
        f"--key-file={tls.keyfile}",
        "--client-cert-auth",
    )
    client = Client([server.endpoint], tls=tls)
    eventually(client.health, server.log)
    start = client.put("a", b"1")
    connect = Pool._connected
    monkeypatch.setattr(Pool, "_connected", lambda _: pytest.fail("a connection was not kept"))
    for _ in range(10):
        assert client.get("a") is not None
    monkeypatch.setattr(Pool, "_connected", connect)
    watch = client.watch("a", start)
    assert next(watch).events[0].kv.value == b"1"
    freed = threading.Timer(0.2, watch.close)
    freed.start()
    assert list(watch) == []
    client.close()

    without_certificate = Client([server.endpoint], tls=Tls(tls.cafile))
    assert not without_certificate.health()
    with pytest.raises(Unavailable):
        without_certificate.get("a")
    without_certificate.close()


def test_tls_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="authority"):
        Tls(str(tmp_path / "none.pem")).context()
    tls = _certificates(tmp_path)
    (tmp_path / "node.key").write_text("no key")
    with pytest.raises(EtcdError, match="client certificate") as refused:
        tls.context()
    assert refused.value.hint


class TestPages:
    """A long range comes in pages that suit what is in it."""

    def test_pages_grow_while_they_are_light_and_quick(self) -> None:
        size = PageSize()
        seen = [size.keys]
        for _ in range(3):
            size.learn(size.keys, 300 * size.keys, 0.01)
            seen.append(size.keys)
        assert seen == [500, 4000, 10_000, 10_000]

    def test_heavy_values_make_small_pages_and_light_ones_large_again(self) -> None:
        size = PageSize()
        size.learn(500, 500 << 20, 0.1)
        assert size.keys == 20
        size.learn(20, 20 << 20, 0.1)
        assert size.keys == 20
        size.learn(20, 2000, 0.001)
        assert size.keys == 160

    def test_a_slow_etcd_gets_small_pages(self) -> None:
        size = PageSize()
        size.learn(500, 50_000, 4.0)
        assert size.keys == 125

    @given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 1 << 31), st.floats(0, 100)), max_size=9))
    def test_a_page_is_never_empty_and_never_huge(self, pages: list[tuple[int, int, float]]) -> None:
        size = PageSize()
        for keys, weight, seconds in pages:
            size.learn(keys, weight, seconds)
            assert 20 <= size.keys <= 10_000

    def test_a_page_without_keys_that_is_not_the_last_is_an_error(self, impostor: Make, connect: Connect) -> None:
        client = connect(impostor(says({"header": {"revision": "5"}, "more": True})).endpoint)
        with pytest.raises(EtcdError, match="cannot understand the answer"):
            client.range("a")

    @pytest.mark.etcd
    def test_all_pages_are_of_one_revision(
        self, real_etcd: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = connect(real_etcd)
        prefix = f"pages-{time.time_ns()}/"
        for first in range(0, 2000, 100):
            done = client.txn([], [Op.put(f"{prefix}{number:04}", b"old") for number in range(first, first + 100)])
        ask = client._page
        pages: list[int] = []

        def ask_while_others_write(request: dict[str, Any]) -> tuple[dict[str, Any], float]:
            answer = ask(request)
            pages.append(len(answer[0]["kvs"]))
            new = [Op.put(f"{prefix}1999", b"new"), Op.put(f"{prefix}1999x", b"new"), Op.delete(f"{prefix}1550")]
            client.txn([], new)
            return answer

        monkeypatch.setattr(client, "_page", ask_while_others_write)
        for revision in (0, done.revision):
            pages.clear()
            found = client.range(prefix, revision=revision)
            assert len(pages) > 2
            assert found.revision == done.revision
            assert [kv.key.removeprefix(prefix) for kv in found.kvs] == [f"{number:04}" for number in range(2000)]
            assert {kv.value for kv in found.kvs} == {b"old"}
