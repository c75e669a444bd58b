"""What the builder's tests share: the tools closure, a signing key, and small Debian archives made on the spot."""

from __future__ import annotations

import base64
import hashlib
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builder.debian.apt import Programs
from builder.debian.tools import Tools
from tests.builder.debmaker import deb


@pytest.fixture(scope="session")
def closure() -> Tools:
    """The real tools closure, fetched once into the user's store (as any build would)."""
    return Tools.ours()


class Signer:
    """An OpenPGP key (RFC 4880, with Ed25519 as GnuPG writes it) that can do one thing: sign an InRelease file.

    Made of a few packets by hand, since a fresh machine has no gpg.
    """

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._time = (int(time.time()) - 86400).to_bytes(4, "big")
        point = b"\x40" + self._key.public_key().public_bytes_raw()
        oid = bytes.fromhex("092b06010401da470f01")
        self._body = b"\x04" + self._time + b"\x16" + oid + self._mpi(point)
        self._fingerprint = hashlib.sha1(self._key_hashed()).digest()

    def keyring(self) -> bytes:
        """The public half, as a keyring file."""
        name = b"Test archive <test@example.org>"
        certified = self._key_hashed() + b"\xb4" + len(name).to_bytes(4, "big") + name
        return self._packet(6, self._body) + self._packet(13, name) + self._signature(0x13, certified)

    def clear_sign(self, text: str) -> str:
        """``text`` (no line may begin with a dash) in a clear-signed message."""
        signed = "\r\n".join(line.rstrip() for line in text.splitlines())
        armoured = base64.encodebytes(self._signature(0x01, signed.encode())).decode()
        return (
            f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text.rstrip()}\n"
            f"-----BEGIN PGP SIGNATURE-----\n\n{armoured}-----END PGP SIGNATURE-----\n"
        )

    def _signature(self, kind: int, data: bytes) -> bytes:
        hashed = b"\x05\x02" + self._time + b"\x16\x21\x04" + self._fingerprint + b"\x02\x1b\x03"
        head = bytes([4, kind, 0x16, 8]) + len(hashed).to_bytes(2, "big") + hashed
        digest = hashlib.sha256(data + head + b"\x04\xff" + len(head).to_bytes(4, "big")).digest()
        signature = self._key.sign(digest)
        unhashed = b"\x09\x10" + self._fingerprint[-8:]
        tail = len(unhashed).to_bytes(2, "big") + unhashed + digest[:2]
        return self._packet(2, head + tail + self._mpi(signature[:32]) + self._mpi(signature[32:]))

    def _key_hashed(self) -> bytes:
        return b"\x99" + len(self._body).to_bytes(2, "big") + self._body

    @staticmethod
    def _packet(tag: int, body: bytes) -> bytes:
        size = len(body)
        short = bytes([size]) if size < 192 else bytes([192 + (size - 192 >> 8), size - 192 & 0xFF])
        return bytes([0xC0 | tag]) + short + body

    @staticmethod
    def _mpi(data: bytes) -> bytes:
        number = int.from_bytes(data, "big")
        return number.bit_length().to_bytes(2, "big") + number.to_bytes((number.bit_length() + 7) // 8, "big")


@dataclass
class Archive:
    """A Debian archive under ``root``: packages are added with :meth:`add`, then :meth:`write` makes the indexes."""

    root: Path
    stanzas: dict[str, list[str]] = field(default_factory=dict)
    architecture: str = "amd64"

    @property
    def url(self) -> str:
        """Its address."""
        return f"file://{self.root}"

    def add(
        self,
        suite: str,
        name: str,
        version: str = "1.0-1",
        *,
        scripts: dict[str, str] | None = None,
        members: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
        **fields: str | None,
    ) -> bytes:
        """Put the package ``name`` into ``suite`` with control ``fields`` (Pre_Depends for Pre-Depends); returns its
        file, in which is nothing but the control part with ``scripts``, and ``members``. A field that is None is left
        out.
        """
        control = {"Package": name, "Version": version, "Architecture": self.architecture, "Maintainer": "none"}
        control |= {key.replace("_", "-"): value for key, value in fields.items() if value is not None}
        path = f"pool/main/{suite}/{name}_{version.replace(':', '%3a')}_{self.architecture}.deb"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        deb(self.root / path, members, name, scripts, "".join(f"{key}: {value}\n" for key, value in control.items()))
        data = (self.root / path).read_bytes()
        control |= {"Filename": path, "Size": str(len(data)), "SHA256": hashlib.sha256(data).hexdigest()}
        lines = [f"{key}: {value}" for key, value in control.items()]
        self.stanzas.setdefault(suite, []).append("\n".join(lines) + "\n")
        return data

    def write(self, signer: Signer | None, *, age: float = 3600, valid: float = 86400) -> None:
        """Write the indexes of all suites, dated ``age`` seconds ago, valid for ``valid`` seconds from then; unsigned
        without ``signer``.
        """
        for suite, stanzas in self.stanzas.items():
            folder = self.root / "dists" / suite
            packages = folder / f"main/binary-{self.architecture}/Packages"
            packages.parent.mkdir(parents=True, exist_ok=True)
            data = "\n".join(stanzas).encode()
            packages.write_bytes(data)
            date = time.time() - age
            release = (
                f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {_date(date)}\nValid-Until: {_date(date + valid)}\n"
                f"Architectures: {self.architecture}\nComponents: main\n"
                f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-{self.architecture}/Packages\n"
            )
            if signer is None:
                (folder / "Release").write_text(release)
            else:
                (folder / "InRelease").write_text(signer.clear_sign(release))


def _date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True).replace("GMT", "UTC")


@pytest.fixture(scope="session")
def signer() -> Signer:
    """The key that the archives of these tests are signed with."""
    return Signer()


@pytest.fixture(scope="session")
def stranger() -> Signer:
    """A key that is not trusted."""
    return Signer()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty archive."""
    return Archive(tmp_path / "mirror/debian")


@pytest.fixture
def programs(closure: Tools, signer: Signer, tmp_path: Path) -> Programs:
    """The closure's apt, trusting ``signer`` instead of Debian's keys."""
    keyring = tmp_path / "keyring.pgp"
    keyring.write_bytes(signer.keyring())
    real = closure.apt()
    return Programs(real.apt_get, real.methods, keyring, real.settings)
