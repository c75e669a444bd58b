"""etcd's settings: what they are without certificates, with them, and with some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovery.settings import Misconfigured, plain, whole
from tests import trusted

NODE = {
    "ETCD_DISCOVERY": "http://10.0.2.100:7379/0123456789abcdef0123456789abcdef",
    "ETCD_INITIAL_ADVERTISE_PEER_URLS": "https://10.77.0.11:2380",
    "ETCD_LISTEN_PEER_URLS": "https://10.77.0.11:2380",
    "ETCD_LISTEN_CLIENT_URLS": "https://127.0.0.1:2379,https://10.77.0.11:2379",
    "ETCD_ADVERTISE_CLIENT_URLS": "https://10.77.0.11:2379",
}


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """The folder of a node that has all of them."""
    return trusted.node(tmp_path)


def test_without_certificates_it_is_what_it_was(tmp_path: Path) -> None:
    found = whole({"ETCD_NAME": "", "PATH": ""}, "node-1", tmp_path)
    assert found == {
        "PATH": "",
        "ETCD_NAME": "node-1",
        "ETCD_DATA_DIR": "/var/lib/etcd/data",
        "ETCD_LISTEN_CLIENT_URLS": "http://127.0.0.1:2379",
        "ETCD_ADVERTISE_CLIENT_URLS": "http://127.0.0.1:2379",
    }
    assert "plain HTTP from clients:" in plain(found)
    assert "clients and members:" in plain({**found, "ETCD_LISTEN_PEER_URLS": "http://10.77.0.11:2380"})


def test_certificates_make_it_demand_those_of_the_others(certificates: Path) -> None:
    found = whole(NODE, "node-1", certificates)
    assert found | NODE == found, "what user-data says stays"
    for prefix, leaf, authority, revoked in (
        ("ETCD_", "etcd-server", "etcd-clients", "ETCD_CLIENT_CRL_FILE"),
        ("ETCD_PEER_", "etcd-peer", "etcd-peers", "ETCD_PEER_CRL_FILE"),
    ):
        assert found[f"{prefix}CERT_FILE"] == f"{certificates}/{leaf}.crt"
        assert found[f"{prefix}KEY_FILE"] == f"{certificates}/{leaf}.key"
        assert found[f"{prefix}TRUSTED_CA_FILE"] == f"{certificates}/{authority}-ca.crt"
        assert found[revoked] == f"{certificates}/{authority}.crl"
        assert found[f"{prefix}CLIENT_CERT_AUTH"] == "true"
    assert found["ETCD_TLS_MIN_VERSION"] == "TLS1.3"
    assert plain(found) == ""


def test_one_member_alone_without_any_setting(certificates: Path) -> None:
    found = whole({}, "node-1", certificates)
    assert found["ETCD_LISTEN_CLIENT_URLS"] == found["ETCD_ADVERTISE_CLIENT_URLS"] == "https://127.0.0.1:2379"
    assert found["ETCD_INITIAL_CLUSTER"] == f"node-1={found['ETCD_LISTEN_PEER_URLS']}"
    assert plain(found) == ""


@pytest.mark.parametrize("name", [name for name in NODE if name != "ETCD_DISCOVERY"])
def test_certificates_and_plain_http_do_not_go_together(certificates: Path, name: str) -> None:
    """One plain address beside the others would be the way in."""
    with pytest.raises(Misconfigured, match=r"plain HTTP with (clients|members)") as refused:
        whole(NODE | {name: f"https://10.77.0.11:1,{NODE[name].replace('https', 'http')}"}, "node-1", certificates)
    assert name in (refused.value.where or "")
    assert "https://" in (refused.value.hint or "")
    assert refused.value.exit_code == 78


def test_a_static_cluster_is_looked_through(certificates: Path) -> None:
    cluster = {"ETCD_INITIAL_CLUSTER": "node-1=https://10.77.0.11:2380,node-2=http://10.77.0.12:2380"}
    with pytest.raises(Misconfigured, match="members"):
        whole(cluster, "node-1", certificates)


@pytest.mark.parametrize("gone", ["etcd-peer.key", "etcd-server.crt", "etcd-clients-ca.crt", "etcd-peers.crl"])
def test_some_certificates_are_not_a_reason_for_plain_text(certificates: Path, gone: str) -> None:
    (certificates / gone).unlink()
    with pytest.raises(Misconfigured, match=gone):
        whole({}, "node-1", certificates)


def test_tls_of_user_datas_own_is_its_own(certificates: Path) -> None:
    own = {"ETCD_CERT_FILE": "/etc/own.crt", "ETCD_KEY_FILE": "/etc/own.key"}
    found = whole(NODE | own, "node-1", certificates)
    assert found | own == found
    assert "ETCD_TRUSTED_CA_FILE" not in found
    assert found["ETCD_PEER_TRUSTED_CA_FILE"], "the other side keeps that of the node"
