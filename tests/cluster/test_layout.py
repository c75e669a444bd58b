"""Where files are, names that are none, and the forwarder of a guest's connection."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model import description
from cluster.model.description import members_of
from cluster.model.layout import NAME_PATTERN, SOCKET_PATH_BYTES_MAX, Layout, make_private
from terminal import Failure, UsageFailure


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-x", "x" * 32, "a b", "ä", "a\n"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageFailure):
        Layout.of(name)


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.integers(0, 150))
def test_socket_paths_fit_however_deep_the_runtime_folder(name: str, depth: int) -> None:
    environment = {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r" + "x" * depth}
    layout = Layout.of(name, environment)
    assert len(os.fsencode(layout.control)) <= SOCKET_PATH_BYTES_MAX
    assert len(os.fsencode(layout.net_socket(99))) <= SOCKET_PATH_BYTES_MAX


def test_the_same_name_in_two_state_folders_has_two_runtime_folders() -> None:
    one, two = (Layout.of("default", {"XDG_STATE_HOME": state, "XDG_RUNTIME_DIR": "/r"}) for state in ("/a", "/b"))
    assert one.runtime != two.runtime


def test_a_runtime_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flotilla").mkdir()
    (tmp_path / "flotilla").chmod(0o777)
    with pytest.raises(Failure, match="not this user's alone"):
        make_private(tmp_path / "flotilla/default")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(Failure, match="not this user's alone"):
        make_private(tmp_path / "link/default")


def test_members_survive_the_loss_of_one_or_two() -> None:
    assert [members_of(size) for size in (1, 2, 3, 4, 9, 10, 99)] == [1, 2, 3, 3, 3, 5, 5]


def test_the_forwarder_carries_both_directions_and_half_closes() -> None:
    """As QEMU runs it: the guest's connection is its standard input and output."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        guest, other = socket.socketpair()

        def serve() -> None:
            line, _ = service.accept()
            with line:
                received = b""
                while chunk := line.recv(65536):
                    received += chunk
                line.sendall(received.upper())

        server = threading.Thread(target=serve)
        server.start()
        command = [sys.executable, "-I", "-S", str(description.FORWARD), "127.0.0.1", str(service.getsockname()[1])]
        end = other.fileno()
        with subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
            other.close()
            with guest:
                guest.sendall(b"x" * 300_000)
                guest.shutdown(socket.SHUT_WR)
                received = b""
                while chunk := guest.recv(65536):
                    received += chunk
            assert process.wait(60) == 0
        server.join()
        assert received == b"X" * 300_000


def test_the_forwarder_says_nothing_to_the_guest_when_the_service_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    guest, other = socket.socketpair()
    command = [sys.executable, "-I", "-S", str(description.FORWARD), "127.0.0.1", str(port)]
    end = other.fileno()
    with guest, subprocess.Popen(command, stdin=end, stdout=end, stderr=end) as process:
        other.close()
        assert guest.recv(100) == b""
        assert process.wait(60) == 1
