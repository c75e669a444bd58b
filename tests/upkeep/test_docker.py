"""Our side of docker's API, against a server that says what docker says, and what it never should.

The real one: vm-tests/test_docker.py.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import Failure
from upkeep.docker import Docker
from upkeep.space import Container, Holdings, Image

CONTAINER = {
    "Id": "c" * 64,
    "Names": ["/job"],
    "Image": "job:1",
    "ImageID": "sha256:1",
    "Created": 1700000000,
    "State": "exited",
    "Labels": {"flotilla.keep": ""},
}
IMAGE = {"Id": "sha256:1", "RepoTags": ["job:1", "r:5000/job:1"], "Created": 1600000000, "Labels": None}
NAMELESS = {"Id": "sha256:2", "RepoTags": ["<none>:<none>"], "Created": 1600000000, "Labels": {}}


class Impostor(socketserver.ThreadingUnixStreamServer):
    """Answers as ``answers`` (target -> status, body) says, 404 otherwise; ``requests`` has all requests."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.requests: list[str] = []
        super().__init__(path, Handler)


class Handler(BaseHTTPRequestHandler):
    server: Impostor

    def answer(self) -> None:
        words = f"{self.command} {self.path}"
        self.server.requests.append(words)
        status, body = self.server.answers.get(words, (404, b'{"message": "not there"}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_DELETE = answer  # noqa: N815 - names of http.server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    with Impostor(str(tmp_path / "docker.sock")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def docker(impostor: Impostor) -> Docker:
    return Docker(str(impostor.server_address))


def has(impostor: Impostor, containers: object, images: object) -> None:
    impostor.answers["GET /v1.44/containers/json?all=true"] = (200, json.dumps(containers).encode())
    impostor.answers["GET /v1.44/images/json"] = (200, json.dumps(images).encode())


def test_what_docker_has(impostor: Impostor, docker: Docker) -> None:
    has(impostor, [CONTAINER], [IMAGE, NAMELESS])
    assert docker.holdings() == Holdings(
        [Container("c" * 64, "job", "sha256:1", "exited", 1700000000, True)],
        [
            Image("sha256:1", ("job:1", "r:5000/job:1"), 1600000000),
            Image("sha256:2", (), 1600000000),
        ],
    )


def test_nothing_is_removed_by_force_and_an_image_by_each_of_its_names(impostor: Impostor, docker: Docker) -> None:
    has(impostor, [CONTAINER], [IMAGE, NAMELESS])
    found = docker.holdings()
    targets = ["/containers/" + "c" * 64, "/images/job%3A1", "/images/r%3A5000%2Fjob%3A1", "/images/sha256%3A2"]
    for target in targets:
        impostor.answers[f"DELETE /v1.44{target}"] = (200, b"[]")
    assert all(docker.remove(each) for each in found.containers)
    assert all(docker.remove(each) for each in found.images)
    assert impostor.requests[2:] == [f"DELETE /v1.44{target}" for target in targets]


@pytest.mark.parametrize("status", [404, 409])
def test_what_is_gone_or_in_use_again_is_left(impostor: Impostor, docker: Docker, status: int) -> None:
    impostor.answers["DELETE /v1.44/images/x"] = (status, b"{}")
    assert docker.remove(Image("x", (), 0)) is False


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "write /x: no space left on device"}', "write /x: no space left on device"),
        (b"[" * 99999, "HTTP status 500"),
    ],
)
def test_a_refusal_is_reported(impostor: Impostor, docker: Docker, body: bytes, message: str) -> None:
    impostor.answers["DELETE /v1.44/images/x"] = (500, body)
    with pytest.raises(Failure, match=f"docker refused: {message}"):
        docker.remove(Image("x", (), 0))


def test_a_docker_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="docker does not answer"):
        Docker(str(tmp_path / "none.sock")).holdings()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CONTAINER, *IMAGE]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(st.sampled_from([*CONTAINER, *IMAGE]), JSON, JSON)
def test_answers_that_are_none(field: str, value: object, whole: object) -> None:
    """Either understood or a Failure; without a server, which would cost a second a hundred examples."""

    class Canned(Docker):
        def _ask(self, method: str, target: str) -> tuple[int, bytes]:
            if "containers" in target:
                return 200, json.dumps([{**CONTAINER, field: value}]).encode()
            return 200, json.dumps(whole).encode()

    try:
        assert isinstance(Canned("nowhere").holdings(), Holdings)
    except Failure as failure:
        assert failure.message == "docker's answer cannot be understood"
