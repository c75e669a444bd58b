"""docker's archive, read back as 'docker load' does, by digest; the OCI layout, by digest and with skopeo."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from builder.core.tree import Tree, directory, file, symlink
from builder.definition.definition import Container
from builder.targets import Contents
from builder.targets.container import write
from tests.builder import tarball

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


def contents(name: str = "redis") -> Contents:
    return Contents(name, "amd64", TREE.copy(), REDIS, EPOCH)


def loaded(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The manifest's one image, its configuration and its one layer, each found by the name that the one before gives."""
    with tarfile.open(path) as archive:
        files = tarball.contents(archive)
    (image,) = json.loads(files["manifest.json"])
    (layer,) = image["Layers"]
    return image, json.loads(files[image["Config"]]), files[layer]


def test_the_layer_and_the_configuration_are_what_their_digests_say(tmp_path: Path) -> None:
    write(contents(), tmp_path)
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
    write(contents(), tmp_path)
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
    write(contents("one"), tmp_path)
    write(contents("two"), tmp_path)
    for kind in ("tar", "oci.tar"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


@pytest.mark.parametrize("name", ["redis.tar", "redis.oci.tar"])
def test_a_full_disk_is_not_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        write(contents(), tmp_path)
    assert error.value.errno == errno.ENOSPC


# --- the OCI layout --------------------------------------------------------------------------------------------------


def skopeo(*words: str) -> str:
    """The real tool, without the host's policy and on no network."""
    done = subprocess.run(["skopeo", "--insecure-policy", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_layout_leads_from_digest_to_digest(tmp_path: Path) -> None:
    """Each blob is called by its SHA-256 and as long as the one that refers to it says; both archives have the same
    configuration and layer.
    """
    write(contents(), tmp_path)
    with tarfile.open(tmp_path / "redis.oci.tar") as archive:
        files = tarball.contents(archive)
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    (described,) = json.loads(files.pop("index.json"))["manifests"]
    assert described["annotations"] == {"org.opencontainers.image.ref.name": "latest"}
    assert {name: f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}" for name, blob in files.items()} == {
        name: name for name in files
    }

    def blob(descriptor: dict[str, Any]) -> bytes:
        data = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        return data

    manifest = json.loads(blob(described))
    _, configuration, layer = loaded(tmp_path / "redis.tar")
    assert json.loads(blob(manifest["config"])) == configuration
    assert [blob(each) for each in manifest["layers"]] == [layer]


def test_skopeo_understands_both_and_copies_one_into_the_other(tmp_path: Path) -> None:
    write(contents(), tmp_path)
    docker, oci = f"docker-archive:{tmp_path}/redis.tar", f"oci-archive:{tmp_path}/redis.oci.tar"
    parsed = [json.loads(skopeo("inspect", place)) for place in (docker, oci)]
    assert parsed[0]["Layers"] == parsed[1]["Layers"]
    assert {(each["Architecture"], each["Os"], *each["Env"]) for each in parsed} == {("amd64", "linux", "A=1", "B=2")}
    configurations = [json.loads(skopeo("inspect", "--config", place)) for place in (docker, oci)]
    assert configurations[0]["config"] == configurations[1]["config"]
    skopeo("copy", oci, f"docker-archive:{tmp_path}/back.tar:dockerfile/redis:latest")
    skopeo("copy", docker, f"oci:{tmp_path}/layout:latest")
    assert loaded(tmp_path / "back.tar")[2] == loaded(tmp_path / "redis.tar")[2]
    assert json.loads(skopeo("inspect", f"oci:{tmp_path}/layout:latest"))["Env"] == ["A=1", "B=2"]
