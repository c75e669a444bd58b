"""Keys, certificates and lists of revoked ones: RFC 5280, ECDSA over P-256 with SHA-256. Pure, but for making keys.

What goes in and out is PEM text; time and serial numbers are inputs.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from terminal import Failure
from trust.names import Address

NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
"""All that is issued is valid from here on, long before the build of any image.

A clock is never before the build of the image that it runs in (systemd sees to that), but it may be years behind: that
must not lock a node out. When a certificate was issued is in the ledger.
"""
LOCAL: Final = ("localhost", ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))

_NO_USE: Final = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both in PEM; the key is in no ``repr``."""

    certificate: str
    key: str = field(repr=False)


def new_authority(name: str, not_after: datetime.datetime, *, serial: int) -> KeyPair:
    """An authority called ``name``, which signs certificates of holders, not further authorities."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), NOT_BEFORE, not_after, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.KeyUsage(**_NO_USE | {"key_cert_sign": True, "crl_sign": True}), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), key_text(key))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key, ECDSA over P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key in PEM (PKCS #8), without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def leaf(
    authority: Authority,
    name: str,
    organization: str,
    key: ec.EllipticCurvePublicKey,
    *,
    not_after: datetime.datetime,
    serial: int,
    serves: bool,
    asks: bool,
    alternatives: Sequence[Address | str] = (),
    not_before: datetime.datetime = NOT_BEFORE,
    machine: str = "",
) -> str:
    """A certificate in PEM for a public key: ``CN=name, O=organization``, with these usages and alternative names.

    ``machine``, the SHA-256 of the machine key of the node that asked for it, is the subject's ``serialNumber``.
    """
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    if machine:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, machine))
    subject, issuer = x509.Name(attributes), authority.certificate.subject
    builder = _builder(subject, issuer, key, not_before, not_after, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.KeyUsage(**_NO_USE | {"digital_signature": True}), critical=True)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * serves + [ExtendedKeyUsageOID.CLIENT_AUTH] * asks
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(authority.key_identifier(), critical=False)
    if alternatives:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([*map(_general_name, alternatives)]), critical=False
        )
    return _pem(builder.sign(authority.key, hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs: a certificate and the key that belongs to it, parsed."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def parse(cls, certificate: str, key: str) -> Authority:
        """Of two PEM texts. Raises Failure: no PEM, no authority, or the key of another one."""
        try:
            parsed = x509.load_pem_x509_certificate(certificate.encode())
            signs = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
            raise Failure("no certificate of an authority in PEM") from error
        try:
            private = load_pem_private_key(key.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
            raise Failure("no private key in PEM without a passphrase") from error
        if not signs:
            raise Failure("the certificate is no authority's")
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != parsed.public_key():
            raise Failure("the key belongs to another certificate")
        return cls(parsed, private)

    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """How what it signs refers to its key."""
        found = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)

    def revocation_list(self, revoked: Mapping[int, datetime.datetime], *, number: int) -> str:
        """A CRL in PEM of these serials with the time of their revocation; ``number`` grows with each list.

        It never expires before the authority does: a cluster that was off for a year reads it as it is.
        """
        builder = (
            x509.CertificateRevocationListBuilder(
                self.certificate.subject, NOT_BEFORE, self.certificate.not_valid_after_utc
            )
            .add_extension(self.key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, when in sorted(revoked.items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def revocations(self, crl: str) -> dict[int, datetime.datetime] | None:
        """The serials in a list in PEM, with the time of their revocation; None if it is no list of this authority."""
        try:
            parsed = x509.load_pem_x509_crl(crl.encode())
            valid = parsed.is_signature_valid(self.key.public_key())
        except (ValueError, TypeError, InvalidSignature):
            return None
        return {entry.serial_number: entry.revocation_date_utc for entry in parsed} if valid else None

    def lists(self, crl: str, revoked: Iterable[int]) -> bool:
        """Whether ``crl`` is a list of this authority's with exactly these serials."""
        found = self.revocations(crl)
        return found is not None and found.keys() == set(revoked)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is in a certificate, for people and the ledger: serial and SHA-256 of its DER, hexadecimal, and its end."""

    serial: str
    fingerprint: str
    not_after: datetime.datetime


def facts(certificate: str) -> Facts:
    """Of a certificate in PEM. Raises Failure."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError as error:
        raise Failure("no certificate in PEM") from error
    digest = parsed.fingerprint(hashes.SHA256()).hex()
    return Facts(f"{parsed.serial_number:x}", digest, parsed.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a node's certificate says of it: its name, its IP addresses, its machine key (:func:`leaf`); its serial."""

    name: str
    addresses: tuple[str, ...]
    machine: str
    serial: int


def shown(certificate: str, authority: Authority) -> Shown | None:
    """Of a certificate in PEM, None if this authority has not signed it, or not for a node that asked itself.

    Whether it has expired, or was revoked, is not looked at."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
        parsed.verify_directly_issued_by(authority.certificate)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subject = [
            [each.value for each in parsed.subject.get_attributes_for_oid(oid)]
            for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
        ]
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    match subject:
        case [["node"], [str(name)], [str(machine)]]:
            return Shown(
                name, tuple(map(str, names.get_values_for_type(x509.IPAddress))), machine, parsed.serial_number
            )
    return None


def serves(text: str, authority: Authority, names: Iterable[Address | str]) -> bool:
    """Whether ``text`` is a key and its certificate in PEM, of this authority, for all of these names."""
    try:
        parsed = x509.load_pem_x509_certificate(text.encode())
        parsed.verify_directly_issued_by(authority.certificate)
        key = load_pem_private_key(text.encode(), None)
        found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    return parsed.public_key() == key.public_key() and set(map(_general_name, names)) <= set(found)


def random_serial() -> int:
    """A positive number of up to 159 random bits (RFC 5280 4.1.2.2)."""
    return x509.random_serial_number()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    serial: int,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key, serial, not_before, not_after)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _general_name(one: Address | str) -> x509.GeneralName:
    return x509.DNSName(one) if isinstance(one, str) else x509.IPAddress(one)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
