"""``fleetctl fd-forward``, as the original's tunnel uses it: a process whose two ends are a connection to the API."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eventually import WITHIN_S

Fleetctl = Any  # tests/fleet/ctl/conftest.py
ROOT = Path(__file__).parents[3]
REQUEST = b"GET /fleet/v1/machines?alt=json HTTP/1.1\r\nHost: domain-sock\r\n\r\n"


def forward(path: Path) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fleet.ctl.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, "fd-forward", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        made.listen()
        made.settimeout(WITHIN_S)
        yield made


def test_requests_and_answers_go_through(fleetctl: Fleetctl) -> None:
    """One connection, kept open over several requests; it ends when the client closes its end."""
    with forward(fleetctl.socket) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write(REQUEST)
            process.stdin.flush()
            assert process.stdout.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := process.stdout.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            assert b"10.77.0.11" in process.stdout.read(length)
        process.stdin.close()
        assert process.wait(WITHIN_S) == 0


def test_a_mebibyte_each_way_is_not_changed(tmp_path: Path, listening: socket.socket) -> None:
    sent = bytes(range(256)) * 4096
    with forward(tmp_path / "socket") as process:
        connection, _ = listening.accept()
        received: list[bytes] = []

        def serve() -> None:
            with connection, connection.makefile("rb") as stream:
                received.append(stream.read())  # up to the end, which comes through
                connection.sendall(sent)

        serving = threading.Thread(target=serve)
        serving.start()
        returned, _ = process.communicate(sent, timeout=WITHIN_S)
        serving.join(WITHIN_S)
        assert process.returncode == 0
        assert received == [sent]
        assert returned == sent


def test_it_ends_with_the_other_end_though_its_input_is_open(tmp_path: Path, listening: socket.socket) -> None:
    with forward(tmp_path / "socket") as process:
        listening.accept()[0].close()
        assert process.wait(WITHIN_S) == 0


def test_no_process_listens(tmp_path: Path) -> None:
    with forward(tmp_path / "nothing") as process:
        _, error = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        assert b"cannot connect to the socket: No such file or directory" in error
