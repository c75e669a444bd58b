"""Images in files, and the real registry of Debian that they are pushed into."""

import asyncio
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.lifecycle import certificates
from cluster.model.layout import Layout, make_private
from cluster.services import pulls
from cluster.services.addresses import CERTIFIED
from cluster.services.imagefile import LAYER, MANIFEST, opened
from cluster.services.push import Shelf, push, reference
from cluster.services.registry import Registry, find
from terminal import Failure, UsageFailure
from webserver import selfmade
from webserver.server import Server, listen
from webserver.unix import UnixConnection

CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
PLAIN, PACKED = b"layer" * 1000, gzip.compress(b"another" * 1000, mtime=0)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What ``docker save`` wrote for twelve years."""
    entry = {
        "Config": "config.json",
        "RepoTags": ["redis:7", "registry.example/team/redis:old"],
        "Layers": ["1/layer.tar", "2"],
    }
    manifest = json.dumps([entry]).encode()
    members = {"manifest.json": manifest, "config.json": CONFIG, "1/layer.tar": PLAIN, "2": PACKED}
    return tar(tmp_path / "redis.tar", members)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI layout with an index of one image below the index."""
    folder = tmp_path / "oci"
    (folder / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, kind: str, **more: object) -> dict[str, object]:
        (folder / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}

    layers = [blob(PACKED, LAYER + "+gzip")]
    config = blob(CONFIG, "application/vnd.oci.image.config.v1+json")
    image = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).encode()
    kind = "application/vnd.oci.image.index.v1+json"
    platform = {"architecture": "amd64", "os": "linux"}
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [blob(image, MANIFEST, platform=platform)]})
    named = blob(index.encode(), kind, annotations={"org.opencontainers.image.ref.name": "team/app:1.0"})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return folder


async def twice(service: Registry) -> None:
    """Two pushes at once both find it listening."""
    await asyncio.gather(service.start(find()), service.start(find()))
    await service.start(find())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Shelf]:
    """A registry that runs."""
    place = Layout.of("push")
    make_private(place.runtime)
    said: list[str] = []

    with asyncio.Runner() as runner:
        service = Registry(tmp_path / "registry", place.registry_socket, lambda: None, said.append)
        assert not service.used
        runner.run(twice(service))
        assert service.used
        yield Shelf(place.registry_socket, service.folder)
        runner.run(service.stop())
    assert service.process is None
    assert not place.registry_socket.exists()


def get(registry: Shelf, path: str, accept: str) -> tuple[int, bytes]:
    connection = UnixConnection(registry.socket)
    connection.request("GET", path, headers={"Accept": accept})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_a_docker_archive_can_be_pulled_again(registry: Shelf, archive: Path) -> None:
    progress: list[str] = []
    assert push(archive, registry, progress=progress.append) == (
        "registry:5000/redis:7",
        "registry:5000/team/redis:old",
    )
    status, body = get(registry, "/v2/redis/manifests/7", MANIFEST)
    assert status == 200
    manifest = json.loads(body)
    assert manifest["config"]["digest"] == digest(CONFIG)
    assert [(layer["digest"], layer["mediaType"]) for layer in manifest["layers"]] == [
        (digest(PLAIN), LAYER),
        (digest(PACKED), f"{LAYER}+gzip"),
    ]
    assert get(registry, f"/v2/redis/blobs/{digest(PLAIN)}", "*/*") == (200, PLAIN)
    assert len(progress) == 6
    progress.clear()
    assert push(archive, registry, "redis:mine", progress.append) == ("registry:5000/redis:mine",)
    assert not progress  # the registry has it all


def test_an_oci_layout_with_an_index(registry: Shelf, layout: Path, tmp_path: Path) -> None:
    assert push(layout, registry) == ("registry:5000/team/app:1.0",)
    status, body = get(registry, "/v2/team/app/manifests/1.0", "application/vnd.oci.image.index.v1+json")
    assert status == 200
    (child,) = json.loads(body)["manifests"]
    assert get(registry, f"/v2/team/app/manifests/{child['digest']}", MANIFEST)[0] == 200
    packed = {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    assert push(tar(tmp_path / "oci.tar", packed), registry, "again") == ("registry:5000/again:latest",)


def test_the_registry_refuses_what_is_not_what_its_digest_says(registry: Shelf, layout: Path) -> None:
    (layout / "blobs" / digest(PACKED).replace(":", "/")).write_bytes(b"x")
    with pytest.raises(Failure, match="refused") as caught:
        push(layout, registry)
    assert "DIGEST" in caught.value.message


def test_a_registry_is_filled_so_far_and_no_further(registry: Shelf, archive: Path, layout: Path) -> None:
    """And what does not fit leaves nothing behind. What it has already takes no room."""
    push(archive, registry)

    def stored() -> list[Path]:
        return sorted((registry.folder / "data").rglob("*"))

    before = stored()
    used = sum(path.lstat().st_blocks * 512 for path in registry.folder.rglob("*"))
    full = replace(registry, bytes_max=used)
    with pytest.raises(
        Failure, match=r"the cluster's registry has 0.00 GB of at most 0.00 GB, and this is 0.00 GB more"
    ):
        push(layout, full)
    crowded = replace(registry, free_bytes_min=1 << 60)
    with pytest.raises(Failure, match=r"this computer's disk has .* left") as caught:
        push(layout, crowded)
    assert caught.value.hint == "make room there"
    assert stored() == before
    assert push(archive, full, "redis:mine") == ("registry:5000/redis:mine",)
    push(layout, replace(registry, bytes_max=2 * used))


def test_pushes_take_their_turns(registry: Shelf, archive: Path) -> None:
    with ThreadPoolExecutor() as pool:
        with registry.alone():
            waits = pool.submit(push, archive, registry)
            assert wait([waits], 0.5).not_done, "it waits until this one is done"
        assert waits.result(60)


@pytest.fixture
def node(registry: Shelf) -> Iterator[UnixConnection]:
    """What a node reaches of that registry."""
    server = Server.at(registry.socket.with_name("pulls"), pulls.site(registry.socket, lambda _: None))
    server.start()
    connection = UnixConnection(registry.socket.with_name("pulls"), timeout_s=60)
    yield connection
    connection.close()
    server.stop()


def answer_to(
    node: UnixConnection, method: str, path: str, accept: tuple[str, ...] = ()
) -> tuple[int, dict[str, str], bytes]:
    node.putrequest(method, path)
    for kind in accept:
        node.putheader("Accept", kind)  # a line each, as docker does
    node.endheaders()
    response = node.getresponse()
    body = response.read()
    node.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def test_a_node_pulls(registry: Shelf, node: UnixConnection, archive: Path) -> None:
    push(archive, registry)
    status, headers, body = answer_to(node, "GET", "/v2/")
    assert (status, headers["docker-distribution-api-version"]) == (200, "registry/2.0")
    status, headers, body = answer_to(node, "GET", "/v2/redis/manifests/7", (MANIFEST, "application/json"))
    assert (status, headers["content-type"], headers["docker-content-digest"]) == (200, MANIFEST, digest(body))
    head = answer_to(node, "HEAD", f"/v2/redis/blobs/{digest(PLAIN)}")
    assert (head[0], head[1]["content-length"], head[2]) == (200, str(len(PLAIN)), b"")
    assert answer_to(node, "GET", f"/v2/redis/blobs/{digest(PLAIN)}")[2] == PLAIN
    assert json.loads(answer_to(node, "GET", "/v2/redis/tags/list")[2]) == {"name": "redis", "tags": ["7"]}
    assert answer_to(node, "GET", "/v2/redis/manifests/8")[0] == 404
    assert answer_to(node, "GET", "/debug/vars")[0] == 404


def test_what_reads_dockers_certificates_pulls_over_tls(registry: Shelf, archive: Path, tmp_path: Path) -> None:
    """skopeo reads certs.d as docker does, and both are Go's TLS: our certificate is its own authority there."""
    push(archive, registry)
    selfmade.make(tmp_path / "own.pem", [*CERTIFIED, "localhost"])
    selfmade.make(tmp_path / "other.pem", ["localhost"])
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text(certificates.of_services(tmp_path / f"{name}.pem"))
        assert "KEY" not in (tmp_path / name / "ca.crt").read_text()
    listening = listen(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    secure = selfmade.context(tmp_path / "own.pem")
    server = Server(listening, pulls.site(registry.socket, lambda _: None), tls=secure)
    server.start()

    def skopeo(certificate: str, verb: str, image: str, *options: str) -> subprocess.CompletedProcess[str]:
        place = f"docker://localhost:{port}/{image}"
        argv = ["skopeo", verb, "--cert-dir", str(tmp_path / certificate), *options, place]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    try:
        seen = skopeo("own", "inspect", "redis:7", "--raw")
        assert json.loads(seen.stdout)["mediaType"] == MANIFEST, seen.stderr
        assert json.loads(skopeo("own", "list-tags", "redis").stdout)["Tags"] == ["7"], (
            "a list whose length is not known before"
        )
        refused = skopeo("other", "inspect", "redis:7", "--raw")
        assert refused.returncode != 0
        assert "x509" in refused.stderr
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/redis/blobs/uploads/"),
        ("PATCH", "/v2/redis/blobs/uploads/1"),
        ("PUT", "/v2/redis/manifests/7"),
        ("DELETE", "/v2/redis/manifests/7"),
    ],
)
def test_a_node_stores_and_removes_nothing(registry: Shelf, node: UnixConnection, method: str, path: str) -> None:
    """Refused as the registry itself would, so that docker prints it."""
    status, _, body = answer_to(node, method, path)
    (error,) = json.loads(body)["errors"]
    assert (status, error["code"]) == (403, "DENIED")
    assert "cluster push" in error["message"]
    assert not (registry.folder / "data").exists()


def test_before_anything_is_pushed(tmp_path: Path, home: Path) -> None:
    place = Layout.of("none").runtime
    make_private(place)
    server = Server.at(place / "pulls", pulls.site(tmp_path / "none", lambda _: None))
    server.start()
    try:
        status, _, body = answer_to(UnixConnection(place / "pulls", timeout_s=60), "GET", "/v2/")
        assert (status, "cluster push IMAGE.tar" in body.decode()) == (503, True)
    finally:
        server.stop()


def test_what_is_no_image(tmp_path: Path, archive: Path, layout: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    half = tar(tmp_path / "half.tar", {"manifest.json": b'[{"Config": "config.json", "Layers": ["gone"]}]'})
    wrong = tar(tmp_path / "wrong.tar", {"manifest.json": b"[7]"})
    none = tar(tmp_path / "none.tar", {"manifest.json": b"[]"})
    for path in (tmp_path / "text", tmp_path / "empty", tmp_path / "missing", half, wrong, none):
        with pytest.raises(Failure) as caught, opened(path):
            pass
        assert caught.value.where == str(path)
        assert caught.value.hint


def test_an_index_that_names_itself_is_refused(registry: Shelf, layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    (named,) = index["manifests"]
    (layout / "blobs" / named["digest"].replace(":", "/")).write_text(
        json.dumps({"schemaVersion": 2, "manifests": [named] * 9})
    )
    with pytest.raises(Failure, match="the registry refused"):
        push(layout, registry)


def test_a_digest_cannot_lead_out_of_the_layout(layout: Path) -> None:
    with opened(layout) as images:
        for name in ("sha256:../../index.json", "../x:y", "sha256:", "x"):
            with pytest.raises(KeyError):
                images.open(name)


def test_several_images_and_none_with_a_name(tmp_path: Path, layout: Path) -> None:
    (layout / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"{}")
    index = json.loads((layout / "index.json").read_text())
    index["manifests"].append({"mediaType": MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 2})
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageFailure, match="several"):
        push(layout, Shelf(tmp_path, tmp_path), "redis")
    del index["manifests"][0]
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageFailure, match="no name") as caught:
        push(layout, Shelf(tmp_path, tmp_path))
    assert caught.value.hint == "give it one: --as redis:7"


@pytest.mark.parametrize(
    ("text", "name", "tag"),
    [
        ("redis", "redis", "latest"),
        ("redis:7", "redis", "7"),
        ("team/redis:7", "team/redis", "7"),
        ("registry.example/team/redis", "team/redis", "latest"),
        ("localhost/redis", "redis", "latest"),
        ("registry:5000/redis:7", "redis", "7"),
        ("1.2.3.4:80/a/b:c", "a/b", "c"),
    ],
)
def test_names_of_images(text: str, name: str, tag: str) -> None:
    assert reference(text) == (name, tag)


@pytest.mark.parametrize("text", ["", "Redis", "a//b", "a/../x", "a:b:c", "a@sha256:00", "x" * 300])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UsageFailure):
        reference(text)


@given(st.text(max_size=40))
def test_a_name_is_one_or_is_refused(text: str) -> None:
    try:
        name, tag = reference(text)
    except UsageFailure:
        return
    assert reference(f"{name}:{tag}") == (name, tag)


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(Failure) as caught:
        find({"PATH": "/nonexistent"})
    assert "docker-registry" in str(caught.value.hint)


def test_a_registry_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = tmp_path / "registry"
    program.write_text("#!/bin/sh\necho 'no room' >&2\nexit 1\n")
    program.chmod(0o755)
    service = Registry(tmp_path / "data", tmp_path / "socket", lambda: None, lambda _: None)
    with pytest.raises(Failure, match="no room"):
        asyncio.run(service.start(program))
