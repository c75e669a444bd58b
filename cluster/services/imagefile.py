"""Container images in a file.

It is the output of ``docker save`` or ``osbuild container``, or an OCI layout, as one tar or as a folder.

Either is read as what a registry takes: manifests (OCI image specification 1.1) and the blobs that they name by digest.
A docker-archive has no manifest of that kind, so one is made for it. Nothing is unpacked; the registry checks the
digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, NotRequired, TypedDict

from terminal import Failure, record

JSON_BYTES_MAX = 4 << 20
"""Of a manifest: what registries take (OCI distribution specification 1.1)."""
CHUNK_BYTES = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_PACKED = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
HINT = "'docker save', 'osbuild container' and 'skopeo copy ... oci:DIR' write what can be pushed"


class Descriptor(TypedDict):
    """What names a blob or a manifest (OCI image specification 1.1, descriptor.md)."""

    mediaType: str
    digest: str
    size: int
    annotations: NotRequired[dict[str, str]]


class Content(TypedDict, total=False):
    """What a manifest (``config``, ``layers``) or an index (``manifests``) names."""

    config: Descriptor
    layers: list[Descriptor]
    manifests: list[Descriptor]


class Saved(TypedDict):
    """An image in the ``manifest.json`` of a docker-archive."""

    Config: str
    Layers: list[str]
    RepoTags: NotRequired[list[str] | None]


class Blob(NamedTuple):
    """Bytes in the image file: the member's name, and how many."""

    member: str
    size: int


class Manifest(NamedTuple):
    """A manifest or an index: its bytes are what its digest is of. ``name`` is its tag in the file, perhaps empty."""

    kind: str
    data: bytes
    name: str = ""


class Members:
    """The files in a tar or a folder, by their paths in it."""

    def __init__(self, tar: tarfile.TarFile | None, folder: Path) -> None:
        self._tar, self._folder = tar, folder

    def open(self, name: str) -> IO[bytes]:
        """Raises KeyError if there is no such regular file."""
        if self._tar is None:
            path = (self._folder / name).resolve()
            if not path.is_relative_to(self._folder.resolve()) or not path.is_file():
                raise KeyError(name)
            return path.open("rb")
        file = self._tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file

    def json(self, name: str) -> bytes:
        """The text of a JSON file. Raises KeyError, ValueError."""
        with self.open(name) as file:
            data = file.read(JSON_BYTES_MAX + 1)
        if len(data) > JSON_BYTES_MAX:
            raise ValueError(f"{name} is larger than {JSON_BYTES_MAX >> 20} MiB")
        return data


class ImageFile:
    """The images in an open file: ``manifests`` to push, and ``blobs`` by digest.

    Blobs are those that they or manifests below them name.
    """

    def __init__(self, members: Members) -> None:
        """Raises KeyError, ValueError, TypeError for what is no image."""
        self._members = members
        self.blobs: dict[str, Blob] = {}
        try:
            entries: list[Saved] = record.parse(members.json("manifest.json"))
        except KeyError:
            self.manifests = self._layout()
        else:
            self.manifests = [manifest for entry in entries for manifest in self._archive(entry)]
        if not self.manifests:
            raise ValueError("there is no image in it")

    def open(self, digest: str) -> IO[bytes]:
        """The blob with this digest. Raises KeyError."""
        blob = self.blobs.get(digest) or self._blob(digest)
        return self._members.open(blob.member)

    def size(self, digest: str) -> int:
        """The bytes of the blob with this digest. Raises KeyError."""
        return (self.blobs.get(digest) or self._blob(digest)).size

    def _blob(self, digest: str) -> Blob:
        algorithm, _, value = digest.partition(":")
        if not (algorithm.isalnum() and value.isalnum()):
            raise KeyError(digest)
        member = f"blobs/{algorithm}/{value}"
        with self._members.open(member) as file:
            found = Blob(member, file.seek(0, io.SEEK_END))
        self.blobs[digest] = found
        return found

    def _layout(self) -> list[Manifest]:
        found = []
        index: Content = record.parse(self._members.json("index.json"))
        for entry in index["manifests"]:
            with self.open(entry["digest"]) as file:
                data = file.read(JSON_BYTES_MAX)
            name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "")
            found.append(Manifest(str(entry["mediaType"]), data, str(name)))
        return found

    def _archive(self, entry: Saved) -> list[Manifest]:
        layers = [self._described(name, LAYER) for name in entry["Layers"]]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._described(entry["Config"], CONFIG),
            "layers": layers,
        }
        data = json.dumps(manifest).encode()
        return [Manifest(MANIFEST, data, str(name)) for name in entry.get("RepoTags") or [""]]

    def _described(self, name: str, kind: str) -> Descriptor:
        hasher, size, head = hashlib.sha256(), 0, b""
        with self._members.open(name) as file:
            while chunk := file.read(CHUNK_BYTES):
                head = head or chunk[:2]
                hasher.update(chunk)
                size += len(chunk)
        digest = f"sha256:{hasher.hexdigest()}"
        self.blobs[digest] = Blob(name, size)
        packed = _PACKED.get(head, "") if kind == LAYER else ""
        return {"mediaType": kind + packed, "digest": digest, "size": size}


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The image file at ``path``. Raises :class:`Failure` if it is none."""
    try:
        if path.is_dir():
            yield ImageFile(Members(None, path))
        else:
            with tarfile.open(path) as tar:
                yield ImageFile(Members(tar, path))
    except (tarfile.TarError, KeyError, ValueError, TypeError, AttributeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise Failure(f"this is no container image: {what}", where=str(path), hint=HINT) from error
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=str(path), hint=HINT) from error
