"""Pushing images into the cluster's registry.

It uses a few requests of the registry protocol (OCI distribution specification 1.1).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO

from cluster.services.addresses import REGISTRY_PORT
from cluster.services.imagefile import CHUNK_BYTES, ImageFile, Manifest, opened
from terminal import Failure, UsageFailure, record
from webserver.unix import UnixConnection

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


def push(
    path: Path, registry: Path, name: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[str, ...]:
    """Push all images of the file or folder ``path``; returns the names under which nodes find them.

    ``registry`` is the registry's unix socket. ``name`` replaces the one in the file, which then holds one image.
    Raises :class:`Failure`.
    """
    with opened(path) as images:
        if name is not None and len({manifest.data for manifest in images.manifests}) > 1:
            raise UsageFailure("there are several images in it, for which one name is too few", where=str(path))
        manifests = [manifest._replace(name=name) for manifest in images.manifests[:1]] if name else images.manifests
        pushed = []
        for manifest in manifests:
            if not manifest.name:
                raise UsageFailure("the image has no name", where=str(path), hint="give it one: --as redis:7")
            repository, tag = reference(manifest.name)
            try:
                _Push(images, registry, repository, progress).manifest(manifest, tag)
            except (OSError, http.client.HTTPException) as error:
                raise Failure(f"the registry does not answer: {error}", where=str(registry)) from error
            pushed.append(f"{REGISTRY}/{repository}:{tag}")
        return tuple(pushed)


class _Push:
    """Pushing into one repository."""

    def __init__(self, images: ImageFile, registry: Path, repository: str, progress: Callable[[str], None]) -> None:
        self._images, self._registry = images, registry
        self._base = f"/v2/{repository}"
        self._progress = progress

    def manifest(self, manifest: Manifest, tag: str) -> None:
        """Push a manifest or an index after all that it names: a registry takes it no earlier."""
        content = record.parse(manifest.data)
        for entry in content.get("manifests", ()):
            with self._images.open(entry["digest"]) as file:
                self.manifest(Manifest(str(entry["mediaType"]), file.read()), str(entry["digest"]))
        for entry in (content.get("config"), *content.get("layers", ())):
            if entry is not None:
                self._blob(str(entry["digest"]))
        target = f"{self._base}/manifests/{tag}"
        self._ask("PUT", target, HTTPStatus.CREATED, manifest.data, {"Content-Type": manifest.kind})

    def _blob(self, digest: str) -> None:
        if self._status("HEAD", f"{self._base}/blobs/{digest}") == HTTPStatus.OK:
            return
        size = self._images.size(digest)
        self._progress(f"{digest[7:19]} ({size / 1e6:.1f} MB)")
        place = self._ask("POST", f"{self._base}/blobs/uploads/", HTTPStatus.ACCEPTED)
        # An absolute address of our own Host header; only its path is ours to ask over this socket.
        target = re.sub(r"^https?://[^/]+", "", place)
        with self._images.open(digest) as file:
            self._ask(
                "PUT", f"{target}{'&' if '?' in target else '?'}digest={digest}", HTTPStatus.CREATED, file,
                {"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            )  # fmt: skip

    def _status(self, method: str, target: str) -> int:
        connection = UnixConnection(self._registry, host=REGISTRY, timeout_s=DEADLINE_S)
        try:
            connection.request(method, target)
            return connection.getresponse().status
        finally:
            connection.close()

    def _ask(
        self,
        method: str,
        target: str,
        wanted: HTTPStatus,
        body: bytes | IO[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Make a request; returns the answer's Location, if any.

        Raises :class:`Failure` with the registry's message.
        """
        connection = UnixConnection(self._registry, host=REGISTRY, timeout_s=DEADLINE_S)
        connection.blocksize = CHUNK_BYTES
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            said = response.read(4096)
            if response.status != wanted:
                text = said.decode(errors="replace").strip()
                raise Failure(f"the registry refused: {response.status} {text}", where=f"{method} {target}"[:120])
            return response.headers.get("Location", "")
        finally:
            connection.close()
