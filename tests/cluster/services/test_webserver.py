"""HTTP on unix sockets: who asks, and which files they get."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.model.layout import Layout, make_private
from cluster.services import files
from cluster.services.webserver import Handler, WebServer


class Echo(Handler):
    """Says who asked for what."""

    def do_GET(self) -> None:  # noqa: N802 - http.server names it
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.caller} {self.path}".encode())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def place() -> Path:
    layout = Layout.of("web")
    make_private(layout.runtime)
    return layout.runtime / "web"


@pytest.fixture
def echo(place: Path, said: list[str]) -> Iterator[WebServer]:
    server = WebServer(place, Echo, said.append)
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


def test_the_caller_is_whom_the_first_line_names(echo: WebServer, place: Path, said: list[str]) -> None:
    line = b"PROXY TCP4 10.77.0.12 0.0.0.0 0 0\r\n"
    assert ask(place, line + b"GET /a HTTP/1.0\r\n\r\n").endswith(b"10.77.0.12 /a")
    assert ask(place, b"GET /b HTTP/1.0\r\n\r\n").endswith(b" /b")
    assert said[0].startswith("10.77.0.12: ")


def test_a_client_cannot_name_itself_again(echo: WebServer, place: Path) -> None:
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
    return folder


@pytest.fixture
def file_server(folder: Path, place: Path, said: list[str]) -> Iterator[WebServer]:
    server = WebServer(place, files.handler(folder), said.append)
    yield server
    server.stop()


def test_files_and_folders_are_read(file_server: WebServer, place: Path) -> None:
    assert get(place, "/below/file") == (200, b"content")
    assert get(place, "/near") == (200, b"content")
    status, listing = get(place, "/below/")
    assert status == 200
    assert b'href="file"' in listing
    assert get(place, "/below")[0] == 301


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
        "/ring",
        "/a%00b",
    ],
)
def test_nothing_outside_and_nothing_that_is_no_file(file_server: WebServer, place: Path, path: str) -> None:
    status, body = get(place, path)
    assert status == 404
    assert b"secret" not in body


def test_nothing_is_written(file_server: WebServer, place: Path, folder: Path) -> None:
    assert b" 501 " in ask(place, b"PUT /new HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
    assert not (folder / "new").exists()
