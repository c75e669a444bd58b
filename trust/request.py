"""What a node asks for, checked as far as it says it itself: the right keys, and the proof that it has them. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import NameOID

from enrolment import protocol
from terminal import Failure
from trust import names
from trust.names import Address
from trust.profile import NODE

_SIGNATURE_BYTES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Wanted:
    """Certificates for these names and keys, by profile; ``machine`` is the SHA-256 of the machine key."""

    name: str
    addresses: tuple[Address, ...]
    machine: str
    keys: dict[str, ec.EllipticCurvePublicKey]


def read(asked: protocol.Request, body: bytes, signature: bytes) -> Wanted:
    """Of a request, whose ``body`` the machine key signed. Raises Failure."""
    key = _public(asked.machine)
    try:
        if len(signature) > _SIGNATURE_BYTES_MAX:
            raise InvalidSignature
        key.verify(signature, body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Failure("the request is not signed by the machine key in it") from error
    name = names.node_name(asked.name)
    if asked.requests.keys() != {each.name for each in NODE}:
        raise Failure(
            "the request is not for a node's certificates", hint="is its image of the same version as the issuer?"
        )
    keys = {leaf: _requested(leaf, text, name) for leaf, text in asked.requests.items()}
    identities = {_sha256(each) for each in (key, *keys.values())}
    if len(identities) != len(keys) + 1:
        raise Failure("the same key is there twice", hint="a node makes one for each of its certificates")
    return Wanted(name, _addresses(asked.addresses), _sha256(key), keys)


def _addresses(texts: tuple[str, ...]) -> tuple[Address, ...]:
    found = []
    for each in names.addresses(texts):
        if isinstance(each, str):
            raise Failure("a node gets its own name, and addresses", where=each, hint="name no other host")
        if each.is_loopback or each.is_link_local:
            raise Failure(
                "others cannot reach it there", where=str(each), hint="name an address in the cluster's network"
            )
        found.append(each)
    if not found:
        raise Failure("the request names no address")
    return tuple(found)


def _public(text: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Failure("the machine key is none in PEM") from error
    return _p256(key, "the machine key")


def _requested(leaf: str, text: str, name: str) -> ec.EllipticCurvePublicKey:
    """The key in a request for a certificate, which says nothing else but whose it is."""
    try:
        found = x509.load_pem_x509_csr(text.encode())
        key = _p256(found.public_key(), f"the key for {leaf}")
        valid, extensions = found.is_signature_valid, len(found.extensions)
        called = [attribute.value for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        others = len(found.subject) - len(called)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise Failure(
            "not a request for a certificate", where=leaf, hint="PKCS #10 in PEM, as 'openssl req -new'"
        ) from error
    if not valid:
        raise Failure("the request is not signed by the key in it", where=leaf)
    if called != [name] or others:
        raise Failure(
            f"the request is not for {name} alone", where=leaf, hint="its subject is /CN= and the node's name"
        )
    if extensions:
        raise Failure(
            "the request names what the certificate is to be for", where=leaf, hint="that is the issuer's to say"
        )
    return key


def _p256(key: object, what: str) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Failure(f"{what} is not ECDSA over P-256", hint="make it with 'openssl genpkey -algorithm EC'")
    return key


def _sha256(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
