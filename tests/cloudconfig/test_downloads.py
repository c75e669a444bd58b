"""write_files with a source: nothing unchecked, nothing twice, nothing half."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudconfig.check import validate
from cloudconfig.node import downloads
from cloudconfig.node.rooted import Root
from tests.cloudconfig.node import ShadowNode

BODY = b"#!/bin/sh\necho hi\n"
HASH = hashlib.sha256(BODY).hexdigest()


@contextmanager
def serving(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that answers so, one after the other, the last for ever; its URL, and the headers that came."""
    came: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers[min(len(came), len(answers) - 1)]
            came.append(dict(self.headers.items()))
            self.send_response(code)
            if code == 302:
                self.send_header("Location", body.decode())
                body = b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/x", came
        finally:
            server.shutdown()
            thread.join()


def apply(node: ShadowNode, url: str, digest: str = HASH, more: str = "") -> list[str]:
    text = f"#cloud-config\nwrite_files:\n- path: /opt/bin/tool\n  permissions: '0755'\n  source: {{uri: '{url}', sha256: {digest}{more}}}\n"
    outcome = node.apply(text)
    assert (outcome.result, outcome.errors) == ("done", ())
    assert "systemctl --no-block start cloudconfig-fetch.service" in node.machine.ran
    root = Root(str(node.path))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    try:
        return downloads.fetch(root, clock=lambda: now[0], sleep=sleep)
    finally:
        root.close()


@pytest.fixture
def node(tmp_path: Path) -> ShadowNode:
    node = ShadowNode(tmp_path)
    me = f"{os.geteuid()}:{os.getegid()}"
    (tmp_path / "etc/passwd").write_text(f"root:x:{me}::/root:/bin/sh\n")
    return node


def test_fetched_once(node: ShadowNode) -> None:
    with serving((503, b""), (404, b""), (200, BODY)) as (url, came):
        assert apply(node, url, more=", headers: {Authorization: Bearer x}") == []
        path = node.path / "opt/bin/tool"
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (BODY, 0o755)
        assert came[0]["Authorization"] == "Bearer x"
        path.chmod(0o600)
        assert apply(node, url) == []
        assert path.stat().st_mode & 0o777 == 0o755
    assert len(came) == 3
    assert (node.path / "run/cloudconfig/downloads.json").stat().st_mode & 0o777 == 0o600


def test_another_content_is_thrown_away(node: ShadowNode) -> None:
    with serving((200, b"evil")) as (url, _):
        assert apply(node, url) == ["write_files[0]: the download has another hash and was removed"]
    assert not (node.path / "opt/bin/tool").exists()


def test_refused_and_never_there(node: ShadowNode) -> None:
    with serving((403, b"")) as (url, came):
        assert apply(node, url) == ["write_files[0]: HTTP status 403"]
    assert len(came) == 1
    with serving((404, b"")) as (url, _):
        assert apply(node, url) == ["write_files[0]: no answer after 600 s: HTTP status 404"]


def test_too_large(node: ShadowNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SIZE_MAX", 1 << 10)
    with serving((200, b"x" * 5000)) as (url, _):
        assert apply(node, url) == ["write_files[0]: larger than 0 MiB"]


def test_a_password_is_not_sent_to_another_host(node: ShadowNode) -> None:
    with serving((200, BODY)) as (other, came), serving((302, other.encode())) as (url, _):
        assert apply(node, url, more=", headers: {Authorization: Bearer x}") == []
    assert "Authorization" not in came[0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{uri: 'http://a/b'}", "write_files[0].source: has no sha256"),
        ("{sha256: " + HASH + "}", "write_files[0].source: has no uri"),
        ("{uri: 'file:///etc/shadow', sha256: " + HASH + "}", "source.uri: not a URL"),
        ("{uri: 'http://me:secret@a/b', sha256: " + HASH + "}", "source.uri: not a URL"),
        ("{uri: 'http://a/b', sha256: abc}", "source.sha256: not a SHA-256"),
        ("{uri: 'http://a/b', sha256: " + HASH + ', headers: {X-A: "a\\nb"}}', "has a character that no header has"),
        (
            "{uri: 'http://a/b', sha256: " + HASH + "}, content: x",
            "write_files[0].content: the file has a source already",
        ),
        (
            "{uri: 'http://a/b', sha256: " + HASH + "}, append: true",
            "write_files[0].append: what has a source is a whole file",
        ),
        ("http://a/b", "write_files[0].source: must be a mapping"),
    ],
)
def test_bad(source: str, expected: str) -> None:
    text = f"#cloud-config\nwrite_files: [{{path: /etc/a, source: {source}}}]\n"
    found = [one.render("f") for one in validate.validate(text.encode())]
    assert any("error" in one and expected in one for one in found), found
    assert "secret" not in "".join(found)


def test_two_that_claim_one_path() -> None:
    source = f"source: {{uri: 'http://a/b', sha256: {HASH}}}"
    text = f"#cloud-config\nwrite_files: [{{path: /etc/a, content: x}}, {{path: /etc/a, {source}}}, {{path: /etc/b, {source}}}, {{path: /etc/b/c}}]\n"
    assert "/etc/a is already claimed by write_files[0].path" in validate.validate(text.encode())[0].message
