"""Unmodified etcd finds its peers through our service: the proof that the wire is right."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from discovery.client import read
from discovery.join import member_id
from discovery.server import DiscoveryServer
from etcd import Client, Tls, Untrusted, credentials
from tests import trusted
from tests.eventually import eventually
from webserver import selfmade

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

MakeEtcd = Callable[[], Any]


@pytest.fixture
def requests() -> list[str]:
    """The requests to the services of :func:`serve`."""
    return []


@pytest.fixture
def serve(tmp_path: Path, requests: list[str]) -> Iterator[Callable[..., DiscoveryServer]]:
    servers: list[DiscoveryServer] = []
    pem = tmp_path / "tokens.pem"
    selfmade.make(pem, ["127.0.0.1"])

    def make(port: int = 0, plain: int = 0) -> DiscoveryServer:
        # Keep-alives twice a second: etcd must take the empty answers as such.
        server = DiscoveryServer(
            *("127.0.0.1", port, tmp_path / "tokens.json"),
            certificate=(pem, None),
            plain=("127.0.0.1", plain),
            keep_alive_s=0.5,
            log=requests.append,
        )
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def test_three_members_a_surplus_one_and_a_wiped_one(
    make_etcd: MakeEtcd, serve: Callable[..., DiscoveryServer], requests: list[str]
) -> None:
    """etcd's own discovery, through the door without TLS.

    The service restarts in the middle of it all, and is gone when the members restart.
    """
    server = serve()
    url = server.plain_url(server.new_token(3))

    def start(etcd: Any, name: str) -> None:
        etcd.start(f"--name={name}", f"--discovery={url}", "--discovery-fallback=exit")

    one, two, three, four = (make_etcd() for _ in range(4))
    start(one, "one")
    eventually(lambda: read(url).state == "1 of 3: one", "one registers")
    assert read(url).members[0].id == member_id(one.peer, url), "our idea of the id is etcd's"
    start(two, "two")
    eventually(lambda: len(read(url).members) == 2, "two registers")
    before = len(requests)
    # Each waits, is kept alive by an empty answer, and asks again: four times, so that each of the two has done so.
    eventually(lambda: sum("wait=true" in line for line in requests[before:]) >= 4, lambda: "\n".join(requests))
    plain = urlsplit(url).port
    server.stop()
    server = serve(plain=plain)
    start(three, "three")
    for etcd in (one, two, three):
        etcd.wait_healthy()
    client = Client([one.endpoint])
    assert sorted(member.name for member in client.members()) == ["one", "three", "two"]
    client.close()

    start(four, "four")
    assert four.wait_exit() != 0
    assert "cluster is full" in four.log()
    assert len(read(url).registered) == 3

    three.kill()
    shutil.rmtree(three.directory)
    start(three, "three")
    assert three.wait_exit() != 0
    assert "use a new discovery token if previous bootstrap failed" in three.log(), "how etcd puts: duplicate ID"

    server.stop()
    two.kill()
    start(two, "two")
    two.wait_healthy()


def test_etcd_itself_ignores_what_the_url_pins(
    make_etcd: MakeEtcd, serve: Callable[..., DiscoveryServer], tmp_path: Path
) -> None:
    """The same text works for it where an authority vouches for the service, and its ids are those of the whole text."""
    server = serve()
    url = server.url(server.new_token(1))
    etcd = make_etcd()
    etcd.start("--name=one", f"--discovery={url}", SSL_CERT_FILE=str(tmp_path / "tokens.pem"))
    etcd.wait_healthy()
    (member,) = read(url).members
    assert member.id == member_id(etcd.peer, url)


class Node:
    """``discovery join`` as systemd runs it, with a real etcd."""

    def __init__(
        self, directory: Path, binary: str, etcd: Any, url: str, name: str, certificates: Path | None = None
    ) -> None:
        self.etcd = etcd
        self.tls: Tls | None = None
        if certificates is not None:
            own = credentials.client(certificates)
            assert own is not None
            self.tls = Tls(own.authority, own.certificate, own.key)
            etcd.endpoint, etcd.peer = (url.replace("http:", "https:") for url in (etcd.endpoint, etcd.peer))
        self.directory = directory / name
        self.directory.mkdir()
        self.log = directory / f"{name}.log"
        self._argv = [sys.executable, "-c", "import sys; from discovery.cli import main; sys.exit(main())", "join"]
        self._argv += ["--etcd", binary, "--trust", str(certificates or directory / "none")]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "ETCD_NAME": name,
            "ETCD_DATA_DIR": str(self.directory / "data"),
            "ETCD_DISCOVERY": url,
            "ETCD_LISTEN_CLIENT_URLS": etcd.endpoint,
            "ETCD_ADVERTISE_CLIENT_URLS": etcd.endpoint,
            "ETCD_LISTEN_PEER_URLS": etcd.peer,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": etcd.peer,
            "ETCD_UNSAFE_NO_FSYNC": "true",
            "ETCD_LOG_LEVEL": "warn",
            "ETCD_STRICT_RECONFIG_CHECK": "false",  # else it refuses changes for the first 5 s in which all have been connected
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, env=self._environment, stdout=log, stderr=log, cwd="/")

    def stop(self, how: int = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)

    def client(self) -> Client:
        return Client([self.etcd.endpoint], tls=self.tls)

    def healthy(self) -> bool:
        if self.tls is not None:
            with contextlib.closing(self.client()) as client:
                return client.health()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.etcd.endpoint}/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
        return False


@pytest.fixture
def node(tmp_path: Path, etcd_binary: str, make_etcd: MakeEtcd) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(url: str, name: str, certificates: Path | None = None) -> Node:
        nodes.append(Node(tmp_path, etcd_binary, make_etcd(), url, name, certificates))
        return nodes[-1]

    yield make
    for one in nodes:
        if one.process is not None:
            one.stop()


def test_join(serve: Callable[..., DiscoveryServer], node: Callable[[str, str], Node]) -> None:
    """Two members, of which one is killed while it waits; a proxy; a restart without the service; a loss of data."""
    server = serve()
    url = server.url(server.new_token(2))
    first, second, third = node(url, "first"), node(url, "second"), node(url, "third")

    first.start()
    eventually(lambda: read(url).state == "1 of 2: first", "first registers")
    first.stop()
    first.start()
    eventually(lambda: "waiting for 1 of 2: first" in first.log.read_text(), "first says that it waits")
    second.start()
    eventually(lambda: first.healthy() and second.healthy(), "both are healthy")

    third.start()
    eventually(third.healthy, f"the proxy answers\n{third.log.read_text()}")
    through_proxy, direct = Client([third.etcd.endpoint]), Client([first.etcd.endpoint])
    registered = {one.id for one in read(url).members}
    assert {f"{member.id:x}" for member in direct.members()} == registered, "etcd's own ids are hashes of the same text"
    through_proxy.put("a", b"1")
    found = direct.get("a")
    assert found is not None
    assert found.value == b"1"
    assert len(direct.members()) == 2
    through_proxy.close()
    direct.close()

    server.stop()
    for one in (second, third):
        one.stop(signal.SIGTERM)
        one.start()
    eventually(lambda: second.healthy() and third.healthy(), "both are back without the service")

    serve(server.port)
    second.stop()
    shutil.rmtree(second.directory / "data")
    second.start()
    eventually(lambda: "its data is gone: is a proxy" in second.log.read_text(), second.log.read_text)


def test_join_with_certificates(
    serve: Callable[..., DiscoveryServer], node: Callable[..., Node], tmp_path: Path
) -> None:
    """They need no setting but https. What a proxy passes on is end to end between its client and a member.

    A node of another cluster that knows the discovery URL gets a slot by it, and no further.
    """
    server = serve()
    url = server.url(server.new_token(3))
    issued = [trusted.node(tmp_path / "lab", name, "127.0.0.1") for name in ("one", "two", "four")]
    one, two, four = (node(url, folder.name, folder) for folder in issued)
    stranger = node(url, "three", trusted.node(tmp_path / "elsewhere", "three", "127.0.0.1"))
    one.start()
    eventually(lambda: len(read(url).members) == 1, "one registers")
    stranger.start()
    eventually(lambda: len(read(url).members) == 2, "the stranger registers")
    two.start()
    eventually(lambda: one.healthy() and two.healthy(), lambda: one.log.read_text() + two.log.read_text())
    assert not stranger.healthy()
    assert "rejected connection on peer endpoint" in one.log.read_text()

    four.start()
    eventually(four.healthy, four.log.read_text)
    with contextlib.closing(four.client()) as proxied, contextlib.closing(one.client()) as direct:
        proxied.put("a", b"1")
        found = direct.get("a")
        assert found is not None
        assert found.value == b"1"
    with contextlib.closing(Client([four.etcd.endpoint], tls=stranger.tls)) as other, pytest.raises(Untrusted):
        other.get("a")
    assert "plain HTTP" not in one.log.read_text()


def change(etcd: Any, how: str, **fields: object) -> None:
    """Ask a member to change the cluster; it refuses for the first moments of a cluster's life."""
    # Until it has noticed that its leader is dead, it forwards the wish to that one, and never answers. It answers a
    # read when it has another.
    client = Client([etcd.endpoint])
    eventually(client.health, "there is a leader that lives")
    client.close()
    request = urllib.request.Request(f"{etcd.endpoint}/v3/cluster/member/{how}", data=json.dumps(fields).encode())

    def done() -> bool:
        try:
            urllib.request.urlopen(request, timeout=30).close()  # it may have to elect a leader first
        except urllib.error.HTTPError as refused:
            refused.close()
            return False
        return True

    eventually(done, f"it refuses to {how} a member")


def make_leader(etcds: list[Any], member: int) -> None:
    """Which only the present leader can do."""
    data = json.dumps({"targetID": str(member)}).encode()

    def done() -> bool:
        for etcd in etcds:
            request = urllib.request.Request(f"{etcd.endpoint}/v3/maintenance/transfer-leadership", data=data)
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=10).close()
                return True
        return False

    eventually(done, "a leader hands over")


def test_a_wiped_member_comes_back_as_somebody_new(
    serve: Callable[..., DiscoveryServer], node: Callable[[str, str], Node]
) -> None:
    """Without upkeep: a proxy until a person has removed it and added it again on another node.

    Here it has led the others.
    """
    server = serve()
    url = server.url(server.new_token(3))
    nodes = [node(url, name) for name in ("one", "two", "three")]
    for each in nodes:
        each.start()
    one, _, three = nodes
    eventually(lambda: all(each.healthy() for each in nodes), "all are healthy")
    client = Client([one.etcd.endpoint])
    client.put("kept", b"1")
    (former,) = [member.id for member in client.members() if member.name == "three"]

    make_leader([each.etcd for each in nodes], former)
    three.stop()
    shutil.rmtree(three.directory)
    three.directory.mkdir()
    three.start()
    eventually(three.healthy, f"it is a proxy\n{three.log.read_text()}")
    assert "its data is gone: is a proxy" in three.log.read_text()

    change(one.etcd, "remove", ID=str(former))
    change(one.etcd, "add", peerURLs=[three.etcd.peer])
    three.stop()
    three.start()
    eventually(three.healthy, f"it is back\n{three.log.read_text()}")
    assert sorted(member.name for member in client.members()) == ["one", "three", "two"]
    assert former not in {member.id for member in client.members()}
    client.close()
    server.stop()
    three.stop()
    three.start()
    eventually(three.healthy, "and starts again as that, without the service")
    own = Client([three.etcd.endpoint])
    found = own.get("kept")
    assert found is not None
    assert found.value == b"1"
    own.close()


def test_a_removed_member_ends_with_0(make_etcd: MakeEtcd, etcd_binary: str) -> None:
    """What ExecStopPost= in etcd.service relies on."""
    one, two = make_etcd(), make_etcd()
    for name, etcd in (("one", one), ("two", two)):
        # Else it refuses changes for the first 5 s in which all have been connected.
        etcd.start(
            f"--name={name}", f"--initial-cluster=one={one.peer},two={two.peer}", "--strict-reconfig-check=false"
        )
    one.wait_healthy()
    two.wait_healthy()
    client = Client([one.endpoint])
    (doomed,) = [member.id for member in client.members() if member.name == "two"]
    client.close()
    change(one, "remove", ID=str(doomed))
    assert two.wait_exit() == 0
