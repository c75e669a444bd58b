"""The API over mutual TLS, as a node opens it: who is let in, what his role lets him do, and what the others hear.

Real sockets, certificates of ``trust``, and once ``openssl`` and a real etcd.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import pwd
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trust
from etcd import Client, Tls
from etcd.fake import FakeEtcd
from firewall import ruleset
from fleet.api import doors
from fleet.api.server import ApiServer
from fleet.model.registry import Registry
from tests import trusted
from tests.eventually import eventually
from tests.fleet.secured import DAY, NOW, World, asked
from trust import certificate
from webserver.unix import UnixConnection

BODY = '{"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}], "desiredState": "launched"}'


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path, Registry(FakeEtcd()))
    yield one
    one.server.stop()


def test_an_operator_changes_units_and_the_journal_says_who(world: World, caplog: pytest.LogCaptureFixture) -> None:
    kim = world.user("kim", "operator")
    with caplog.at_level(logging.INFO):
        assert world.ask(kim, "PUT", "units/a.service", BODY) == (201, None)
        assert world.ask(kim, "POST", "ask", '{"units": [{"name": "a.service", "desiredState": "loaded"}]}') == (
            204,
            None,
        )
        assert world.ask(kim, "DELETE", "units/a.service") == (204, None)
        assert world.ask(kim) == (200, {})
    serial = certificate.facts((kim / "fleet-client.crt").read_text()).serial
    who = f"kim (operator, certificate {serial}, from 127.0.0.1)"
    assert [record.getMessage() for record in caplog.records if record.name == "fleet.api.handlers"] == [
        f"{who} gives a.service its text, and wants it launched",
        f"{who} wants a.service loaded",
        f"{who} destroys a.service",
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "units/a.service", BODY),
        ("DELETE", "units/b.service", None),
        ("POST", "ask", '{"units": [{"name": "b.service", "desiredState": "inactive"}]}'),
        ("PATCH", "machines", "[]"),
        ("DELETE", "units/progress", None),
        ("BREW", "units", None),
    ],
)
def test_a_reader_reads_and_changes_nothing(world: World, method: str, path: str, body: str | None) -> None:
    world.ask(world.user("kim", "operator"), "PUT", "units/b.service", BODY)
    lee = world.user("lee", "reader")
    for look in ("machines", "units", "units/b.service", "state", "why/b.service"):
        assert world.ask(lee, "GET", look)[0] == 200, look
    assert world.ask(lee, "POST", "progress", '{"units": [{"name": "b.service"}]}')[0] == 200
    before = world.registry.units()
    status, answer = world.ask(lee, method, path, body)
    if method == "BREW":
        assert status == 501
    else:
        assert (status, answer["error"]["message"]) == (403, "lee is a reader, and changes nothing")
        assert "--role operator" in answer["error"]["hint"]
    assert world.registry.units() == before


@pytest.mark.parametrize("role", ["node", "root", "Operator"])
def test_another_role_is_none(world: World, role: str) -> None:
    shown = world.made("kim", role)
    for method, body in (("GET", None), ("PUT", BODY)):
        status, answer = world.ask(shown, method, "units/a.service", body)
        assert (status, answer["error"]["message"]) == (
            403,
            f"kim has the role {role!r}, and this API knows reader and operator only",
        )


def test_a_node_is_no_user(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It has a server's certificate of this authority, and needs none to ask: it has the socket."""
    with (
        pytest.raises(ssl.SSLError, match="UNSUPPORTED_CERTIFICATE"),
        world.connected(world.context(world.node, "fleet-server")) as connection,
    ):
        asked(connection, "GET", "units")
    eventually(lambda: "refuses 127.0.0.1: its certificate is not one of a client" in caplog.text)


REFUSED: dict[str, tuple[Callable[[World], tuple[Path | None, str]], str, str]] = {
    "none": (lambda w: (None, ""), "CERTIFICATE_REQUIRED", "it shows no certificate"),
    "a peer's of etcd": (lambda w: (w.node, "etcd-peer"), "UNKNOWN_CA", "of an authority that this API does not know"),
    "a client's of etcd": (
        lambda w: (w.node, "etcd-client"),
        "UNKNOWN_CA",
        "of an authority that this API does not know",
    ),
    "another cluster's": (
        lambda w: (w.user("kim", "operator", w.root / "elsewhere" / "authorities"), "fleet-client"),
        "UNKNOWN_CA",
        "of an authority that this API does not know",
    ),
    "expired": (
        lambda w: (w.made("kim", "operator", not_after=NOW - DAY), "fleet-client"),
        "CERTIFICATE_EXPIRED",
        "its certificate has expired",
    ),
    "not valid yet": (
        lambda w: (w.made("kim", "operator", not_before=NOW + DAY, not_after=NOW + 2 * DAY), "fleet-client"),
        "BAD_CERTIFICATE",
        "its certificate is not valid yet",
    ),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("who", REFUSED)
def test_who_is_refused_hears_why_and_so_does_the_journal(
    world: World, who: str, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    shown, alert, reason = REFUSED[who]
    path, leaf = shown(world)
    context = world.context(path, leaf)
    context.maximum_version = version
    if version == ssl.TLSVersion.TLSv1_2 and path is None:
        alert = "HANDSHAKE_FAILURE"  # it has no alert of its own for that
    for method, body in (("GET", None), ("PUT", BODY)):
        with pytest.raises(ssl.SSLError, match=alert), world.connected(context) as connection:
            asked(connection, method, "units/a.service", body)
    eventually(lambda: reason in caplog.text)
    assert caplog.text.count(reason) == 1, "a minute's worth of the same is one line"
    assert world.registry.units() == []


def test_revoked_at_once_also_on_a_connection_that_is_open(world: World, caplog: pytest.LogCaptureFixture) -> None:
    kim, lee = world.user("kim", "operator"), world.user("lee", "operator")
    with world.connected(world.context(kim)) as open_one, world.connected(world.context(lee)) as innocent:
        for each in (open_one, innocent):
            assert asked(each, "GET", "units")[0] == 200
        trust.revoke(world.lab, "kim", node=False)
        (world.node / "fleet.crl.new").write_text((world.lab / "fleet.crl").read_text())
        (world.node / "fleet.crl.new").replace(world.node / "fleet.crl")
        for each in (open_one, innocent):
            status, answer = asked(each, "PUT", "units/a.service", BODY)
            assert status == 503
            assert "nothing was done: connect again" in answer["error"]["message"]
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
            asked(open_one, "PUT", "units/a.service", BODY)
        assert world.registry.units() == []
        assert asked(innocent, "PUT", "units/a.service", BODY)[0] == 201
    eventually(lambda: "its certificate was revoked" in caplog.text)


def test_plain_http_is_answered_and_not_served(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(http.client.HTTPConnection(*world.address, timeout=60)) as connection:
        status, answer = asked(connection, "PUT", "units/a.service", BODY)
    assert (status, answer["error"]["message"][:28]) == (400, "this port speaks TLS: write ")
    assert world.registry.units() == []
    assert "refuses 127.0.0.1: it speaks plain HTTP, and this port TLS" in caplog.text


def test_what_speaks_no_tls(world: World) -> None:
    with socket.create_connection(world.address, timeout=60) as connection:
        connection.sendall(b"\0\1\2\3" * 10)
        assert b"HTTP" not in connection.recv(100)


def test_the_originals_tls(world: World) -> None:
    """Go 1.7 of 2016: TLS 1.2, with ECDHE and AES in GCM."""
    kim = world.user("kim", "reader")
    made = subprocess.run(
        [
            *("openssl", "s_client", "-connect", "{}:{}".format(*world.address), "-tls1_2", "-quiet", "-ign_eof"),
            *("-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-verify_return_error", "-verify_ip", "127.0.0.1"),
            *("-CAfile", kim / "fleet-ca.crt", "-cert", kim / "fleet-client.crt", "-key", kim / "fleet-client.key"),
        ],
        input=b"GET /fleet/v1/machines HTTP/1.0\r\n\r\n",
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert made.stdout.startswith(b"HTTP/1.1 200 OK"), made.stderr


def test_renewed_certificates_need_no_restart(world: World, caplog: pytest.LogCaptureFixture) -> None:
    kim = world.user("kim", "reader")

    def serial() -> str:
        with world.connected(world.context(kim)) as connection:
            asked(connection, "GET", "units")
            shown = connection.sock.getpeercert() if isinstance(connection.sock, ssl.SSLSocket) else None
            return f"{int(str((shown or {})['serialNumber']), 16):x}"

    first = serial()
    renewed = trust.renew(world.lab, "node-1", node=True).files
    (world.node / "fleet-server.crt").write_text(renewed["fleet-server.crt"])
    assert serial() == first, "the key is still another's, and the old pair goes on"
    assert "these certificates cannot be used: key values mismatch" in caplog.text
    (world.node / "fleet-server.key").write_text(renewed["fleet-server.key"])
    assert serial() == certificate.facts(renewed["fleet-server.crt"]).serial != first


def test_a_node_whose_files_come_later_is_closed_until_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No part of the certificates is a reason for plain text."""
    whole = trusted.node(tmp_path)
    missing = whole / "fleet.crl"
    text = missing.read_text()
    missing.unlink()
    tls = doors.own(whole)
    assert tls is not None
    (door,) = doors.opened(["https://127.0.0.1:0"], "", [], tls)
    assert "these certificates cannot be used: fleet.crl: No such file" in caplog.text
    address = door.listening.getsockname()
    api = ApiServer(Registry(FakeEtcd()), sockets=[door])
    api.start()
    try:
        with socket.create_connection(address, timeout=60) as connection:
            assert connection.recv(1) == b""
        missing.write_text(text)
        kim = trusted.laid(tmp_path / "kim", trust.issue_user(tmp_path / "authorities", "kim", "reader"))
        context = ssl.create_default_context(cafile=str(kim / "fleet-ca.crt"))
        context.check_hostname = False
        context.load_cert_chain(kim / "fleet-client.crt", kim / "fleet-client.key")
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", address[1], timeout=60, context=context)
        ) as client:
            assert asked(client, "GET", "units")[0] == 200
    finally:
        api.stop()


class TestDoors:
    """Where it listens."""

    def test_usual(self, tmp_path: Path) -> None:
        assert doors.PORT == ruleset.FLEET_API
        assert doors.own(tmp_path) is None
        assert doors.opened(None, "127.0.0.1", []) == [], "without certificates there is no port"

    def test_an_address_that_comes_later(self, tmp_path: Path) -> None:
        """IPv4 and IPv6; the port is the usual one."""
        tls = doors.own(trusted.node(tmp_path))
        own = os.getpid() % 250 + 1  # other runs listen there as well
        for address in (f"192.0.2.{own}", f"2001:db8::{own:x}"):
            (door,) = doors.opened(None, address, [], tls)
            with door.listening:
                assert door.listening.getsockname()[:2] == (address, doors.PORT)
                assert door.tls is tls

    def test_a_socket_of_systemds_speaks_tls_where_the_node_can(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tls = doors.own(trusted.node(tmp_path))
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            assert doors.opened([], "", [tcp, unix], tls) == [(tcp, tls), (unix, None)]
            assert caplog.text == ""
            assert doors.opened([], "", [tcp, unix]) == [(tcp, None), (unix, None)]
            assert "plain TCP at 127.0.0.1: whoever reaches it is root" in caplog.text

    def test_plain_only_where_that_is_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (door,) = doors.opened(["http://127.0.0.1:0"], "", [], doors.own(trusted.node(tmp_path)))
        with door.listening:
            assert door.tls is None
            assert "plain TCP at 127.0.0.1" in caplog.text

    def test_what_cannot_be_opened_ends_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            urls = [f"https://127.0.0.1:{port}", "https://127.0.0.1:0"]
            (door,) = doors.opened(urls, "", [], doors.own(trusted.node(tmp_path)))
            door.listening.close()
            assert f"https://127.0.0.1:{port}: cannot listen" in caplog.text
            assert doors.opened(["https://127.0.0.1:0"], "", []) == []
            assert "there are no certificates of fleet's authority" in caplog.text


def test_the_socket_knows_its_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "api"))
    listening.listen()
    api = ApiServer(Registry(FakeEtcd()), sockets=[listening])
    api.start()
    try:
        with caplog.at_level(logging.INFO), contextlib.closing(UnixConnection(tmp_path / "api")) as connection:
            assert asked(connection, "PUT", "units/a.service", BODY)[0] == 201
    finally:
        api.stop()
    assert f"{pwd.getpwuid(os.getuid()).pw_name} gives a.service its text" in caplog.text


@pytest.mark.etcd
def test_with_a_real_etcd(tmp_path: Path, make_etcd: Any) -> None:
    """A node's certificates, all of them: etcd takes the API's requests, and the API those of an operator."""
    node = trusted.node(tmp_path, "node-1", "127.0.0.1")
    process = make_etcd("https")
    process.start(
        f"--initial-cluster=default={process.peer}",
        *(f"--cert-file={node}/etcd-server.crt", f"--key-file={node}/etcd-server.key"),
        *(f"--trusted-ca-file={node}/etcd-clients-ca.crt", "--client-cert-auth"),
        *(f"--client-crl-file={node}/etcd-clients.crl", "--tls-min-version=TLS1.3"),
    )
    files = Tls(*(str(node / name) for name in ("etcd-clients-ca.crt", "etcd-client.crt", "etcd-client.key")))
    with contextlib.closing(Client([process.endpoint], tls=files)) as client:
        eventually(client.health, process.log)
        one = World(tmp_path, Registry(client), node)
        try:
            assert one.ask(one.user("kim", "operator"), "PUT", "units/a.service", BODY)[0] == 201
            assert one.ask(one.user("lee", "reader"), "PUT", "units/a.service", BODY)[0] == 403
            assert [unit.name for unit in one.registry.units()] == ["a.service"]
        finally:
            one.server.stop()
