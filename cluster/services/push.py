"""Pushing images into the cluster's registry.

It uses a few requests of the registry protocol (OCI distribution specification 1.1).
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO

from requests import Response, Session

from cluster.services.addresses import REGISTRY_PORT
from cluster.services.imagefile import Content, ImageFile, Manifest, opened
from cluster.services.session import unix_session
from terminal import Failure, UsageFailure, record
from terminal.lock import locked

REGISTRY = f"registry:{REGISTRY_PORT}"
DEADLINE_S = 120
"""For one answer: the registry hashes a layer before it answers."""
_NAME = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def reference(text: str) -> tuple[str, str]:
    """Repository and tag of an image's name, whatever registry it names: ``registry.example/a/b:1`` -> ``a/b``, ``1``.

    Raises :class:`UsageFailure`.
    """
    first, slash, rest = text.partition("/")
    if (slash and (first == "localhost" or set(first) & set(".:"))) or first == REGISTRY:
        text = rest
    name, _, tag = text.partition(":")
    tag = tag or "latest"
    if len(name) > 255 or not _NAME.fullmatch(name) or not _TAG.fullmatch(tag):
        raise UsageFailure(f"{text!r} is no image name", hint="lower case, such as redis:7 or team/redis")
    return name, tag


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where images are put: the registry's unix socket, and the folder of its data, which it may fill up to
    ``bytes_max`` and as long as ``free_bytes_min`` of the disk are free: nodes' disks are on it, too.
    """

    socket: Path
    folder: Path
    bytes_max: int = 32 << 30
    free_bytes_min: int = 1 << 30

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One push at a time: of two, each would take the same room. Another one waits. Raises OSError."""
        with locked(self.folder, fcntl.LOCK_EX):
            yield

    def require_room(self, wanted: int) -> None:
        """Raise :class:`Failure` unless there is room for so many more bytes."""
        stored = sum(path.lstat().st_blocks * 512 for path in self.folder.rglob("*"))
        if stored + wanted > self.bytes_max:
            raise Failure(
                f"the cluster's registry has {_gigabytes(stored)} of at most {_gigabytes(self.bytes_max)}, and this is"
                f" {_gigabytes(wanted)} more",
                where=str(self.folder),
                hint="it ends with its cluster (cluster down); single images cannot be removed",
            )
        free = shutil.disk_usage(self.folder).free
        if free - wanted < self.free_bytes_min:
            raise Failure(
                f"this computer's disk has {_gigabytes(free)} left, this is {_gigabytes(wanted)}, and"
                f" {_gigabytes(self.free_bytes_min)} stay free for the nodes",
                where=str(self.folder),
                hint="make room there",
            )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def push(
    path: Path, registry: Shelf, name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[str, ...]:
    """Push all images of the file or folder ``path``; returns the names under which nodes find them.

    ``name`` replaces the one in the file, which then holds one image. Raises :class:`Failure`, before anything is
    stored if there is no room for it.
    """
    with registry.alone(), opened(path) as images, unix_session(registry.socket) as session:
        if name is not None and len({manifest.data for manifest in images.manifests}) > 1:
            raise UsageFailure("there are several images in it, for which one name is too few", where=str(path))
        manifests = [manifest._replace(name=name) for manifest in images.manifests[:1]] if name else images.manifests
        pushes = []
        for manifest in manifests:
            if not manifest.name:
                raise UsageFailure("the image has no name", where=str(path), hint="give it one: --as redis:7")
            repository, tag = reference(manifest.name)
            pushes.append((_Push(images, session, repository, progress), manifest, tag))
        try:
            missing = {digest for one, manifest, _ in pushes for digest in one.missing(manifest, set())}
            if missing:
                registry.require_room(sum(map(images.size, missing)))
            return tuple(one.manifest(manifest, tag, set()) for one, manifest, tag in pushes)
        except OSError as error:  # requests' own, too
            raise Failure(f"the registry does not answer: {error}", where=str(registry.socket)) from error


def _blobs(content: Content) -> Iterator[str]:
    """Digests of the configuration and the layers that a manifest names."""
    for entry in (content.get("config"), *content.get("layers", ())):
        if entry is not None:
            yield str(entry["digest"])


class _Push:
    """Pushing into one repository."""

    def __init__(self, images: ImageFile, session: Session, repository: str, progress: Callable[[str], None]) -> None:
        self._images, self._session = images, session
        self._repository = repository
        self._progress = progress

    def missing(self, manifest: Manifest, seen: set[str]) -> Iterator[str]:
        """Digests of what it names, at any depth, and the registry does not have in this repository."""
        content: Content = record.parse(manifest.data)
        for _, child in self._children(content, seen):
            yield from self.missing(child, seen)
        yield from (digest for digest in _blobs(content) if not self._has(digest))

    def manifest(self, manifest: Manifest, tag: str, seen: set[str]) -> str:
        """Push a manifest or an index after all that it names: a registry takes it no earlier. Returns its name."""
        content: Content = record.parse(manifest.data)
        for digest, child in self._children(content, seen):
            self.manifest(child, digest, seen)
        for digest in _blobs(content):
            if not self._has(digest):
                self._blob(digest)
        target = f"/v2/{self._repository}/manifests/{tag}"
        self._ask("PUT", target, HTTPStatus.CREATED, manifest.data, manifest.kind)
        return f"{REGISTRY}/{self._repository}:{tag}"

    def _children(self, content: Content, seen: set[str]) -> Iterator[tuple[str, Manifest]]:
        """The manifests of an index, with their digests. Each once: one that names itself would never end."""
        for entry in content.get("manifests", ()):
            digest = str(entry["digest"])
            if digest not in seen:
                seen.add(digest)
                with self._images.open(digest) as file:
                    yield digest, Manifest(str(entry["mediaType"]), file.read())

    def _has(self, digest: str) -> bool:
        with self._answer("HEAD", f"/v2/{self._repository}/blobs/{digest}") as answer:
            return answer.status_code == HTTPStatus.OK

    def _blob(self, digest: str) -> None:
        size = self._images.size(digest)
        self._progress(f"{digest[7:19]} ({size / 1e6:.1f} MB)")
        place = self._ask("POST", f"/v2/{self._repository}/blobs/uploads/", HTTPStatus.ACCEPTED)
        # An absolute address of our own Host header; only its path is ours to ask over this socket.
        target = re.sub(r"^https?://[^/]+", "", place)
        target = f"{target}{'&' if '?' in target else '?'}digest={digest}"
        with self._images.open(digest) as file:
            # Requests sends a file of no bytes in chunks, which is another protocol of the registry.
            self._ask("PUT", target, HTTPStatus.CREATED, file if size else b"", "application/octet-stream")

    def _ask(
        self, method: str, target: str, wanted: HTTPStatus, body: bytes | IO[bytes] = b"", kind: str | None = None
    ) -> str:
        """Make a request; returns the answer's Location, if any.

        Raises :class:`Failure` with the registry's message.
        """
        with self._answer(method, target, body, kind) as answer:
            if answer.status_code != wanted:
                text = next(answer.iter_content(4096), b"").decode(errors="replace").strip()
                raise Failure(f"the registry refused: {answer.status_code} {text}", where=f"{method} {target}"[:120])
            return answer.headers.get("Location", "")

    def _answer(self, method: str, target: str, body: bytes | IO[bytes] = b"", kind: str | None = None) -> Response:
        return self._session.request(
            method,
            f"http://{REGISTRY}{target}",
            data=body,
            headers={} if kind is None else {"Content-Type": kind},
            timeout=DEADLINE_S,
            allow_redirects=False,
            stream=True,
        )
