"""Downloads: all of it, checked, or nothing; and whatever a mirror does wrong is reported with the next step."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from builder.core.store import Store
from builder.debian import fetch as fetching
from builder.debian.downloads import FetchFailure, downloaded
from builder.debian.fetch import Options, fetch
from builder.debian.lockfile import LockedPackage
from builder.debian.mirror import Mirror
from tests.certificate import self_signed

HASTY = Options(threads=4, attempts=3, pause=0.001)


def locked(name: str, data: bytes) -> LockedPackage:
    digest = hashlib.sha256(data).hexdigest()
    return LockedPackage(name, "1.0-1", "amd64", "debian", "one", f"pool/{name}.deb", digest, len(data), name, "1.0-1")


class Web:
    """A mirror on loopback: ``files`` by path, and ``tricks`` that answer a request in their own way."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tricks: dict[str, list[Callable[[BaseHTTPRequestHandler, bytes], None]]] = {}
        self.requests: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.requests.append(self.path)
                data = web.files.get(self.path.removeprefix("/debian/"), b"")
                tricks = web.tricks.get(self.path.removeprefix("/debian/"), [])
                if tricks:
                    (tricks.pop(0) if len(tricks) > 1 else tricks[0])(self, data)
                elif data:
                    whole(self, data)
                else:
                    status(404)(self, data)

            def log_message(self, *_: object) -> None:
                """Not a word on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.mirror = Mirror({"debian": f"http://127.0.0.1:{self.server.server_port}/debian"})

    def package(self, name: str, data: bytes) -> LockedPackage:
        package = locked(name, data)
        self.files[package.path] = data
        return package


def whole(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def broken_off(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def redirected(target: str) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.server.shutdown()
    web.server.server_close()
    thread.join()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def leftovers(store: Store) -> list[str]:
    """Everything in the store that is not a whole package."""
    files = [path for path in store.root.rglob("*") if path.is_file()]
    return [
        str(path)
        for path in files
        if path.parent != store.root / "downloads" or hashlib.sha256(path.read_bytes()).hexdigest() != path.stem
    ]


def test_packages_arrive_whole_and_are_not_fetched_twice(web: Web, store: Store) -> None:
    packages = [web.package(f"package{i}", bytes([i]) * (1000 * i + 1)) for i in range(20)]
    details: list[str] = []
    files = fetch(packages, store, lambda: web.mirror, detail=details.append, options=HASTY)
    assert {name: path.read_bytes() for name, path in files.items()} == {
        package.name: web.files[package.path] for package in packages
    }
    assert details[-1].startswith("20 of 20 packages")
    assert len(web.requests) == 20

    def no_mirror() -> Mirror:
        raise AssertionError("a full store needs no mirror")

    assert fetch(packages, store, no_mirror) == files
    assert leftovers(store) == []


def test_a_file_that_lost_its_end_is_fetched_again(web: Web, store: Store) -> None:
    package = web.package("lib", b"x" * 1000)
    path = fetch([package], store, lambda: web.mirror)["lib"]
    path.write_bytes(b"x" * 10)
    assert downloaded(package, store) is None
    assert fetch([package], store, lambda: web.mirror)["lib"].read_bytes() == b"x" * 1000


def test_a_directory_can_be_a_mirror(store: Store, tmp_path: Path) -> None:
    package = locked("lib", b"content")
    (tmp_path / "my mirror/pool").mkdir(parents=True)
    (tmp_path / "my mirror" / package.path).write_bytes(b"content")
    mirror = Mirror({"debian": (tmp_path / "my mirror").as_uri()})
    assert fetch([package], store, lambda: mirror)["lib"].read_bytes() == b"content"
    with pytest.raises(FetchFailure, match=r"has no gone 1\.0-1"):
        fetch([locked("gone", b"?")], store, lambda: mirror)


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (b"evil content", "sha256 [0-9a-f]{64}, the lock says [0-9a-f]{64}"),
        (b"real cont", "cut short, 9 of 12 bytes"),
        (b"real content and a tail", "more than the 12 bytes that the lock says"),
    ],
)
def test_other_bytes_than_locked_are_refused(served: bytes, words: str, web: Web, store: Store) -> None:
    package = web.package("lib", b"real content")
    web.files[package.path] = served
    with pytest.raises(FetchFailure, match=f"lib 1.0-1 is not the package that was locked: {words}") as caught:
        fetch([package], store, lambda: web.mirror, options=HASTY)
    assert str(caught.value.where).endswith("/debian/pool/lib.deb")
    assert "--mirror" in str(caught.value.hint)
    assert leftovers(store) == []


def test_a_version_that_the_mirror_dropped(web: Web, store: Store) -> None:
    with pytest.raises(FetchFailure, match=r"has no lib 1\.0-1") as caught:
        fetch([locked("lib", b"x")], store, lambda: web.mirror, options=HASTY)
    assert "osbuild lock" in str(caught.value.hint)
    assert len(web.requests) == 1


def test_a_version_that_the_mirror_dropped_comes_from_the_snapshot(web: Web, store: Store, tmp_path: Path) -> None:
    """And only that: what the mirror has is taken from there, and the snapshot's bytes are believed no more than the
    mirror's.
    """
    old, new = locked("old", b"old"), web.package("new", b"new")
    (tmp_path / "pool").mkdir()
    (tmp_path / old.path).write_bytes(b"old")
    mirror = replace(web.mirror, snapshot=Mirror({"debian": tmp_path.as_uri()}))
    found = fetch([old, new], store, lambda: mirror, options=HASTY)
    assert (found["old"].read_bytes(), found["new"].read_bytes()) == (b"old", b"new")
    evil = locked("evil", b"good")
    (tmp_path / evil.path).write_bytes(b"evil")
    with pytest.raises(FetchFailure, match="not the package that was locked"):
        fetch([evil], store, lambda: mirror, options=HASTY)
    with pytest.raises(FetchFailure, match="neither the mirror nor the snapshot has gone") as caught:
        fetch([locked("gone", b"x")], store, lambda: mirror, options=HASTY)
    assert "127.0.0.1" in str(caught.value.where)
    assert str(tmp_path) in str(caught.value.where)


def test_a_refusal_is_not_tried_again(web: Web, store: Store) -> None:
    package = web.package("lib", b"x")
    web.tricks[package.path] = [status(403)]
    with pytest.raises(FetchFailure, match="it answers 403"):
        fetch([package], store, lambda: web.mirror, options=HASTY)
    assert len(web.requests) == 1


def test_passing_trouble_is_tried_again(web: Web, store: Store) -> None:
    package = web.package("lib", b"x" * 1000)
    web.tricks[package.path] = [status(503), broken_off, whole]
    details: list[str] = []
    assert (
        fetch([package], store, lambda: web.mirror, detail=details.append, options=HASTY)["lib"].stat().st_size == 1000
    )
    assert leftovers(store) == []


@pytest.mark.parametrize(("trick", "words"), [(status(503), "503"), (broken_off, "IncompleteRead")])
def test_lasting_trouble_is_given_up_with_its_cause(
    trick: Callable[[BaseHTTPRequestHandler, bytes], None], words: str, web: Web, store: Store
) -> None:
    package = web.package("lib", b"x" * 1000)
    web.tricks[package.path] = [trick]
    with pytest.raises(FetchFailure, match=f"lib 1.0-1 in 3 attempts: .*{words}") as caught:
        fetch([package], store, lambda: web.mirror, options=HASTY)
    assert "is the network up" in str(caught.value.hint)
    assert leftovers(store) == []


def test_a_mirror_that_does_not_answer(store: Store) -> None:
    # Port 1 of loopback: no server listens there.
    with pytest.raises(FetchFailure, match="in 3 attempts"):
        fetch([locked("lib", b"x")], store, lambda: Mirror({"debian": "http://127.0.0.1:1/debian"}), options=HASTY)


def test_redirects_are_followed(web: Web, store: Store) -> None:
    package = web.package("lib", b"moved")
    web.files["elsewhere"] = b"moved"
    web.tricks[package.path] = [redirected("/debian/elsewhere")]
    assert fetch([package], store, lambda: web.mirror, options=HASTY)["lib"].read_bytes() == b"moved"


def test_the_hosts_proxy_is_used(web: Web, store: Store) -> None:
    package = locked("lib", b"by proxy")
    web.tricks["http://far.example/debian/pool/lib.deb"] = [lambda handler, _: whole(handler, b"by proxy")]
    proxy = f"http://127.0.0.1:{web.server.server_port}/"
    mirror = Mirror({"debian": "http://far.example/debian"}, apt_options={"Acquire::http::Proxy": proxy})
    assert fetch([package], store, lambda: mirror, options=HASTY)["lib"].read_bytes() == b"by proxy"


def test_too_little_space_is_reported_before_any_download(
    web: Web, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = web.package("lib", b"x" * 5_000_000)
    usage = shutil.disk_usage(store.root)._replace(free=4_000_000)
    monkeypatch.setattr("builder.debian.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(FetchFailure, match="4 MB free, 72 MB needed") as caught:
        fetch([package], store, lambda: web.mirror, options=HASTY)
    assert caught.value.where == str(store.root)
    assert web.requests == []


def test_a_disk_that_fills_up_meanwhile(web: Web, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    package = web.package("lib", b"x" * 1000)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching._Batch, "_transfer", full)
    with pytest.raises(FetchFailure, match=r"not enough space for the packages: [0-9]+ MB free, 67 MB needed"):
        fetch([package], store, lambda: web.mirror, options=HASTY)
    assert leftovers(store) == []


def test_an_interruption_leaves_whole_packages_and_nothing_else(web: Web, store: Store) -> None:
    packages = [web.package(f"package{i}", bytes([i]) * 100_000) for i in range(8)]
    waiting = threading.Event()

    def slow(handler: BaseHTTPRequestHandler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1000])
        waiting.wait(5)
        handler.wfile.write(data[1000:])

    for package in packages[4:]:
        web.tricks[package.path] = [slow]

    def pressed(_: str) -> None:
        waiting.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(packages, store, lambda: web.mirror, detail=pressed, options=HASTY)
    assert leftovers(store) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_one_failure_stops_the_others(web: Web, store: Store) -> None:
    packages = [web.package(f"package{i}", bytes([i]) * 1000) for i in range(200)]
    with pytest.raises(FetchFailure, match="has no zz"):
        fetch([locked("zz", b"z" * 2000), *packages], store, lambda: web.mirror, options=HASTY)
    assert len(web.requests) < 201
    assert leftovers(store) == []


def test_the_hosts_authorities_decide(web: Web, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's mirror has a certificate of the company's own authority, which its computers trust; no other list of
    authorities counts.
    """
    pem = tmp_path / "mirror.pem"
    context = self_signed(pem, x509.IPAddress(ip_address("127.0.0.1")))
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    mirror = Mirror({"debian": f"https://127.0.0.1:{web.server.server_port}/debian"})
    package = web.package("a", b"bytes")
    with pytest.raises(FetchFailure, match="certificate verify failed"):
        fetch([package], store, lambda: mirror, options=HASTY)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert fetch([package], store, lambda: mirror, options=HASTY)["a"].read_bytes() == b"bytes"
