"""A real etcd with the certificates of a node that enrolled: what is renewed and revoked counts without a restart."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509

import trust
from enrolment import node
from enrolment.keeper import Keeper
from etcd import Client, Untrusted
from tests.conftest import EtcdProcess
from tests.eventually import eventually
from tests.ports import free_ports
from tests.trust import issuing
from tests.trust.issuing import serving
from tests.trust.test_etcd import client_of, options_of

pytestmark = pytest.mark.etcd


def shown(port: int, folder: Path) -> int:
    """The serial of the certificate that a server shows to the node of this folder."""
    context = client_of(folder).context()
    with closing(context.wrap_socket(socket.socket(), server_hostname="127.0.0.1")) as connection:
        connection.connect(("127.0.0.1", port))
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number


def test_etcd_goes_on_with_what_is_renewed_and_without_who_was_revoked(
    tmp_path: Path, make_etcd: Callable[[str], EtcdProcess]
) -> None:
    places = [issuing.node(tmp_path, name) for name in ("one", "two")]
    with serving(tmp_path / "lab") as lab:
        secret = lab.secret(uses=2)
        for number, each in enumerate(places, 1):
            node.enrol(each, lab.orders(secret, f"10.0.0.{number}"), f"node-{number}")
        one, two = (each.link for each in places)
        server, (port,) = make_etcd("https"), free_ports(1)
        server.start(*options_of(one, server, port))
        endpoint = f"https://127.0.0.1:{port}"
        with closing(Client([endpoint], tls=client_of(two))) as client:
            eventually(client.health, server.log)
            client.put("a", b"1")
        before = shown(port, two)
        node.renew(places[0])
        after = shown(port, two)
        assert after != before
        assert after == x509.load_pem_x509_certificate((one / "etcd-server.crt").read_bytes()).serial_number
        trust.revoke(lab.path, "node-2", node=True)
        Keeper(places[0], lambda _: None, run=lambda _: None, orders=tmp_path / "none").step()
        with closing(Client([endpoint], tls=client_of(two), timeout=20)) as client, pytest.raises(Untrusted):
            client.put("a", b"2")
        with closing(Client([endpoint], tls=client_of(one))) as client:
            client.put("a", b"3")
