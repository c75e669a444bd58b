"""HTTP on unix sockets: who asks, and which files they get."""

import os
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from cluster.model.layout import Layout, make_private
from cluster.services import files
from cluster.services.site import node_site
from webserver.message import Request, Response
from webserver.server import Server


def echo_caller(request: Request) -> Response:
    """Answers with the caller and its target."""
    return Response(200, f"{request.peer} {request.target}".encode())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def place() -> Path:
    layout = Layout.of("web")
    make_private(layout.runtime)
    return layout.runtime / "web"


@pytest.fixture
def echo(place: Path, said: list[str]) -> Iterator[Server]:
    server = Server.at(place, node_site(echo_caller, ["GET"], said.append))
    server.start()
    yield server
    server.stop()
    assert not place.exists()


def ask(place: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(place))
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        with line.makefile("rb") as file:
            return file.read()


def get(place: Path, path: str) -> tuple[int, bytes]:
    answer = ask(place, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_the_caller_is_whom_the_first_line_names(echo: Server, place: Path, said: list[str]) -> None:
    line = b"PROXY TCP4 10.77.0.12 0.0.0.0 0 0\r\n"
    assert ask(place, line + b"GET /a HTTP/1.0\r\n\r\n").endswith(b"10.77.0.12 /a")
    assert ask(place, b"GET /b HTTP/1.0\r\n\r\n").endswith(b" /b")
    assert said[0].startswith("10.77.0.12: ")


def test_a_client_cannot_name_itself_again(echo: Server, place: Path) -> None:
    true, lie = b"PROXY TCP4 10.77.0.12 0.0.0.0 0 0\r\n", b"PROXY TCP4 10.77.0.11 0.0.0.0 0 0\r\n"
    assert b"10.77.0.11" not in ask(place, true + lie + b"GET /a HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "below").mkdir(parents=True)
    (folder / "below/file").write_bytes(b"content")
    (folder / "near").symlink_to("below/file")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too/secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path / "files-too")
    (folder / "ring").symlink_to("ring")
    os.mkfifo(folder / "pipe")
    (folder / "index").mkdir()
    (folder / "index/index.html").symlink_to(tmp_path / "secret")
    return folder


@pytest.fixture
def file_server(folder: Path, place: Path, said: list[str]) -> Iterator[Server]:
    server = Server.at(place, files.site(folder, said.append))
    server.start()
    yield server
    server.stop()


def test_files_and_folders_are_read(file_server: Server, place: Path) -> None:
    assert get(place, "/below/file") == (200, b"content")
    assert get(place, "/near") == (200, b"content")
    status, listing = get(place, "/below/")
    assert status == 200
    assert b'href="file"' in listing
    assert get(place, "/below")[0] == 301
    moved = ask(place, b"GET /below HTTP/1.0\r\n\r\n")
    assert b"\r\nLocation: /below/\r\n" in moved
    assert moved.lower().count(b"content-length") == 1
    later = formatdate(time.time() + 60, usegmt=True).encode()
    assert b" 304 " in ask(place, b"GET /below/file HTTP/1.0\r\nIf-Modified-Since: " + later + b"\r\n\r\n")
    head = ask(place, b"HEAD /below/file HTTP/1.0\r\n\r\n")
    assert b"\r\nContent-Length: 7\r\n" in head
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    [
        "/missing",
        "/../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "//../secret",
        "/link",
        "/out/secret",
        "/pipe",
        "/index/",
        "/ring",
        "/a%00b",
        "/" + "a" * 300,
    ],
)
def test_nothing_outside_and_nothing_that_is_no_file(file_server: Server, place: Path, path: str) -> None:
    status, body = get(place, path)
    assert status == 404
    assert b"secret" not in body


def test_nothing_is_written(file_server: Server, place: Path, folder: Path) -> None:
    assert b" 501 " in ask(place, b"PUT /new HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
    assert not (folder / "new").exists()
