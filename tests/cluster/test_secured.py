"""TLS through what is no socket: a channel of ssh."""

from __future__ import annotations

import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import paramiko
import pytest
from cryptography.x509 import IPAddress

from cluster.client.secured import Secured
from tests.certificate import self_signed

LARGE = b"x" * 3_000_000


class Echo(http.server.BaseHTTPRequestHandler):
    """Says what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[socket.socket]:
    """A connection to a server with TLS; a channel's ``recv`` and ``sendall`` are a socket's."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        context = self_signed(tmp_path / "pem", IPAddress(ip_address("127.0.0.1")))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port), 60) as made:
            yield made
        server.shutdown()


def secured(channel: socket.socket, context: ssl.SSLContext) -> Secured:
    return Secured(cast("paramiko.Channel", channel), context, "127.0.0.1")


def test_requests_of_any_size(channel: socket.socket, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = cast("socket.socket", secured(channel, ssl.create_default_context(cafile=str(tmp_path / "pem"))))
    for body in (b"a", LARGE, b"b"):
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == body


def test_a_server_that_is_not_believed(channel: socket.socket) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        secured(channel, ssl.create_default_context())


def test_the_other_side_hangs_up(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(OSError):
            secured(ours, ssl.create_default_context())
