"""What is issued, as openssl and Python's TLS see it: neither shares code with what made it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

import trust
from terminal import Failure, UsageFailure
from trust import certificate, profile

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)


def written(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def verify(folder: Path, authority: str, leaf: str, *options: str) -> str:
    """What openssl says about ``leaf`` below ``authority``; strictly, and with the list of what is revoked."""
    words = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", f"{folder}/{authority}-ca.crt"]
    words += ["-CRLfile", f"{folder}/{authority}.crl", *options, f"{folder}/{leaf}.crt"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("leaf", "authority", "server", "client"),
    [
        ("etcd-peer", "etcd-peers", True, True),
        ("etcd-server", "etcd-clients", True, True),
        ("etcd-client", "etcd-clients", False, True),
        ("fleet-server", "fleet", True, False),
    ],
)
def test_a_node_has_one_for_each_purpose(
    lab: Path, tmp_path: Path, leaf: str, authority: str, server: bool, client: bool
) -> None:
    node = written(tmp_path / "node", trust.issue_node(lab, "node-1", ["10.0.0.1", "fd00::1"]).files)
    for purpose, is_for_it in (("sslserver", server), ("sslclient", client)):
        found = verify(node, authority, leaf, "-purpose", purpose)
        assert (found == f"{leaf}.crt: OK\n") == is_for_it, found
    for other in {"etcd-peers", "etcd-clients", "fleet"} - {authority}:
        assert "unable to get local issuer" in verify(node, other, leaf)


def test_the_names_of_a_node(lab: Path) -> None:
    files = trust.issue_node(lab, "Node-1", ["10.0.0.1", "n1.example.net", "fd00::1", "node-1"]).files
    own = {"node-1", "n1.example.net", ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")}
    local = {"localhost", ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    for leaf, expected in (("etcd-peer", own), ("etcd-server", own | local), ("fleet-server", own | local)):
        found = x509.load_pem_x509_certificate(files[f"{leaf}.crt"].encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        values = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress)]
        assert set(values) == expected
        assert len(values) == len(expected)
        assert found.subject.rfc4514_string() == "CN=node-1,O=node"
    client = x509.load_pem_x509_certificate(files["etcd-client.crt"].encode())
    with pytest.raises(x509.ExtensionNotFound):
        client.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_user_is_a_client_of_fleet_alone(lab: Path) -> None:
    kim = trust.issue_user(lab, "kim", "reader")
    assert sorted(kim.files) == ["fleet-ca.crt", "fleet-client.crt", "fleet-client.key", "fleet.crl"]
    found = x509.load_pem_x509_certificate(kim.files["fleet-client.crt"].encode())
    assert found.subject.rfc4514_string() == "CN=kim,O=reader"
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    lee = trust.issue_user(lab, "lee", "operator", etcd=True)
    assert sorted(set(lee.files) - set(kim.files)) == ["etcd-client.crt", "etcd-client.key", "etcd-clients-ca.crt", "etcd-clients.crl"]  # fmt: skip
    with pytest.raises(UsageFailure, match="reader gets no certificate for etcd"):
        trust.issue_user(lab, "kim", "reader", etcd=True)


def test_every_file_is_what_its_name_says_and_each_key_fits(lab: Path, tmp_path: Path) -> None:
    node = written(tmp_path / "node", trust.issue_node(lab, "node-1", ["10.0.0.1"]).files)
    for one in profile.NODE:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(node / f"{one.name}.crt", node / f"{one.name}.key")
    assert len({(node / f"{one.name}.key").read_text() for one in profile.NODE}) == len(profile.NODE)
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in profile.AUTHORITIES:
        strict.load_verify_locations(node / f"{name}-ca.crt")
        strict.load_verify_locations(node / f"{name}.crl")
    assert len(strict.get_ca_certs()) == 3


@pytest.mark.parametrize(
    ("moment", "verdict"),
    [
        (datetime.datetime(2019, 12, 31, tzinfo=datetime.UTC), "not yet valid"),
        (datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), "OK"),
        (NOW, "OK"),
        (NOW + datetime.timedelta(729), "OK"),
        (NOW + datetime.timedelta(731), "has expired"),
    ],
)
def test_a_clock_that_is_years_behind_locks_no_node_out(
    tmp_path: Path, moment: datetime.datetime, verdict: str
) -> None:
    trust.create(tmp_path / "lab", now=NOW)
    node = written(tmp_path / "node", trust.issue_node(tmp_path / "lab", "node-1", ["10.0.0.1"], now=NOW).files)
    assert verdict in verify(node, "etcd-peers", "etcd-peer", "-attime", str(int(moment.timestamp())))


def test_none_outlives_its_authority(tmp_path: Path) -> None:
    trust.create(tmp_path / "lab", now=NOW)
    late = NOW + datetime.timedelta(profile.AUTHORITY_DAYS - 10)
    ends = trust.issue_node(tmp_path / "lab", "node-1", ["10.0.0.1"], now=late).not_after
    assert ends == NOW + datetime.timedelta(profile.AUTHORITY_DAYS)
    with pytest.raises(Failure, match=r"etcd-peers-ca\.crt: this authority expired on 2036-11-26"):
        trust.issue_node(tmp_path / "lab", "node-1", ["10.0.0.1"], now=ends)


def test_serials_are_large_and_differ(lab: Path) -> None:
    serials = set()
    for number in range(5):
        files = trust.issue_node(lab, f"node-{number}", ["10.0.0.1"]).files
        serials |= {int(certificate.facts(text).serial, 16) for name, text in files.items() if name.endswith(".crt")}
    assert len(serials) == 5 * 4 + 3
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serials) > 1 << 150


def test_a_key_is_in_no_text_that_python_prints(lab: Path) -> None:
    kim = trust.issue_user(lab, "kim", "reader")
    assert "PRIVATE" not in repr(kim)
    pair = certificate.KeyPair("", kim.files["fleet-client.key"])
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no certificate of an authority in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate of an authority in PEM"),
        ("leaf", "no authority's"),
        ("other", "the key belongs to another certificate"),
    ],
)
def test_what_is_no_authority(lab: Path, text: str, message: str) -> None:
    known = {"leaf": trust.issue_user(lab, "kim", "reader").files["fleet-client.crt"]}
    known["other"] = (lab / "etcd-peers-ca.crt").read_text()
    with pytest.raises(Failure, match=message):
        certificate.Authority.parse(known.get(text, text), (lab / "fleet-ca.key").read_text())


@pytest.mark.parametrize("key", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key(lab: Path, key: str) -> None:
    with pytest.raises(Failure, match="no private key"):
        certificate.Authority.parse((lab / "fleet-ca.crt").read_text(), key)


def test_a_clock_that_lost_its_time_makes_nothing(tmp_path: Path) -> None:
    lost = datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)
    with pytest.raises(Failure, match="1970-01-02: the clock of this computer is wrong"):
        trust.create(tmp_path / "lab", now=lost)
    assert not (tmp_path / "lab").exists()
    trust.create(tmp_path / "lab", now=NOW)
    before = (tmp_path / "lab" / "trust.json").read_bytes()
    with pytest.raises(Failure, match="1970-01-02: the clock of this computer is wrong"):
        trust.issue_user(tmp_path / "lab", "kim", "reader", now=lost)
    assert (tmp_path / "lab" / "trust.json").read_bytes() == before
