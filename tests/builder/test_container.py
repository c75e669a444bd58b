"""docker's archive: read back as 'docker load' does, by digest."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from builder.definition import Container
from builder.targets.container import write
from builder.tree import Tree, directory, file, symlink

EPOCH = 1_700_000_000
TREE = Tree([file("usr/bin/tool", "tool", 0o755), symlink("bin", "usr/bin"), directory("data", 0o700, uid=7, gid=7)])
REDIS = Container(
    repository="dockerfile/redis",
    user="redis",
    entrypoint=("/usr/bin/tool",),
    cmd=("--quiet",),
    exposed_ports=("6379/tcp",),
    volumes=("/data",),
    working_dir="/data",
    environment={"B": "2", "A": "1"},
)


def loaded(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The manifest's one image, its configuration and its one layer, each found by the name that the one before gives."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (image,) = json.loads(files["manifest.json"])
    (layer,) = image["Layers"]
    return image, json.loads(files[image["Config"]]), files[layer]


def test_the_layer_and_the_configuration_are_what_their_digests_say(tmp_path: Path) -> None:
    write(TREE, REDIS, "amd64", EPOCH, tmp_path / "redis.tar")
    image, configuration, layer = loaded(tmp_path / "redis.tar")
    assert image["RepoTags"] == ["dockerfile/redis:latest"]
    assert configuration["rootfs"] == {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}
    assert configuration["config"] == {
        "User": "redis",
        "Env": ["A=1", "B=2"],
        "Entrypoint": ["/usr/bin/tool"],
        "Cmd": ["--quiet"],
        "ExposedPorts": {"6379/tcp": {}},
        "Volumes": {"/data": {}},
        "WorkingDir": "/data",
    }
    assert (configuration["architecture"], configuration["os"]) == ("amd64", "linux")
    assert configuration["created"] == "2023-11-14T22:13:20Z"


def test_the_layer_is_the_tree(tmp_path: Path) -> None:
    write(TREE, REDIS, "amd64", EPOCH, tmp_path / "redis.tar")
    with tarfile.open(fileobj=io.BytesIO(loaded(tmp_path / "redis.tar")[2])) as layer:
        found = {member.name: (member.mode, member.uid) for member in layer}
    assert found == {
        ".": (0o755, 0),
        "bin": (0o777, 0),
        "data": (0o700, 7),
        "usr": (0o755, 0),
        "usr/bin": (0o755, 0),
        "usr/bin/tool": (0o755, 0),
    }


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    write(TREE, REDIS, "amd64", EPOCH, tmp_path / "one.tar")
    write(TREE.copy(), REDIS, "amd64", EPOCH, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_full_disk_is_not_passed_over() -> None:
    with pytest.raises(OSError) as error:
        write(TREE, REDIS, "amd64", EPOCH, Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC
