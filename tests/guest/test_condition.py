"""Conditions: each kind, before and after it has come true."""

import socket
from pathlib import Path

import pytest

from guest.condition import condition, is_listening, is_ok

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 24521 1 ffff 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 24522 1 ffff 100 0 0 10 0
   2: 0F02000A:0050 0202000A:A1F4 01 00000000:00000000 02:0008D4C1 00000000     0        0 24523 1 ffff 100 0 0 10 0
"""


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "status"
    exists = condition({"exists": str(path)}).look
    absent = condition({"absent": str(path)}).look
    has = condition({"file": str(path), "has": "done"}).look
    assert exists
    assert absent
    assert has
    assert (exists(), absent(), has()) == (False, True, False)
    path.write_text("not yet")
    assert (exists(), absent(), has()) == (True, False, False)
    path.write_text("done")
    assert has()


def test_sockets_that_listen() -> None:
    assert is_listening(22, TABLE)
    assert is_listening(2379, TABLE)
    assert not is_listening(80, TABLE), "a connection is no listener"
    assert not is_listening(2380, TABLE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        look = condition({"listens": server.getsockname()[1]}).look
        assert look
        assert look()
    assert not look()


def test_answers_of_http_servers() -> None:
    found = condition({"http": 2379, "path": "/health", "has": '"health":"true"', "times": 2})
    assert found.question
    assert found.holds
    assert found.question.address == 2379
    assert found.question.words == b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"
    once = b'HTTP/1.0 200 OK\r\n\r\n{"health":"true"}'
    assert not found.holds(once)
    assert found.holds(once + once)
    assert not found.holds(b"HTTP/1.1 503 Unavailable\r\n\r\n" + once + once)
    assert not found.holds(b"")
    assert is_ok(b"HTTP/1.1 200 OK\r\n")


def test_one_of_several_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "data.proxy"
    found = condition({"any": [{"exists": str(path)}, {"http": 2381, "path": "/health", "has": "true"}]})
    assert found.look
    assert found.question
    assert found.holds
    assert not found.look()
    assert found.question.address == 2381
    assert found.holds(b"HTTP/1.0 200 OK\r\n\r\ntrue")
    path.touch()
    assert found.look()
    neither = condition({"any": [{"exists": str(path)}, {"absent": "/"}]})
    assert neither.look
    assert neither.look()
    assert neither.question is None


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"exists": 1},
        {"file": "/x"},
        {"listens": "22"},
        {"http": 1.5, "path": "/", "has": ""},
        {"http": 80, "path": "/a b", "has": ""},
        {"http": 80, "path": "/a\r\nX: y", "has": ""},
        {"http": 80, "path": "a", "has": ""},
        {"unit": "x"},
        {"any": []},
        {"any": [{"exists": 1}]},
        {"any": [{"http": 80, "path": "/", "has": ""}, {"unit": "x", "is": "active"}]},
    ],
)
def test_what_is_no_condition_is_refused(nonsense: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        condition(nonsense)
