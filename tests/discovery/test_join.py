"""What a node's etcd becomes: the decision, then how it is carried out, with a process that only pretends to become
another.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from discovery.client import Registered, Roster, Unreachable, read, request
from discovery.join import (
    Join,
    Listed,
    Remembered,
    become,
    decide,
    endpoints_of,
    listed_in,
    local_address,
    member_id,
)
from discovery.server import DiscoveryServer
from discovery.settings import Misconfigured
from terminal import Failure
from tests import trusted
from tests.eventually import eventually

URL = "http://10.0.2.100:7379/0123456789abcdef0123456789abcdef"
PEER = "http://10.77.0.11:2380"
NODE = {"ETCD_NAME": "node-1", "ETCD_INITIAL_ADVERTISE_PEER_URLS": PEER, "ETCD_DISCOVERY": URL}
FRESH = Remembered()


def roster(size: int, *peers: str) -> Roster:
    return Roster(
        size,
        tuple(
            Registered(member_id(peer, URL), (f"n{n}",), (peer,), f"n{n}={peer}", n) for n, peer in enumerate(peers, 2)
        ),
    )


def others(count: int) -> list[str]:
    return [f"http://10.77.0.{20 + n}:2380" for n in range(count)]


def test_the_id_is_that_of_etcd() -> None:
    """Taken from a real etcd's log; tests/discovery/test_bootstrap.py compares with a running one."""
    assert member_id("http://b:2,http://a:1", URL) == member_id("http://a:1, http://b:2", URL)
    assert not member_id(PEER, URL).startswith("0")
    assert len(member_id(PEER, URL)) <= 16


def test_data_decides_before_all_else_without_a_request_to_the_service() -> None:
    decided = decide(NODE, Remembered(has_wal=True), None)
    assert decided.kind == "member"
    assert "ETCD_DISCOVERY" not in decided.environment
    assert decided.environment["ETCD_INITIAL_CLUSTER"] == f"node-1={PEER}"


def test_without_discovery_it_starts_as_configured() -> None:
    static = {"ETCD_NAME": "a", "ETCD_INITIAL_CLUSTER": "a=http://a:2380"}
    assert decide(static, FRESH, None).environment == static
    assert decide({"ETCD_NAME": "a"}, FRESH, None).kind == "member"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ETCD_INITIAL_CLUSTER": "a=http://a:1"}, "both"),
        ({"ETCD_INITIAL_ADVERTISE_PEER_URLS": ""}, "needs an address"),
    ],
)
def test_settings_that_cannot_work_have_an_exit_status_of_their_own(change: dict[str, str], match: str) -> None:
    with pytest.raises(Misconfigured, match=match) as refused:
        decide(NODE | change, FRESH, None)
    assert refused.value.exit_code == 78
    assert refused.value.hint


def test_it_asks_and_registers_if_there_is_room() -> None:
    assert decide(NODE, FRESH, None).kind == "ask"
    decided = decide(NODE, FRESH, roster(3, *others(2)))
    assert (decided.kind, decided.reason) == ("register", "2 of 3: n2, n3; registers")


def test_one_too_many_is_a_proxy_unless_configured_to_exit() -> None:
    full = roster(3, *others(3))
    assert decide(NODE, FRESH, full).kind == "proxy"
    with pytest.raises(Failure, match="full"):
        decide(NODE | {"ETCD_DISCOVERY_FALLBACK": "exit"}, FRESH, full)
    lost_the_race = roster(3, *others(3), PEER)
    assert decide(NODE, FRESH, lost_the_race).kind == "proxy", "registered, but in no slot"


def test_interrupted_while_it_waited_it_goes_on() -> None:
    remembered = Remembered(joining=URL)
    waiting = decide(NODE, remembered, roster(3, PEER, *others(1)))
    assert (waiting.kind, waiting.reason) == ("wait", "waiting for 2 of 3: n2, n3")
    decided = decide(NODE, remembered, roster(3, PEER, *others(2)))
    assert decided.kind == "member"
    assert decided.environment["ETCD_INITIAL_CLUSTER"].split(",")[0] == f"n2={PEER}"
    assert decided.environment["ETCD_INITIAL_CLUSTER_TOKEN"] == URL
    assert "ETCD_DISCOVERY" not in decided.environment


WIPED = ["", "http://another/token"]
"""What a node remembers of this token after it lost its data."""


@pytest.mark.parametrize("joining", WIPED)
@pytest.mark.parametrize(
    "listed",
    [
        (Listed("n2", (PEER,)), Listed("b", ("http://b:2380",))),  # the old one is still there
        (Listed("", ("http://b:2380",)),),  # another member was added
        (Listed("", (PEER, "http://b:2380")),),
    ],
)
def test_a_slot_whose_data_is_gone_is_not_taken_again(joining: str, listed: tuple[Listed, ...]) -> None:
    remembered, full = Remembered(joining=joining), roster(3, PEER, *others(2))
    asks = decide(NODE, remembered, full)
    assert (asks.kind, asks.peers) == ("ask", (PEER, *others(2)))
    decided = decide(NODE, remembered, full, listed)
    assert decided.kind == "proxy", "it serves its machine until the others have taken it in again"
    assert decided.peers == tuple(url for member in listed for url in member.urls)
    with pytest.raises(Failure, match="its data is gone"):
        decide(NODE, remembered, full, ())


@pytest.mark.parametrize("joining", WIPED)
def test_a_member_that_was_added_again_joins_as_new(joining: str) -> None:
    listed = (Listed("b", ("http://b:2380", "http://b:2381")), Listed("", (PEER,)))
    decided = decide(NODE, Remembered(joining=joining), roster(3, PEER, *others(2)), listed)
    assert decided.kind == "member"
    assert decided.environment["ETCD_INITIAL_CLUSTER"] == f"b=http://b:2380,b=http://b:2381,node-1={PEER}"
    assert decided.environment["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    assert "ETCD_DISCOVERY" not in decided.environment


KNOWN = (PEER, *others(2))
LISTED = (Listed("b", tuple(others(2)[:1])), Listed("c", tuple(others(2)[1:])))


def test_a_member_that_ended_by_itself_asks_whether_it_was_removed() -> None:
    """An etcd that was removed ends with 0, and knows no more than that the next time."""
    ended = Remembered(has_wal=True, ended=True, peers=KNOWN)
    asks = decide(NODE, ended, None)
    assert (asks.kind, asks.peers) == ("ask", KNOWN)
    assert decide(NODE, ended, None, ()).kind == "wait", "rather no member than one that is none any more"
    assert decide(NODE, ended, None, LISTED).kind == "aside"
    assert decide(NODE, ended, None, (*LISTED, Listed("node-1", (PEER,)))).kind == "member", "it was not removed"
    added = (*LISTED, Listed("", (PEER,)))
    assert decide(NODE, ended, None, added).kind == "aside", "removed, and added again: as another member than this"
    assert decide(NODE, ended._replace(peers=()), None).kind == "member", "there are no others"
    static = {key: value for key, value in NODE.items() if key != "ETCD_DISCOVERY"}
    static["ETCD_INITIAL_CLUSTER"] = f"node-1={PEER},b=http://b:2380"
    assert decide(static, ended._replace(peers=()), None).peers == (PEER, "http://b:2380")


@pytest.mark.parametrize("environment", [NODE, {k: v for k, v in NODE.items() if k != "ETCD_DISCOVERY"}])
def test_who_knows_members_and_has_no_data_asks_them_first(environment: dict[str, str]) -> None:
    proxied = Remembered(peers=KNOWN)
    assert decide(environment, proxied, None).peers == KNOWN
    assert decide(environment, proxied, None, LISTED).kind == "proxy"
    joins = decide(environment, proxied, None, (*LISTED, Listed("", (PEER,))))
    assert joins.environment["ETCD_INITIAL_CLUSTER"] == f"b={others(2)[0]},c={others(2)[1]},node-1={PEER}"
    assert joins.environment["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    if "ETCD_DISCOVERY" in environment:
        assert decide(environment, proxied, None, ()).kind == "ask", "the service, then"
    else:
        with pytest.raises(Unreachable):
            decide(environment, proxied, None, ())  # it must not begin a cluster of its own


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"7", b"[7]", b'[{"name": "a"}]', b'[{"peerURLs": ["\\n"]}]'])
def test_a_list_that_makes_no_sense_is_empty(body: bytes) -> None:
    assert listed_in(body) == ()


@pytest.mark.parametrize(
    ("members", "endpoints"),
    [
        ([{"peerURLs": ["http://a:2380"], "clientURLs": ["http://a:2379"]}], ("a:2379",)),
        ([{"peerURLs": ["http://a:2380"], "clientURLs": ["http://127.0.0.1:4001"]}], ("a:4001",)),
        ([{"peerURLs": ["http://[fd00::1]:2380"], "clientURLs": ["http://localhost:2379"]}], ("[fd00::1]:2379",)),
        ([{"peerURLs": ["http://a:2380"]}], ()),
        ([{"peerURLs": []}], ()),
        ([{"peerURLs": ["http://a:2380"], "clientURLs": ["http://a:99999"]}], ()),
        ([7], ()),
        ({}, ()),
        (7, ()),
    ],
)
def test_where_clients_connect(members: object, endpoints: tuple[str, ...]) -> None:
    assert endpoints_of(json.dumps(members).encode()) == endpoints
    assert endpoints_of(b"<html>") == ()
    assert endpoints_of(json.dumps(members).encode(), {"http://a:2380", "http://[fd00::1]:2380"}) == ()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("", "127.0.0.1:2379"),
        ("http://0.0.0.0:4001,http://0.0.0.0:2379", "127.0.0.1:4001"),
        ("http://x:y", "127.0.0.1:2379"),
    ],
)
def test_a_proxy_listens_where_a_member_would(listen: str, address: str) -> None:
    assert local_address({"ETCD_LISTEN_CLIENT_URLS": listen}) == address


class Pretender:
    """A :class:`Join` whose exec is recorded, and whose naps run ``naps`` in turn."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        naps: Sequence[object] = (),
        certificates: Path | None = None,
    ) -> None:
        self.became: list[tuple[list[str], dict[str, str]]] = []
        self.warned: list[str] = []
        self.said: list[str] = []
        self.slept: list[float] = []
        self._naps = list(naps)
        self.data = directory / "data"
        self.join = Join(
            {"ETCD_DATA_DIR": str(self.data), "PATH": "/bin", **environment},
            certificates=certificates or directory / "none",
            say=lambda text: (self.warned if text.startswith("<4>") else self.said).append(text),
            become=lambda argv, environment: self.became.append((list(argv), dict(environment))),
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        assert self._naps, f"sleeps once too often: {self.said}"
        nap = self._naps.pop(0)
        if callable(nap):
            nap()


@pytest.fixture
def server(tmp_path: Path) -> DiscoveryServer:
    return DiscoveryServer("127.0.0.1", 0, tmp_path / "tokens.json")


def register(url: str, *peers: str) -> None:
    for peer in peers:
        name = peer.split("//")[1].split(":")[0]
        status, _ = request("PUT", f"{url}/{member_id(peer, url)}", timeout=5, form={"value": f"{name}={peer}"})
        assert status == 201


def test_it_waits_for_the_service_then_registers(tmp_path: Path, server: DiscoveryServer) -> None:
    server.start()
    url = server.url(server.new_token(2))
    register(url, *others(1))
    port = server.port
    server.stop()
    again = DiscoveryServer("127.0.0.1", port, tmp_path / "tokens.json")
    node = Pretender(tmp_path, NODE | {"ETCD_DISCOVERY": url}, [None, again.start])
    node.join.run()
    (_, mine) = read(url).members
    again.stop()
    assert node.slept == [1, 2]
    assert "cannot reach the discovery service" in node.said[0]
    assert node.said[-2:] == [
        "1 of 2: 10.77.0.20; registers",
        "the cluster is complete: 2 of 2: 10.77.0.20, node-1",
    ]
    ((argv, environment),) = node.became
    assert argv == ["/usr/bin/etcd"]
    assert environment["ETCD_INITIAL_CLUSTER"] == f"10.77.0.20={others(1)[0]},node-1={PEER}"
    assert not {name for name in environment if "DISCOVERY" in name}, "etcd's own discovery has no part in it"
    assert (mine.id, mine.value) == (member_id(PEER, url), f"node-1={PEER}")
    assert (tmp_path / "data.joining").read_text().strip() == url


def test_who_is_too_late_is_a_proxy_and_a_name_that_is_taken_an_error(tmp_path: Path, server: DiscoveryServer) -> None:
    """Another machine was quicker after this one had read that there is a slot."""
    server.start()
    url = server.url(server.new_token(1))
    environment = NODE | {"ETCD_DISCOVERY": url}
    node = Pretender(tmp_path, environment, [None] * 10)
    seen = node.join.decision()
    assert seen.kind == "register"
    register(url, "http://127.0.0.1:1")
    assert node.join.decision().kind == "proxy"
    taken = server.url(server.new_token(2))
    register(taken, "http://node-1:2380")
    with pytest.raises(Failure, match="does not register this machine: Compare failed: node-1 is taken"):
        Pretender(tmp_path, NODE | {"ETCD_DISCOVERY": taken}).join.run()
    server.stop()


def test_several_peer_urls_are_registered_as_etcd_does(tmp_path: Path, server: DiscoveryServer) -> None:
    server.start()
    url = server.url(server.new_token(1))
    urls = {"ETCD_INITIAL_ADVERTISE_PEER_URLS": "http://b:2380, http://a:2380", "ETCD_DISCOVERY": url}
    node = Pretender(tmp_path, NODE | urls)
    node.join.run()
    server.stop()
    ((_, environment),) = node.became
    assert environment["ETCD_INITIAL_CLUSTER"] == "node-1=http://a:2380,node-1=http://b:2380"


def test_after_a_crash_in_the_wait_it_waits_itself(tmp_path: Path, server: DiscoveryServer) -> None:
    server.start()
    url = server.url(server.new_token(2))
    environment = NODE | {"ETCD_DISCOVERY": url}
    (tmp_path / "data.joining").write_text(url + "\n")  # it was about to register,
    register(url, PEER)  # registered, and died
    node = Pretender(tmp_path, environment, [None])
    waiting = threading.Thread(target=node.join.run)
    waiting.start()
    eventually(lambda: node.said, "it says that it waits")
    register(url, *others(1))  # which ends the watch, not a nap
    waiting.join()
    server.stop()
    assert node.said[0] == "waiting for 1 of 2: 10.77.0.11"
    assert node.slept == [1]
    assert node.became[0][1]["ETCD_INITIAL_CLUSTER_TOKEN"] == url


def test_a_proxy_asks_the_members_and_remembers_for_the_day_the_service_is_gone(
    tmp_path: Path, server: DiscoveryServer
) -> None:
    server.start()
    url = server.url(server.new_token(1))
    register(url, "http://127.0.0.1:1")
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(str(tmp_path / "notify"))
    environment = NODE | {"ETCD_DISCOVERY": url, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    node = Pretender(tmp_path, environment, [None] * 10)  # no member answers on the peer port: it guesses in the end
    notices: list[str] = []

    def listen() -> None:
        while not notices or not notices[-1].startswith("READY=1"):
            notices.append(ready.recv(1000).decode())

    systemd = threading.Thread(target=listen, daemon=True)
    systemd.start()
    node.join.run()
    systemd.join(5)
    ready.close()
    server.stop()
    ((argv, given),) = node.became
    assert argv == [
        *("/usr/bin/etcd", "gateway", "start"),
        *("--endpoints=127.0.0.1:2379", "--listen-addr=127.0.0.1:2379"),
    ]
    assert given == {"PATH": "/bin"}, "the gateway must not read a member's settings, nor notify"
    assert notices[-1].startswith("READY=1")
    assert notices[0].startswith("STATUS=the cluster is full")

    del environment["NOTIFY_SOCKET"]
    later = Pretender(tmp_path, environment)
    later.join.run()
    assert later.became[0][0] == argv
    (tmp_path / "data.proxy").write_text("edited by hand")
    with pytest.raises(AssertionError, match="sleeps"):
        Pretender(tmp_path, environment).join.run()


def test_a_member_again_forgets_what_it_was(tmp_path: Path) -> None:
    wal = tmp_path / "data" / "member" / "wal"
    wal.mkdir(parents=True)
    (wal / "0000000000000000-0000000000000000.wal").touch()
    (tmp_path / "data.joining").write_text(URL)
    (tmp_path / "data.proxy").write_text("{}")
    node = Pretender(tmp_path, NODE)
    node.join.run()
    assert node.became[0][0] == ["/usr/bin/etcd"]
    assert not (tmp_path / "data.joining").exists()
    assert not (tmp_path / "data.proxy").exists()


def test_the_name_is_the_hosts_unless_given(tmp_path: Path) -> None:
    node = Pretender(tmp_path, {"ETCD_NAME": "", "ETCD_DISCOVERY": ""})
    node.join.run()
    assert node.became[0][1]["ETCD_NAME"] == socket.gethostname()
    assert "ETCD_DISCOVERY" not in node.became[0][1], "an empty setting is none"


def test_a_node_that_anyone_may_command_says_so_at_each_start(tmp_path: Path) -> None:
    bare = Pretender(tmp_path, {})
    bare.join.run()
    (warning,) = bare.warned
    assert "docs/security.md" in warning
    secured = Pretender(tmp_path, {}, certificates=trusted.node(tmp_path))
    secured.join.run()
    assert not secured.warned
    assert secured.became[0][1]["ETCD_LISTEN_CLIENT_URLS"] == "https://127.0.0.1:2379"


def test_a_state_directory_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "data" / "member").mkdir(parents=True)
    (tmp_path / "data" / "member" / "wal").touch()
    with pytest.raises(Failure, match="cannot read"):
        Pretender(tmp_path, NODE).join.run()


def test_no_etcd() -> None:
    with pytest.raises(Failure, match="cannot run etcd") as refused:
        become(["/nonexistent/etcd"], {})
    assert refused.value.hint
