"""Target ``container``: one layer, as docker's archive (for ``docker load``) and as an OCI image layout (for all else).

Formats: the "Docker Image Specification v1.2", section "Combined Image JSON + Filesystem Changeset Format"; the Open
Container Initiative's "Image Format Specification" 1.1, sections "Image Layout", "Image Manifest" and "Image
Configuration".

The layer is not compressed in either form: this is allowed, the registry chooses a compression when it is pushed, and a
computer that has loaded one form recognises the same tar in the other as the same layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from builder.core.architecture import ARCHITECTURES
from builder.formats.filesystem import tar_stream
from builder.targets.target import ContainerTarget, Contents

_OCI: Final = "application/vnd.oci.image"


def write(contents: Contents, folder: Path) -> None:
    """Put ``<name>.tar`` (docker-archive) and ``<name>.oci.tar`` (OCI layout) into ``folder``.

    Their times are the epoch.
    """
    layer = b"".join(tar_stream(iter(contents.tree), contents.epoch))
    configuration = _configuration(contents, layer)
    for name, files in (
        (f"{contents.name}.tar", _docker(contents, configuration, layer)),
        (f"{contents.name}.oci.tar", _layout(contents, configuration, layer)),
    ):
        _archive(folder / name, files, contents.epoch)


def _configuration(contents: Contents, layer: bytes) -> bytes:
    """The image's configuration, with the same keys in both formats."""
    created = datetime.fromtimestamp(contents.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    container = contents.configuration
    return _json(
        {
            "architecture": ARCHITECTURES[contents.architecture].docker,
            "os": "linux",
            "created": created,
            "config": {
                "User": container.user,
                "Env": [f"{name}={value}" for name, value in sorted(container.environment.items())],
                "Entrypoint": list(container.entrypoint),
                "Cmd": list(container.cmd),
                "ExposedPorts": {port: {} for port in container.exposed_ports},
                "Volumes": {path: {} for path in container.volumes},
                "WorkingDir": container.working_dir,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": created, "created_by": "osbuild container"}],
        }
    )


def _docker(contents: Contents, configuration: bytes, layer: bytes) -> dict[str, bytes]:
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    tag = f"{contents.configuration.repository}:{contents.configuration.tag}"
    manifest = _json([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}])
    return {name: configuration, "layer.tar": layer, "manifest.json": manifest}


def _layout(contents: Contents, configuration: bytes, layer: bytes) -> dict[str, bytes]:
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", configuration),
            "layers": [_descriptor("layer.v1.tar", layer)],
        }
    )
    # Only the tag: programs that copy an image by its reference search for that, not for the repository's name.
    annotations = {"org.opencontainers.image.ref.name": contents.configuration.tag}
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.index.v1+json",
        "manifests": [{**_descriptor("manifest.v1+json", manifest), "annotations": annotations}],
    }
    blobs = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (configuration, layer, manifest)}
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        **dict(sorted(blobs.items())),
    }


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    return {"mediaType": f"{_OCI}.{kind}", "digest": digest, "size": len(blob)}


def _archive(output: Path, files: Mapping[str, bytes], epoch: int) -> None:
    with tarfile.open(output, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), epoch, 0o644
            archive.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


TARGETS = (
    ContainerTarget("container", "of a definition of a container: archives for docker and for OCI tools", write),
)
