"""Docker's archive format (``docker load``): one layer, one configuration, one manifest, in a tar.

Format: the "Docker Image Specification v1.2", section "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from builder.architecture import ARCHITECTURES, ArchitectureName
from builder.definition import Container
from builder.filesystem import tar_stream
from builder.tree import Tree


def write(tree: Tree, container: Container, architecture: ArchitectureName, epoch: int, output: Path) -> None:
    """Write ``tree`` as the docker-archive ``output``. The same tree gives the same bytes: all times are ``epoch`` (seconds)."""
    layer = b"".join(tar_stream(iter(tree), epoch))
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    configuration = _json(
        {
            "architecture": ARCHITECTURES[architecture].docker,
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
    digest = hashlib.sha256(configuration).hexdigest()
    manifest = _json(
        [
            {
                "Config": f"{digest}.json",
                "RepoTags": [f"{container.repository}:{container.tag}"],
                "Layers": ["layer.tar"],
            }
        ]
    )
    with tarfile.open(output, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in ((f"{digest}.json", configuration), ("layer.tar", layer), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), epoch, 0o644
            archive.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
