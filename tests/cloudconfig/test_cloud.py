"""Metadata services over real HTTP: the one that a cluster has, and ones in every kind of trouble."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cloudconfig.node import cloud
from cloudconfig.node.cloud import BODY_MAX, Service
from cluster.services.addresses import Neighbour
from cluster.services.metadata import Instance, Metadata
from terminal import Failure

Answer = Callable[[str, str, dict[str, str]], "tuple[int, bytes, dict[str, str]]"]
KEY = "ssh-ed25519 AAAA me"
METADATA = cloud.Metadata(b"#cloud-config\n", "i-1", "node-1", (KEY,))
ADDRESSES = (("private_ipv4", "10.77.0.11"), ("public_ipv4", "10.77.0.11"))


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A server on a free port of this computer that answers so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body, more = answer(self.command, self.path, headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815 - http.server names it

        def log_message(self, *_: object) -> None:
            """Silence."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def ours() -> Answer:
    """The services of a cluster, for node 1."""
    instance = Instance(
        node=Neighbour(1), instance_id="i-1", user_data=b"#cloud-config\n", public_key=KEY, architecture="amd64"
    )
    service = Metadata(lambda _: instance, b"secret")

    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        response = service.answer(method, path, headers, "10.77.0.11")
        return int(response.status), response.body, dict(response.headers)

    return answer


def at(port: int, deadline_s: float = 5.0) -> Service:
    return Service("127.0.0.1", port, deadline_s=deadline_s)


@pytest.mark.parametrize("kind", ["ec2", "openstack"])
def test_what_a_cluster_serves(ours: Answer, kind: str) -> None:
    with serving(ours) as port:
        metadata = cloud.KINDS[kind](at(port))
    assert metadata._replace(addresses=()) == METADATA
    # OpenStack's own format has none, and what it has of EC2's wants a token here: the cards' are taken.
    assert metadata.addresses == (ADDRESSES if kind == "ec2" else ())


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_ec2_of_clouds_without_tokens(ours: Answer, status: int) -> None:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if method == "PUT":
            return status, b"", {}
        assert "x-aws-ec2-metadata-token" not in headers
        files = {
            "/latest/meta-data/instance-id": b"i-old\n",
            "/latest/meta-data/local-hostname": b"old.ec2.internal",
            "/latest/meta-data/public-keys/": b"0=a\n1=b\nmy key\n../../x=y",
            "/latest/meta-data/public-keys/0/openssh-key": b"ssh-rsa A a\n\n",
            "/latest/meta-data/public-keys/1/openssh-key": b"ssh-rsa B b",
        }
        return (200, files[path], {}) if path in files else (404, b"not here", {})

    # 501 is a 5xx, but no trouble that passes: the method is unknown there.
    with serving(answer) as port:
        assert cloud.ec2(at(port)) == cloud.Metadata(b"", "i-old", "old", ("ssh-rsa A a", "ssh-rsa B b"))


def test_trouble_is_waited_out(ours: Answer) -> None:
    paths: list[str] = []

    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        paths.append(path)
        if len(paths) in (1, 4):
            return 503, b"", {}
        if len(paths) == 2:
            return 429, b"", {}
        if len(paths) == 6:
            return 200, b"half", {"Content-Length": "400"}
        return ours(method, path, headers)

    with serving(answer) as port:
        assert cloud.ec2(at(port)) == METADATA._replace(addresses=ADDRESSES)
    assert len(paths) == 6 + 4 + 3


def test_no_service_is_reported_after_the_deadline_with_the_last_trouble() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with serving(lambda *_: (404, b"", {})) as port:
        pass  # no one listens there any more
    service = Service("127.0.0.1", port, deadline_s=30, clock=lambda: now[0], sleep=sleep)
    with pytest.raises(Failure, match="no answer after 30 s: Connection refused") as caught:
        cloud.openstack(service)
    assert caught.value.where == "http://127.0.0.1/openstack/latest/user_data"
    assert slept[:3] == [0.1, 0.2, 0.4]
    assert max(slept) == 5.0
    assert 24 < now[0] <= 30


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(status: int) -> None:
    paths: list[str] = []

    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        paths.append(path)
        return status, b"", {"Location": "/elsewhere"}

    with serving(answer) as port:
        for kind in (cloud.ec2, cloud.openstack):
            with pytest.raises(Failure, match=f"HTTP status {status}"):
                kind(at(port))
    assert "/elsewhere" not in paths


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_is_no_empty_answer(ours: Answer, status: int) -> None:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (status, b"", {}) if path.endswith(("user-data", "user_data")) else ours(method, path, headers)

    with serving(answer) as port:
        for kind in (cloud.ec2, cloud.openstack):
            with pytest.raises(Failure, match=f"HTTP status {status}") as caught:
                kind(at(port))
            assert str(caught.value.where).endswith(("user-data", "user_data"))


def test_another_kind_of_service_is_reported() -> None:
    with serving(lambda *_: (404, b"", {})) as port:
        for kind in (cloud.ec2, cloud.openstack):
            (trouble,) = kind(at(port)).damage
            assert trouble.message == "there is none"
            assert trouble.path.endswith(("instance-id", "meta_data.json"))


@pytest.mark.parametrize("broken", ["instance-id", "local-hostname", "public-keys/"])
def test_an_error_of_ec2_keeps_back_nothing_else(ours: Answer, broken: str) -> None:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (400, b"", {}) if path.endswith(broken) else ours(method, path, headers)

    with serving(answer) as port:
        metadata = cloud.ec2(at(port))
    (trouble,) = metadata.damage
    assert trouble.path.endswith(broken)
    assert metadata.user_data
    assert [metadata.instance_id != "", metadata.hostname != "", metadata.keys != ()].count(False) == 1


def test_a_key_is_short(ours: Answer) -> None:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (200, b"x" * 9000, {}) if path.endswith("openssh-key") else ours(method, path, headers)

    with serving(answer) as port:
        assert [trouble.message for trouble in cloud.ec2(at(port)).damage] == ["a key of more than 8 KiB"]


@pytest.mark.parametrize("extra", [{}, {"Content-Length": "99999999999"}])
def test_an_answer_without_end_is_cut_off(ours: Answer, extra: dict[str, str]) -> None:
    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        if path.endswith("user_data"):
            return 200, b"x" * (BODY_MAX + 70000), extra
        return ours(method, path, headers)

    with serving(answer) as port, pytest.raises(Failure, match="more than 2 MiB"):
        cloud.openstack(at(port))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "does not say which machine"),
        (b'{"uuid": 7}', "does not say which machine"),
        (b"\xff\xfe{", "no JSON"),
    ],
)
def test_openstacks_description_may_be_broken(body: bytes, message: str) -> None:
    with serving(lambda *_: (200, body, {})) as port:
        metadata = cloud.openstack(at(port))
    assert metadata.user_data == body
    (trouble,) = metadata.damage
    assert message in trouble.message


def test_openstacks_description_may_be_strange() -> None:
    body = b'{"uuid": "u", "hostname": 7, "public_keys": {"a": 1, "b": "ssh-rsa B b\\n"}}'

    def answer(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (200, body, {}) if path.endswith(".json") else (404, b"", {})

    with serving(answer) as port:
        assert cloud.openstack(at(port)) == cloud.Metadata(b"", "u", "", ("ssh-rsa B b",))


@pytest.mark.parametrize("token", [b"a\r\nX-Evil: 1", b"\xff", b"x" * 2000])
def test_a_token_is_printable(token: bytes) -> None:
    with serving(lambda *_: (200, token, {})) as port, pytest.raises(Failure, match="no token"):
        cloud.ec2(at(port))
