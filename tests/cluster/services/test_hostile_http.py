"""Any bytes of a guest to a server of ours over TCP: none is an error of ours, none starts more than there is room for."""

import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.machines import forward
from cluster.model.description import FORWARD
from cluster.model.layout import Layout, make_private
from cluster.services import files, metadata, pulls
from cluster.services.metadata import Metadata
from tests.cluster.services.test_metadata import TOKEN, TTL, find
from tests.eventually import eventually
from webserver.server import Server

PROXY = b"PROXY TCP4 10.77.0.11 0.0.0.0 0 0\r\n"
PATHS = [
    "/",
    "/latest/api/token",
    "/latest/user-data",
    "/openstack/latest/",
    "/v2/a/manifests/b",
    "/a/../b",
    "/%00",
    "/%ed%a0%80",
    "/%ff",
    "//x",
    "*",
    "/" + "a" * 5000,
    "http://h/",
]


@pytest.fixture(params=["metadata", "files", "pulls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    runtime = Layout.of("web").runtime
    make_private(runtime)
    if request.param == "metadata":
        site = metadata.site(Metadata(find, b"secret"), lambda _: None)
    elif request.param == "files":
        site = files.site(tmp_path, lambda _: None)
    else:
        site = pulls.site(tmp_path / "no registry", lambda _: None)
    server = Server.at(runtime / "web", site)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def place() -> str:
    return str(Layout.of("web").runtime / "web")


texts = st.binary(max_size=30).map(lambda data: data.replace(b"\n", b""))
requests = st.builds(
    lambda method, path, version, headers, rest: b" ".join([method, path, version]) + b"\r\n" + b"".join(headers) + b"\r\n" + rest,
    st.sampled_from([b"GET", b"HEAD", b"PUT", b"POST"]) | texts,
    st.sampled_from([path.encode() for path in PATHS]) | texts,
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1", b"HTTP/9", b"HTTP/1." + b"9" * 5000]) | texts,
    st.lists(st.builds(lambda name, value: name.encode() + b": " + value + b"\r\n", st.sampled_from([TOKEN, TTL, "Content-Length", "If-Modified-Since", "Expect", "x"]), texts | st.sampled_from([b"60", b"9" * 5000, b"100-continue"])), max_size=4),
    st.binary(max_size=40),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.booleans(), st.lists(requests | st.binary(max_size=200), max_size=3))
def test_any_bytes_are_a_request_or_not(
    server: Server, place: str, caplog: pytest.LogCaptureFixture, named: bool, said: list[bytes]
) -> None:
    with socket.socket(socket.AF_UNIX) as line, suppress(ConnectionError):
        line.settimeout(60)
        line.connect(place)
        line.sendall(PROXY * named + b"".join(said))
        line.shutdown(socket.SHUT_WR)
        while line.recv(1 << 16):
            pass
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_flood_of_connections_has_so_many_threads_and_no_more(server: Server, place: str) -> None:
    """All are silent. The first who hangs up makes room for another."""
    with ExitStack() as stack:
        lines = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(server.site.connections + 50)]
        for line in lines:
            line.connect(place)
            line.settimeout(60)
        for line in lines[server.site.connections :]:
            assert line.recv(1) == b""
        lines[0].close()

        def is_served() -> bool:
            with socket.socket(socket.AF_UNIX) as line, suppress(ConnectionError):
                line.settimeout(60)
                line.connect(place)
                line.sendall(PROXY + b"GET /openstack HTTP/1.0\r\n\r\n")
                return line.recv(100).startswith(b"HTTP/")
            return False

        eventually(is_served)


@pytest.mark.parametrize(
    ("others", "arguments", "is_served"),
    [
        (forward.CONNECTIONS_MAX - 2, "same", True),
        (forward.CONNECTIONS_MAX, "same", False),
        (forward.CONNECTIONS_MAX, "other", True),
    ],
)
def test_a_caller_has_so_many_connections_and_no_more(
    others: int, arguments: str, is_served: bool, tmp_path: Path
) -> None:
    """A shell in place of the process that adopts orphans has the others, which wait for ever."""
    os.mkfifo(tmp_path / "never")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        port = str(listener.getsockname()[1])
        words = [str(FORWARD), "127.0.0.1", port]
        waiting = "bash -c 'read -u 3' bash " + shlex.join(words if arguments == "same" else [*words, "10.77.0.12"])
        script = (
            f"exec 3<>{shlex.quote(str(tmp_path / 'never'))}; for i in $(seq {others}); do {waiting} & done;"
            ' "$@" <&0; code=$?; kill $(jobs -p); exit $code'
        )
        # Standard input is the connection to the guest: a socket, of which this is the other end.
        ours, guest = socket.socketpair()
        with ours, guest:
            command = ["bash", "-c", script, "bash", sys.executable, "-I", "-S", *words]
            with subprocess.Popen(command, stdin=guest.fileno(), start_new_session=True) as shell:
                guest.close()
                if is_served:
                    service, _ = listener.accept()
                    with service:
                        ours.sendall(b"hello")
                        assert service.recv(5) == b"hello"
                        ours.shutdown(socket.SHUT_WR)
                    assert shell.wait(60) == 0
                else:
                    assert shell.wait(60) == 1
