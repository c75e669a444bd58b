"""A real etcd with what ``trust`` issues: the right certificate is let in, and each wrong one gets a message that says
what is wrong, at the side that can do something, and no connection with less.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import trust
from etcd import Client, EtcdError, Tls, Untrusted
from tests.conftest import EtcdProcess
from tests.eventually import eventually
from tests.ports import free_ports
from trust import certificate, folder, ledger

pytestmark = pytest.mark.etcd

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(1)


def write(path: Path, files: dict[str, str]) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def client_of(node: Path, leaf: str = "etcd-client", authority: Path | None = None) -> Tls:
    """With the files in ``node``, and believing in the authority of the folder ``authority``, else the same."""
    return Tls(str((authority or node) / "etcd-clients-ca.crt"), str(node / f"{leaf}.crt"), str(node / f"{leaf}.key"))


@dataclass(frozen=True)
class World:
    """Two clusters' trust folders, the files of a node of each, and an etcd of the first."""

    root: Path
    process: EtcdProcess
    json: str
    grpc: str

    @property
    def lab(self) -> Path:
        return self.root / "lab"

    @property
    def node(self) -> Path:
        return self.root / "node"

    @property
    def stranger(self) -> Path:
        return self.root / "stranger"

    def made(self, name: str, **options: object) -> Path:
        """A leaf of the clients' authority with other properties, in a node's folder of its own."""
        with folder.opened(self.lab, to_write=False) as store:
            authority = store.authority("etcd-clients")
        usual: dict[str, object] = {"not_after": NOW + DAY, "serves": False, "asks": True}
        key = certificate.new_key()
        made = certificate.leaf(
            authority,
            name,
            "node",
            key.public_key(),
            serial=certificate.random_serial(),
            **usual | options,  # type: ignore[arg-type]
        )
        path = write(self.root / name, {"etcd-client.crt": made, "etcd-client.key": certificate.key_text(key)})
        shutil.copy(self.node / "etcd-clients-ca.crt", path)
        return path


def options_of(node: Path, server: EtcdProcess, port: int, leaf: str = "etcd-server") -> list[str]:
    return [
        f"--initial-cluster=default={server.peer}",
        f"--listen-client-http-urls=https://127.0.0.1:{port}",
        *(f"--cert-file={node}/{leaf}.crt", f"--key-file={node}/{leaf}.key"),
        *(f"--trusted-ca-file={node}/etcd-clients-ca.crt", "--client-cert-auth"),
        *(f"--client-crl-file={node}/etcd-clients.crl", "--tls-min-version=TLS1.3"),
    ]


@pytest.fixture(scope="module")
def world(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    trust.create(root / "lab")
    trust.create(root / "other")
    write(root / "node", trust.issue_node(root / "lab", "node-1", ["127.0.0.1"]).files)
    write(root / "stranger", trust.issue_node(root / "other", "node-1", ["127.0.0.1"]).files)
    process = EtcdProcess(etcd_binary, root / "etcd", "https")
    (port,) = free_ports(1)
    one = World(root, process, f"https://127.0.0.1:{port}", process.endpoint)
    process.start(*options_of(one.node, process, port))
    try:
        with closing(Client([one.json], tls=client_of(one.node))) as client:
            eventually(client.health, process.log)
        yield one
    finally:
        process.kill()


def refused(endpoint: str, tls: Tls | None) -> list[tuple[str, str]]:
    """Messages and hints for a read, a write and a watch, none of which gets through."""
    found = []
    with closing(Client([endpoint], tls=tls, timeout=20)) as client:
        assert not client.health()
        for what in (lambda: client.get("a"), lambda: client.put("a", b"2"), lambda: client.watch("a", 1)):
            with pytest.raises(Untrusted) as caught:
                what()
            found.append((caught.value.message, str(caught.value.hint)))
    return found


def test_the_right_certificate(world: World) -> None:
    for leaf in ("etcd-client", "etcd-server"):
        with closing(Client([world.json], tls=client_of(world.node, leaf))) as client:
            start = client.put("right", b"1")
            watch = client.watch("right", start)
            assert next(watch).events[0].kv.value == b"1"
            watch.close()


CASES: dict[str, tuple[str, Callable[[World], Tls | None], str, str]] = {
    "none": ("json", lambda w: Tls(str(w.node / "etcd-clients-ca.crt")), "asks for a certificate, and this client has none", "certificate and key"),
    "a peer's": ("json", lambda w: client_of(w.node, "etcd-peer"), "does not know the authority of our certificate", "a peer's"),
    "another cluster's": ("json", lambda w: client_of(w.stranger, authority=w.node), "does not know the authority of our certificate", "another cluster's"),
    "a user's of fleet": ("json", lambda w: client_of(write(w.root / "kim", trust.issue_user(w.lab, "kim", "operator").files), "fleet-client", w.node), "does not know the authority", "etcd-client.crt"),
    "expired": ("json", lambda w: client_of(w.made("expired", not_after=NOW - DAY)), "our certificate has expired for etcd, or is not valid yet", "trust renew"),
    "not yet valid": ("json", lambda w: client_of(w.made("early", not_before=NOW + DAY, not_after=NOW + 2 * DAY)), "or is not valid yet", "clocks of both machines"),
    "a server's": ("json", lambda w: client_of(w.made("server", serves=True, asks=False)), "does not accept our certificate as a client's", "journal"),
    "an authority that is not etcd's": ("json", lambda w: client_of(w.node, authority=w.stranger), "certificate is of an authority that we do not know", "etcd-clients-ca.crt"),
    "no authority of ours": ("json", lambda _: None, "certificate is of an authority that we do not know", "etcd-clients-ca.crt"),
    "plain HTTP": ("http", lambda _: None, "speaks TLS, and the endpoint says http://", "write https://"),
    "plain HTTP, with certificates": ("http", lambda w: client_of(w.node), "speaks TLS, and the endpoint says http://", "write https://"),
    "the port of gRPC": ("grpc", lambda w: client_of(w.node), "ends the connection when it has seen our certificate", "--listen-client-http-urls"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_client_that_is_not_let_in_knows_why(world: World, case: str) -> None:
    port, tls, message, hint = CASES[case]
    endpoint = {"json": world.json, "grpc": world.grpc, "http": world.json.replace("https", "http")}[port]
    for found in refused(endpoint, tls(world)):
        assert message in found[0]
        assert hint in found[1]


def test_a_revoked_certificate_is_refused_from_its_next_connection_on(world: World) -> None:
    tls = client_of(write(world.root / "node-2", trust.issue_node(world.lab, "node-2", ["127.0.0.1"]).files))
    with closing(Client([world.json], tls=tls)) as client:
        client.put("revoked", b"1")
    assert len(trust.revoke(world.lab, "node-2", node=True)) == 4
    new = world.node / "new.crl"
    shutil.copy(world.lab / "etcd-clients.crl", new)
    new.rename(world.node / "etcd-clients.crl")
    for message, hint in refused(world.json, tls):
        assert "ends the connection when it has seen our certificate" in message
        assert "was revoked" in hint
    assert "revoked" in world.process.log()
    with closing(Client([world.json], tls=client_of(world.node))) as client:
        client.put("revoked", b"2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"not_after": NOW - DAY}, "etcd's certificate has expired"),
        ({"not_before": NOW + DAY, "not_after": NOW + 2 * DAY}, "etcd's certificate is not valid yet"),
        ({"alternatives": ["node-9"]}, "etcd's certificate is for other"),
    ],
    ids=["expired", "not yet valid", "another machine's"],
)
def test_a_server_that_is_not_believed(
    world: World, make_etcd: Callable[[str], EtcdProcess], options: dict[str, object], message: str
) -> None:
    server, (port,) = make_etcd("https"), free_ports(1)
    usual: dict[str, object] = {"serves": True, "alternatives": certificate.LOCAL}
    node = world.made(f"server {sorted(options)}", **usual | options)
    shutil.copy(world.node / "etcd-clients.crl", node)
    server.start(*options_of(node, server, port, "etcd-client"))
    endpoint = f"https://127.0.0.1:{port}"
    with closing(Client([endpoint], tls=client_of(world.node))) as client:

        def says() -> str:
            with pytest.raises(EtcdError) as caught:
                client.get("a")
            return "" if caught.value.message == "cannot connect to etcd" else caught.value.message

        assert message in eventually(says, server.log)
        with pytest.raises(Untrusted, match=message) as caught:
            client.watch("a", 1)
        assert caught.value.hint


def test_an_etcd_without_tls(world: World, make_etcd: Callable[[], EtcdProcess]) -> None:
    server = make_etcd()
    server.start()
    server.wait_healthy()
    for message, hint in refused(server.endpoint.replace("http", "https"), client_of(world.node)):
        assert message == "this port speaks no TLS"
        assert "we do not go on without" in hint


def test_a_key_without_its_certificate(world: World) -> None:
    """An authority with half a pair, or with the key of another, is no client: it is said before anything is sent."""
    node = world.node
    for key in (node / "etcd-peer.key", node / "missing.key", node / "etcd-peer.crt"):
        tls = Tls(str(node / "etcd-clients-ca.crt"), str(node / "etcd-client.crt"), str(key))
        with pytest.raises(EtcdError, match="cannot load the client certificate or its key") as caught:
            Client([world.json], tls=tls)
        assert str(key) in str(caught.value.where)


def test_members_speak_to_members_only(world: World, make_etcd: Callable[[str], EtcdProcess]) -> None:
    """Three members with peers' certificates form a cluster; one that shows a client's to them is refused."""
    nodes = [
        write(world.root / f"member-{number}", trust.issue_node(world.lab, f"member-{number}", ["127.0.0.1"]).files)
        for number in range(3)
    ]
    servers = [make_etcd("https") for _ in nodes]
    ports = free_ports(3)
    for server in servers:
        server.peer = server.peer.replace("http:", "https:")
    everyone = ",".join(f"m{number}={server.peer}" for number, server in enumerate(servers))
    wrong = 2
    for number, (node, server) in enumerate(zip(nodes, servers, strict=True)):
        leaf = "etcd-client" if number == wrong else "etcd-peer"
        server.start(
            *(f"--name=m{number}", *options_of(node, server, ports[number])[1:], f"--initial-cluster={everyone}"),
            *(f"--peer-cert-file={node}/{leaf}.crt", f"--peer-key-file={node}/{leaf}.key"),
            *(f"--peer-trusted-ca-file={node}/etcd-peers-ca.crt", "--peer-client-cert-auth"),
            f"--peer-crl-file={node}/etcd-peers.crl",
        )
    with closing(Client([f"https://127.0.0.1:{port}" for port in ports[:wrong]], tls=client_of(nodes[0]))) as client:
        eventually(client.health, servers[0].log)
        client.put("members", b"1")
    with closing(Client([f"https://127.0.0.1:{ports[wrong]}"], tls=client_of(nodes[wrong]))) as alone:
        assert not alone.health()
    eventually(lambda: "rejected connection" in servers[0].log() and "unknown" in servers[0].log(), servers[0].log)


def test_what_is_issued_is_what_the_ledger_says(world: World) -> None:
    with folder.opened(world.lab, to_write=False) as store:
        found = {one.serial: one.fingerprint for one in store.ledger.issued}
    for leaf in ("etcd-peer", "etcd-server", "etcd-client", "fleet-server"):
        facts = certificate.facts((world.node / f"{leaf}.crt").read_text())
        assert found[facts.serial] == facts.fingerprint
        assert ledger.stamp(facts.not_after).endswith("+00:00")
