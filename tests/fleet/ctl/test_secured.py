"""fleetctl over mutual TLS, with several endpoints: what is let in, what is said of the rest, and what moves on."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trust
from etcd.fake import FakeEtcd
from fleet.api.server import ApiServer
from fleet.ctl.client import ApiError, Client, Unreachable
from fleet.ctl.endpoint import Credentials, Endpoint, parse_endpoints
from fleet.ctl.reach import Reach, Settings
from fleet.ctl.session import Session
from fleet.ctl.transport import Ssh
from fleet.model.entities import Desired
from fleet.model.registry import Registry
from terminal import Failure, UsageFailure
from tests.fleet.ctl.conftest import HELLO, Fleetctl
from tests.fleet.secured import DAY, NOW, World
from tests.ports import free_ports
from unitfile.text import UnitFile


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path, Registry(FakeEtcd()))
    yield one
    one.server.stop()


def credentials(secured: World, shown: Path, leaf: str = "fleet-client") -> Credentials:
    return Credentials(str(secured.node / "fleet-ca.crt"), str(shown / f"{leaf}.crt"), str(shown / f"{leaf}.key"))


def flags(files: Credentials) -> list[str]:
    return ["--ca-file", files.authority, "--cert-file", files.certificate, "--key-file", files.key]


def url(secured: World) -> str:
    return "https://{}:{}".format(*secured.address)


def test_the_originals_options_and_variables(
    secured: World, fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch, unit_file: Callable[..., Path]
) -> None:
    unit_file()
    lee = credentials(secured, secured.user("lee", "reader"))
    kim = credentials(secured, secured.user("kim", "operator"))
    said = fleetctl("--endpoint", url(secured), *flags(lee), "submit", "hello.service")
    assert (said.code, said.out) == (1, "")
    assert "fleetctl: error: lee is a reader, and changes nothing" in said.err
    monkeypatch.setenv("FLEETCTL_ENDPOINT", url(secured))
    for name, path in zip(("CA_FILE", "CERT_FILE", "KEY_FILE"), kim, strict=True):
        monkeypatch.setenv(f"FLEETCTL_{name}", path)
    assert fleetctl("submit", "hello.service").code == 0
    assert fleetctl("list-unit-files", "--no-legend", "--fields", "unit").out == "hello.service\n"


WRONG: dict[str, tuple[Callable[[World], Credentials], str, str]] = {
    "another cluster's": (
        lambda w: credentials(w, w.user("kim", "operator", w.root / "elsewhere" / "authorities")),
        "the API does not know the authority of our certificate",
        "fleet-client.crt of this cluster",
    ),
    "etcd's": (
        lambda w: credentials(w, w.node, "etcd-client"),
        "the API does not know the authority of our certificate",
        "fleet-client.crt of this cluster",
    ),
    "a node's": (
        lambda w: credentials(w, w.node, "fleet-server"),
        "our certificate is not a user's",
        "fleet-client.crt",
    ),
    "expired": (
        lambda w: credentials(w, w.made("kim", "operator", not_after=NOW - DAY)),
        "our certificate has expired",
        "trust renew --user",
    ),
    "not valid yet": (
        lambda w: credentials(w, w.made("kim", "operator", not_before=NOW + DAY, not_after=NOW + 2 * DAY)),
        "our certificate is not valid yet",
        "clocks",
    ),
    "of a server that is another's": (
        lambda w: credentials(w, w.user("kim", "operator"))._replace(authority=str(w.other / "fleet-ca.crt")),
        "the API's certificate is of an authority that we do not know",
        "--ca-file",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(secured: World, what: str) -> None:
    make, message, hint = WRONG[what]
    with contextlib.closing(Client(Endpoint.parse(url(secured)), credentials=make(secured))) as client:
        for ask in (client.machines, lambda: client.ask({"a.service": UnitFile.parse(HELLO)}, "launched")):
            with pytest.raises(Unreachable, match=message) as caught:
                ask()
            assert hint in str(caught.value.hint)
            assert not caught.value.maybe_applied
    assert secured.registry.units() == []


def test_a_revoked_certificate(secured: World) -> None:
    kim = secured.user("kim", "operator")
    with contextlib.closing(Client(Endpoint.parse(url(secured)), credentials=credentials(secured, kim))) as client:
        assert client.machines() == []
        trust.revoke(secured.lab, "kim", node=False)
        (secured.node / "fleet.crl").write_text((secured.lab / "fleet.crl").read_text())
        with pytest.raises(Failure, match="the certificates here have changed"):
            client.machines()
        with pytest.raises(Unreachable, match="our certificate was revoked"):
            client.machines()


def test_an_address_that_is_not_in_the_certificate(secured: World) -> None:
    kim = credentials(secured, secured.user("kim", "reader"))
    client = Client(Endpoint("127.0.0.2", secured.address[1], secure=True), credentials=kim)
    with contextlib.closing(client), pytest.raises(Unreachable, match="the API's certificate is for other addresses"):
        client.machines()


def test_no_way_between_plain_and_tls(secured: World, fleetctl: Fleetctl) -> None:
    kim = credentials(secured, secured.user("kim", "operator"))
    plain = url(secured).replace("https", "http")
    said = fleetctl("--endpoint", plain, "list-machines")
    assert (said.code, said.out) == (1, "")
    assert "this port speaks TLS: write https://" in said.err
    with socket.create_server(("127.0.0.1", 0)) as listening:
        api = ApiServer(secured.registry, sockets=[listening])
        api.start()
        here = "https://{}:{}".format(*listening.getsockname())
        said = fleetctl("--endpoint", here, *flags(kim), "list-machines")
        api.stop()
    assert (said.code, said.out) == (1, "")
    assert "this port speaks no TLS" in said.err
    for arguments, message in (
        (["--endpoint", plain, *flags(kim)], "there are certificates, and the endpoint is plain HTTP"),
        (["--endpoint", url(secured)], "the API shows a certificate and asks for one"),
        (["--endpoint", url(secured), *flags(kim)[:2]], "give all three of --ca-file, --cert-file and --key-file"),
        (["--endpoint", ","], "no endpoint"),
    ):
        said = fleetctl(*arguments, "list-machines")
        assert (said.code, message in said.err) == (2, True), said
    for files in (kim._replace(key="/nonexistent"), kim._replace(certificate=kim.key), kim._replace(authority=kim.key)):
        said = fleetctl("--endpoint", url(secured), *flags(files), "list-machines")
        assert (said.code, "cannot be used: " in said.err) == (1, True), said
        assert "PRIVATE" not in said.err


class Flaky:
    """A server that answers each connection with the next of some raw texts, or hangs up after it has read."""

    def __init__(self, *answers: bytes) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.seen: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(*self.listening.getsockname())

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        for each in answers:
            connection, _ = self.listening.accept()
            with connection:
                self.seen.append(connection.recv(65536))
                connection.sendall(each)

    def close(self) -> None:
        self._thread.join(60)
        self.listening.close()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


AWAY = answer(b'{"error": {"code": 503, "message": "no etcd"}}', "503 Service Unavailable")
GOOD = answer(b'{"machines": [{"id": "a"}]}')


class TestSeveral:
    """Endpoints of one cluster."""

    def test_one_that_refuses_one_without_etcd_and_one_that_answers(self) -> None:
        away, good = Flaky(AWAY), Flaky(GOOD, GOOD)
        nothing = Endpoint("127.0.0.1", free_ports(1)[0])
        with contextlib.closing(Client(nothing, away.endpoint, good.endpoint)) as client:
            assert [each.id for each in client.machines()] == ["a"]
            assert client.endpoint == good.endpoint
            assert [each.id for each in client.machines()] == ["a"], "it stays with the one that answers"
        away.close()
        good.close()
        assert len(away.seen) == 1

    def test_none(self) -> None:
        ports = free_ports(2)
        with contextlib.closing(Client(*(Endpoint("127.0.0.1", port) for port in ports))) as client:
            with pytest.raises(Unreachable, match="no endpoint answers:") as caught:
                client.machines()
            for port in ports:
                assert f"http://127.0.0.1:{port}: cannot talk to the fleet API" in str(caught.value)

    def test_none_has_etcd(self) -> None:
        servers = [Flaky(AWAY), Flaky(AWAY)]
        with contextlib.closing(Client(*(each.endpoint for each in servers))) as client:
            with pytest.raises(ApiError, match="no endpoint can answer now") as caught:
                client.machines()
            assert caught.value.status == http.client.SERVICE_UNAVAILABLE
        for each in servers:
            each.close()

    @pytest.mark.parametrize("reply", [b"", AWAY])
    def test_a_change_that_may_have_been_made_is_not_made_again(self, reply: bytes) -> None:
        first, second = Flaky(reply), Flaky()
        with contextlib.closing(Client(first.endpoint, second.endpoint)) as client:
            with pytest.raises((Unreachable, ApiError)) as caught:
                client.ask({"a.service": None}, "launched")
            failure = caught.value
            assert getattr(failure, "maybe_applied", False) or getattr(failure, "status", 0) == 503
        first.close()
        second.close()
        assert second.seen == []

    def test_a_change_that_cannot_have_been_made_is(self) -> None:
        good = Flaky(answer(b"", "204 No Content"))
        with contextlib.closing(Client(Endpoint("127.0.0.1", free_ports(1)[0]), good.endpoint)) as client:
            client.ask({"a.service": None}, "launched")
        good.close()
        assert good.seen[0].startswith(b"POST /fleet/v1/ask ")

    def test_a_node_that_dies_with_a_request(self, secured: World, tmp_path: Path) -> None:
        """Its answer is lost after it was carried out; another one did something else since, which stays."""
        unit = UnitFile.parse(HELLO)
        machines = Flaky(answer(b"{}"), b"")
        ssh = Ssh("core", 1, tmp_path / "known_hosts")
        kim = credentials(secured, secured.user("kim", "operator"))
        endpoints = (machines.endpoint, Endpoint.parse(url(secured)))
        said: list[str] = []
        with contextlib.closing(Reach(Settings(endpoints, (), ssh, 60, kim))) as reach:
            session = Session(reach, said.append, sleep=lambda _: None)
            assert session.ask(session.client.machines) == []
            secured.registry.ask({"a.service": (unit, Desired.LAUNCHED)})  # what the dying one did
            before = secured.registry.written
            session.want({"a.service": unit}, "launched")
        machines.close()
        assert machines.seen[1].startswith(b"POST /fleet/v1/ask ")
        assert said, "it says that it waits"
        assert secured.registry.written == before, "and makes nothing again that has been made"


def test_a_list_of_endpoints(tmp_path: Path) -> None:
    files = Credentials("a", "b", "c")
    assert parse_endpoints("https://[fd00::1]:2378, https://h", files) == (
        Endpoint("fd00::1", 2378, secure=True),
        Endpoint("h", 443, secure=True),
    )
    assert [str(each) for each in parse_endpoints("https://[fd00::1]:2378,unix:///x", files)] == [
        "https://[fd00::1]:2378",
        "unix:///x",
    ]
    with pytest.raises(UsageFailure, match="no endpoint"):
        parse_endpoints("", files)


def test_tls_13_only(secured: World) -> None:
    context = credentials(secured, secured.user("kim", "reader")).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
