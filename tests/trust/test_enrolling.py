"""An issuer and those who ask it, over real TLS: who gets certificates, for what, and how often; and all who do not."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import trust
from enrolment import keys, protocol
from enrolment.client import Issuer as Contact
from enrolment.client import Refused, Unreachable
from enrolment.target import checked
from tests.trust.issuing import DAY, HOUR, Asking, Lab, serving
from trust import certificate, folder, issuer, ledger, overview, profile

PEM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with serving(tmp_path_factory.mktemp("issuer") / "lab") as lab:
        yield lab


_numbers = iter(range(1, 200))


@pytest.fixture
def asking(lab: Lab, tmp_path: Path) -> Asking:
    """Of a new node, with a secret for one."""
    number = next(_numbers)
    return Asking(tmp_path, f"node-{number}", lab.secret(), f"10.0.0.{number}")


def used(lab: Lab, secret: str) -> int:
    return {each.id: count for each, count in overview.read(lab.path).secrets}[secret.partition(".")[0]]


def test_a_node_gets_what_a_person_would_issue_for_it_but_for_keys_and_time(lab: Lab, asking: Asking) -> None:
    given = asking.enrol(lab.contact)
    issued = trust.issue_node(lab.path, "other", ["10.0.1.1"]).files
    assert given.files.keys() == {name for name in issued if not name.endswith(".key")}
    name, address = asking.request.name, asking.request.addresses[0]
    for leaf in profile.NODE:
        found, like = (
            x509.load_pem_x509_certificate(files[f"{leaf.name}.crt"].encode()) for files in (given.files, issued)
        )
        assert [each.oid for each in found.extensions] == [each.oid for each in like.extensions]
        usages = [each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value for each in (found, like)]
        assert usages[0] == usages[1]
        requested = x509.load_pem_x509_csr(asking.request.requests[leaf.name].encode())
        assert found.public_key() == requested.public_key()
        assert found.not_valid_before_utc == certificate.NOT_BEFORE
        assert (found.not_valid_after_utc - lab.clock.now).days == profile.ENROLLED_DAYS
        if leaf.serves:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            own = set(names.get_values_for_type(x509.DNSName)) | {*map(str, names.get_values_for_type(x509.IPAddress))}
            assert own - {"localhost", "127.0.0.1", "::1"} == {name, address}
    assert f"enrol of {name} from 127.0.0.1: certificates until {given.not_after}" in lab.said


def test_whoever_asks_again_gets_it_again_and_uses_up_nothing(lab: Lab, asking: Asking) -> None:
    first = asking.enrol(lab.contact)
    lab.clock.now += DAY  # the answer was lost, and the secret has ended
    second = asking.enrol(lab.contact)
    assert first.files["etcd-peer.crt"] != second.files["etcd-peer.crt"]
    assert used(lab, asking.request.secret) == 1


def test_a_secret_is_for_so_many_machines(lab: Lab, tmp_path: Path) -> None:
    secret = lab.secret(uses=2, names=["many-*"], networks=["10.0.2.0/24"])
    for number in (1, 2):
        Asking(tmp_path, f"many-{number}", secret, f"10.0.2.{number}").enrol(lab.contact)
    with pytest.raises(Refused, match=r"the join secret [0-9a-f]{8} is used up") as caught:
        Asking(tmp_path, "many-3", secret, "10.0.2.3").enrol(lab.contact)
    assert "trust secret new" in str(caught.value.hint)
    assert used(lab, secret) == 2


def test_many_at_once_do_not_use_a_secret_too_often(lab: Lab, tmp_path: Path) -> None:
    secret = lab.secret(uses=3, networks=["10.0.3.0/24"])
    asking = [Asking(tmp_path, f"crowd-{number}", secret, f"10.0.3.{number}") for number in range(1, 9)]
    outcomes: list[str] = []

    def enrol(one: Asking) -> None:
        try:
            one.enrol(lab.contact)
            outcomes.append("in")
        except Refused:
            outcomes.append("refused")

    threads = [threading.Thread(target=enrol, args=(each,)) for each in asking]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] * 3 + ["refused"] * 5
    assert used(lab, secret) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lab, secret: lab.clock.__setattr__("now", lab.clock.now + HOUR), "is ended"),
        (lambda lab, secret: issuer.revoke_secret(lab.path, secret), "is revoked"),
    ],
    ids=["ended", "revoked"],
)
def test_a_secret_has_an_end(lab: Lab, asking: Asking, spoil: Any, message: str) -> None:
    spoil(lab, asking.request.secret)
    with pytest.raises(Refused, match=message):
        asking.enrol(lab.contact)
    assert used(lab, asking.request.secret) == 0


@pytest.mark.parametrize("secret", ["", ".", "none", "00000000.", "00000000." + "0" * 32, "\ud800.", "x" * 4096])
def test_a_secret_that_is_none(lab: Lab, asking: Asking, secret: str) -> None:
    right = asking.request.secret
    for wrong in (secret, right[:-1], right + "0", right.partition(".")[0] + "." + secret):
        with pytest.raises(Refused, match=r"the join secret is not one of this issuer's|not the request of a node"):
            asking.enrol(lab.contact, secret=wrong)


def test_another_node_s_name_is_refused_until_that_one_is_revoked(lab: Lab, asking: Asking, tmp_path: Path) -> None:
    name = asking.request.name
    asking.enrol(lab.contact)
    (tmp_path / "b").mkdir()
    second = Asking(tmp_path / "b", name, lab.secret(), asking.request.addresses[0])
    with pytest.raises(Refused, match=f"another machine is called {name}") as caught:
        second.enrol(lab.contact)
    assert f"trust revoke DIR --node {name}" in str(caught.value.hint)
    trust.revoke(lab.path, name, node=True)
    second.enrol(lab.contact)
    # And the first one is no more: neither by its old secret, nor by a new one.
    for action in (asking.renew, asking.enrol, lambda contact: asking.enrol(contact, secret=lab.secret())):
        with pytest.raises(Refused, match=f"the certificates of {name} were revoked"):
            action(lab.contact)


def test_a_name_that_was_rendered_is_another_node_s(lab: Lab, asking: Asking) -> None:
    trust.issue_node(lab.path, asking.request.name, ["10.0.9.9"])
    with pytest.raises(Refused, match="another machine is called"):
        asking.enrol(lab.contact)


def test_another_node_s_address_is_refused_until_its_certificates_end(lab: Lab, asking: Asking, tmp_path: Path) -> None:
    asking.enrol(lab.contact)
    second = Asking(tmp_path, "taker", lab.secret(ttl=100 * DAY), asking.request.addresses[0])
    with pytest.raises(Refused, match=f"is the address of {asking.request.name}"):
        second.enrol(lab.contact)
    before = lab.clock.now
    try:
        lab.clock.now += 91 * DAY
        second.enrol(lab.contact)
        with pytest.raises(Refused, match="is the address of taker"):
            asking.renew(lab.contact)
    finally:
        lab.clock.now = before
        trust.revoke(lab.path, "taker", node=True)


def test_without_networks_a_node_gets_the_address_that_it_asks_from(lab: Lab, tmp_path: Path) -> None:
    asking = Asking(tmp_path, "lonely", lab.secret(networks=[]), "10.0.0.250")
    with pytest.raises(Refused, match=r"10.0.0.250 is not an address .*: its request comes from 127.0.0.1") as caught:
        asking.enrol(lab.contact)
    assert "--cidr" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (("10.0.1.1",), "is not an address that this machine may have"),
        (("fd00::1",), "is not an address that this machine may have"),
        (("127.0.0.1",), "others cannot reach it there"),
        (("fe80::1",), "others cannot reach it there"),
        (("node-1.example.net",), "a node gets its own name"),
        (("10.0.0.1/24",), "neither an IP address nor a host name"),
        (("0.0.0.0",), "not the address of one machine"),
        ((), "names no address"),
        (tuple(f"10.0.0.{number}" for number in range(101)), "101 addresses"),
    ],
)
def test_addresses_that_are_not_its_own(lab: Lab, asking: Asking, addresses: tuple[str, ...], message: str) -> None:
    with pytest.raises(Refused, match=message):
        asking.enrol(lab.contact, addresses=addresses)
    assert used(lab, asking.request.secret) == 0


def test_a_secret_may_be_for_some_names_only(lab: Lab, tmp_path: Path) -> None:
    secret = lab.secret(names=["web-*", "db-?"], networks=["10.0.4.0/24"])
    for name in ("web", "db-10", "node-web-1"):
        with pytest.raises(Refused, match=f"not for a node called {name}") as caught:
            Asking(tmp_path, name, secret, "10.0.4.1").enrol(lab.contact)
        assert "web-*, db-?" in str(caught.value.hint)
    Asking(tmp_path, "db-1", secret, "10.0.4.1").enrol(lab.contact)


def test_what_was_said_once_cannot_be_said_again(lab: Lab, asking: Asking) -> None:
    contact = lab.contact
    body = asking.request.__class__(**{**_fields(asking.request), "nonce": contact.nonce()}).dump()
    signature = keys.sign(asking.machine, body)
    contact.post(protocol.ENROL, body, signature)
    for path in (protocol.ENROL, protocol.RENEW):
        with pytest.raises(Refused, match="made too long ago, or before"):
            contact.post(path, body, signature)
    for nonce in ("", "a.b.c", contact.nonce()[:-1], "\ud800", "0" * 4000):
        with pytest.raises(Refused, match="made too long ago, or before"):
            asking.enrol(contact, nonce=nonce)


def _fields(request: protocol.Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__dataclass_fields__}


def _csr(name: str, key: Any = None, extension: x509.ExtensionType | None = None, **others: str) -> str:
    subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
    subject += [x509.NameAttribute(getattr(x509.NameOID, oid), text) for oid, text in others.items()]
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    from cryptography.hazmat.primitives.hashes import SHA256

    return builder.sign(key or certificate.new_key(), SHA256()).public_bytes(Encoding.PEM).decode()


def _damaged(text: str) -> str:
    """The request, whose signature is not its key's."""
    der = bytearray(x509.load_pem_x509_csr(text.encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE-", "CERTIFICATE REQUEST-")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda name: "", "not a request for a certificate"),
        (
            lambda name: "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
            "not a request",
        ),
        (lambda name: _csr(name, rsa.generate_private_key(65537, 2048)), "is not ECDSA over P-256"),
        (lambda name: _csr(name, ec.generate_private_key(ec.SECP384R1())), "is not ECDSA over P-256"),
        (lambda name: _csr("node-other"), "is not for .* alone"),
        (lambda name: _csr(name, ORGANIZATION_NAME="operator"), "is not for .* alone"),
        (lambda name: _csr(name, COMMON_NAME="issuer"), "is not for .* alone"),
        (lambda name: _csr(name, extension=x509.SubjectAlternativeName([x509.DNSName("x")])), "names what the"),
        (lambda name: _csr(name, extension=x509.BasicConstraints(ca=True, path_length=None)), "names what the"),
        (lambda name: _damaged(_csr(name)), "not signed by the key in it"),
        (lambda name: _csr(name) + "x" * 4096, "not a node's request|not the request of a node"),
    ],
    ids=["none", "broken", "rsa", "p384", "name", "role", "two names", "names", "authority", "signature", "large"],
)
def test_a_request_for_something_else(lab: Lab, asking: Asking, made: Any, message: str) -> None:
    requests = {**asking.request.requests, "etcd-server": made(asking.request.name)}
    with pytest.raises(Refused, match=message):
        asking.enrol(lab.contact, requests=requests)
    assert used(lab, asking.request.secret) == 0


def test_keys_that_are_there_twice_or_missing_or_of_others(lab: Lab, asking: Asking, tmp_path: Path) -> None:
    requests = asking.request.requests
    twice = {**requests, "etcd-server": requests["etcd-peer"]}
    fewer = {name: text for name, text in requests.items() if name != "etcd-peer"}
    more = {**requests, "fleet-client": _csr(asking.request.name)}
    for wrong, message in ((twice, "same key"), (fewer, "not for a node's"), (more, "not for a node's")):
        with pytest.raises(Refused, match=message):
            asking.enrol(lab.contact, requests=wrong)
    stranger = Asking(tmp_path, "stranger")
    with pytest.raises(Refused, match="not signed by the machine key in it"):
        asking.enrol(lab.contact, machine=stranger.request.machine)
    large = rsa.generate_private_key(65537, 2048).public_key().public_bytes(*PEM).decode()
    for wrong_key in (large, "", "-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(Refused, match="the machine key is"):
            asking.enrol(lab.contact, machine=wrong_key)
    assert used(lab, asking.request.secret) == 0


def test_a_machine_keeps_its_name(lab: Lab, asking: Asking, tmp_path: Path) -> None:
    name = asking.request.name
    asking.enrol(lab.contact)
    renamed = Asking(tmp_path, "renamed", lab.secret(), "10.0.0.249")
    renamed.machine.write_text(asking.machine.read_text())
    for action in (renamed.enrol, renamed.renew):
        with pytest.raises(Refused, match=f"known as {name}, and asks for renamed"):
            action(lab.contact, machine=asking.request.machine)


def test_it_renews_by_its_machine_key_400_days_later(lab: Lab, asking: Asking) -> None:
    given = asking.enrol(lab.contact)
    before = lab.clock.now
    try:
        lab.clock.now += 400 * DAY
        assert {one.state(lab.clock.now) for one in overview.read(lab.path).issued} <= {"expired", "revoked", "valid"}
        renewed = asking.renew(lab.contact)
        assert renewed.files["etcd-peer.crt"] != given.files["etcd-peer.crt"]
        assert renewed.not_after == ledger.stamp(lab.clock.now + profile.ENROLLED_DAYS * DAY)
    finally:
        lab.clock.now = before


def test_a_machine_that_is_unknown_renews_nothing(lab: Lab, asking: Asking) -> None:
    with pytest.raises(Refused, match="does not know this machine") as caught:
        asking.renew(lab.contact)
    assert "join secret" in str(caught.value.hint)


def test_who_asks_without_end_is_stopped(lab: Lab, asking: Asking) -> None:
    asking.enrol(lab.contact)
    before = lab.clock.now
    try:
        with pytest.raises(Unreachable, match="too often today"):
            for _ in range(30):
                lab.clock.now += HOUR / 60
                asking.renew(lab.contact)
        with folder.opened(lab.path, to_write=False) as store:
            assert len(store.ledger.of(asking.request.name, node=True)) == 24 * len(profile.NODE)
        lab.clock.now += DAY
        asking.renew(lab.contact)
    finally:
        lab.clock.now = before


# --- the connection --------------------------------------------------------------------------------------------------


def test_another_fingerprint(lab: Lab) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(Exception, match=f"fingerprint is {lab.issuer.fingerprint}") as caught:
        Contact(checked(lab.url, wrong)).nonce()
    assert wrong in str(caught.value.hint)  # type: ignore[attr-defined]


def test_a_name_that_the_issuer_has_not(lab: Lab) -> None:
    with pytest.raises(Exception, match=r"certificate is not accepted: .*localhost"):
        Contact(checked(f"https://localhost:{lab.issuer.port}", lab.issuer.fingerprint)).nonce()


def test_a_node_s_own_certificate_makes_no_issuer(lab: Lab, tmp_path: Path) -> None:
    """Its authority is the right one, its address, too, and even its key is in use."""
    files = trust.issue_node(lab.path, "poser", ["127.0.0.1"]).files
    (tmp_path / "pair.pem").write_text(files["fleet-server.key"] + files["fleet-server.crt"])
    authority = (lab.path / "fleet-ca.crt").read_text()
    heard: list[bytes] = []
    with _posing(tmp_path / "pair.pem", authority.encode(), heard) as port:
        contact = Contact(checked(f"https://127.0.0.1:{port}", lab.issuer.fingerprint))
        with pytest.raises(Exception, match="and is no issuer"):
            contact.nonce()
    assert [line.split()[1] for line in heard] == [b"/v1/authority"]
    trust.revoke(lab.path, "poser", node=True)


def _posing(pair: Path, authority: bytes, heard: list[bytes]) -> Any:
    from contextlib import contextmanager

    from webserver.message import Request, Response
    from webserver.server import Server, Site, listen

    @contextmanager
    def running() -> Iterator[int]:
        def handle(request: Request) -> Response:
            heard.append(f"{request.method} {request.target}".encode())
            return Response(200, authority)

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        listening = listen(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
        server = Server(listening, Site(handle=handle, name="poser", log=lambda *_: None), tls=context)
        server.start()
        try:
            yield port
        finally:
            server.stop()

    return running()


def test_nothing_listens_and_no_tls(lab: Lab) -> None:
    from tests.ports import free_ports
    from webserver.message import Response
    from webserver.server import Server, Site, listen

    (free,) = free_ports(1)
    with pytest.raises(Unreachable, match="does not answer"):
        Contact(checked(f"https://127.0.0.1:{free}", lab.issuer.fingerprint)).nonce()
    listening = listen(("127.0.0.1", 0))
    server = Server(listening, Site(handle=lambda _: Response(200), name="plain", log=lambda *_: None))
    server.start()
    try:
        with pytest.raises(Unreachable, match="no TLS connection to the issuer"):
            Contact(checked(f"https://127.0.0.1:{listening.getsockname()[1]}", lab.issuer.fingerprint)).nonce()
    finally:
        server.stop()


def test_it_speaks_tls_1_3_only(lab: Lab) -> None:
    for version, works in (("-tls1_2", False), ("-tls1_3", True)):
        words = ["openssl", "s_client", version, "-connect", f"127.0.0.1:{lab.issuer.port}"]
        done = subprocess.run(words, input=b"", capture_output=True, check=False)
        assert (done.returncode == 0) == works, done.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "signature", "status"),
    [
        ("POST", protocol.ENROL, b"x" * (protocol.REQUEST_BYTES_MAX + 1), "", 413),
        ("POST", protocol.ENROL, b"x", "", 400),
        ("POST", protocol.RENEW, b"{}", "", 400),
        ("POST", protocol.RENEW, b"[" * 10_000, "AAAA", 400),
        ("POST", protocol.ENROL, b"{}", "not base64", 400),
        ("POST", protocol.NONCE, b"", "", 404),
        ("GET", protocol.ENROL, b"", "", 404),
        ("GET", "/../trust.json", b"", "", 404),
        ("GET", "/fleet-ca.key", b"", "", 404),
        ("PUT", protocol.ENROL, b"", "", 501),
    ],
)
def test_what_is_no_request(lab: Lab, method: str, path: str, body: bytes, signature: str, status: int) -> None:
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.load_verify_locations(lab.path / "fleet-ca.crt")
    connection = http.client.HTTPSConnection("127.0.0.1", lab.issuer.port, context=anyone)
    connection.request(method, path, body, {protocol.SIGNATURE: signature})
    response = connection.getresponse()
    text = response.read()
    assert response.status == status
    assert protocol.reason(text)[0]
    connection.close()
    assert b"PRIVATE" not in text
    assert lab.contact.nonce()


@pytest.mark.parametrize("signature", [b"", b"x", b"x" * 1000, base64.b64decode("MAYCAQACAQA=")])
def test_a_signature_that_is_none(lab: Lab, asking: Asking, signature: bytes) -> None:
    contact = lab.contact
    body = asking.request.__class__(**{**_fields(asking.request), "nonce": contact.nonce()}).dump()
    with pytest.raises(Refused, match="not signed by the machine key"):
        contact.post(protocol.ENROL, body, signature)


def test_lists_and_health(lab: Lab, asking: Asking) -> None:
    contact = lab.contact
    tag, lists = contact.lists("")
    assert lists is not None
    assert contact.lists(tag) == (tag, None)
    asking.enrol(contact)
    assert contact.lists(tag) == (tag, None)
    trust.revoke(lab.path, asking.request.name, node=True)
    later, lists = contact.lists(tag)
    assert later != tag
    assert lists is not None
    assert lists.files["fleet.crl"] == (lab.path / "fleet.crl").read_text()


def test_trouble_with_the_folder_is_for_the_issuer_s_log_and_the_node_tries_again(lab: Lab, asking: Asking) -> None:
    key = lab.path / "etcd-peers-ca.key"
    contact = lab.contact
    contact.nonce()
    key.chmod(0o644)
    try:
        with pytest.raises(Unreachable, match="trouble with its trust folder"):
            asking.enrol(contact)
    finally:
        key.chmod(0o600)
    assert any("others may open it" in line for line in lab.said)
    asking.enrol(contact)


def test_nothing_secret_is_said_and_no_word_is_in_the_ledger(lab: Lab, asking: Asking) -> None:
    asking.enrol(lab.contact)
    with pytest.raises(Refused):
        asking.enrol(lab.contact, secret=asking.request.secret + "0")
    word = asking.request.secret.partition(".")[2]
    assert word not in "\n".join(lab.said)
    assert word not in (lab.path / "trust.json").read_text()
    assert word not in repr(asking.request)
