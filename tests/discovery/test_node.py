"""This node's etcd, as its unit is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.node import Node, environment, nearest, reached_at
from etcd.protocol import Member
from terminal import Failure


def test_settings_as_cloud_config_writes_them(tmp_path: Path) -> None:
    shown = (
        "ETCD_DATA_DIR=/var/lib/etcd/data ETCD_INITIAL_ADVERTISE_PEER_URLS=http://10.77.0.11:2380"
        " ETCD_LISTEN_PEER_URLS=http://10.77.0.11:2380"
        ' ETCD_LISTEN_CLIENT_URLS=http://10.77.0.11:2379,http://127.0.0.1:2379 "ETCD_X=a b"\n'
    )
    node = Node.of(environment(shown), "node-1", tmp_path)
    assert node == Node(
        "node-1",
        Path("/var/lib/etcd/data"),
        Path("/var/lib/etcd/data/member/wal"),
        "http://127.0.0.1:2379",
        "http://10.77.0.11:2380",
        ("http://10.77.0.11:2380",),
    )


def test_defaults_and_settings_of_ones_own(tmp_path: Path) -> None:
    node = Node.of({}, "alone", tmp_path)
    assert (node.endpoint, node.peer) == ("http://127.0.0.1:2379", "http://localhost:2380")
    own = Node.of({"ETCD_NAME": "a", "ETCD_DATA_DIR": "/x", "ETCD_WAL_DIR": "/y"}, "b", tmp_path)
    assert (own.name, own.data, own.wal) == ("a", Path("/x"), Path("/y"))


def test_a_proxy_has_no_data_and_a_member_has(tmp_path: Path) -> None:
    node = Node.of({"ETCD_DATA_DIR": str(tmp_path / "data")}, "b", tmp_path)
    assert not node.has_data
    node.wal.mkdir(parents=True)
    assert not node.has_data
    (node.wal / "0000000000000000-0000000000000000.wal").touch()
    assert node.has_data


@pytest.mark.parametrize(
    ("urls", "found"),
    [
        (("http://10.0.0.1:2379", "http://127.0.0.1:4001"), "http://127.0.0.1:4001"),
        (("https://0.0.0.0:2379",), "https://127.0.0.1:2379"),
        (("http://[::]:2379",), "http://[::1]:2379"),
        (("http://10.0.0.1:2379", "http://10.0.0.2:2379"), "http://10.0.0.1:2379"),
    ],
)
def test_the_nearest_url(urls: tuple[str, ...], found: str) -> None:
    assert nearest(urls) == found


@pytest.mark.parametrize("urls", [(), ("http://[::",)])
def test_no_url(urls: tuple[str, ...]) -> None:
    with pytest.raises(Failure):
        nearest(urls)


@given(st.text())
def test_whatever_systemd_prints(shown: str) -> None:
    try:
        found = environment(shown)
    except Failure:
        return
    assert all(isinstance(value, str) for value in found.values())


def test_where_clients_reach_a_member() -> None:
    member = Member(1, "a", ("http://10.0.0.1:2380",), ("http://127.0.0.1:2379", "http://10.0.0.9:2379", "http://["))
    assert reached_at(member) == ("http://10.0.0.1:2379", "http://10.0.0.9:2379")
    assert reached_at(Member(1, "", ("http://10.0.0.1:2380",), ())) == ()


@pytest.mark.parametrize(
    ("client", "reached"),
    [
        ("https://10.0.0.1:2379", ("https://10.0.0.1:2379",)),
        ("http://127.0.0.1:4001", ("http://10.0.0.9:4001",)),
        ("http://localhost:4001", ("http://10.0.0.9:4001",)),
        ("http://[fd00::1]:2379", ("http://[fd00::1]:2379",)),
        ("http://a:x", ()),
        ("http://a", ()),
        ("", ()),
    ],
)
def test_where_a_member_is_looked_at(client: str, reached: tuple[str, ...]) -> None:
    assert reached_at(Member(1, "a", ("http://10.0.0.9:2380",), (client,))) == reached
