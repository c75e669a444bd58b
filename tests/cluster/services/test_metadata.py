"""The metadata of EC2 and OpenStack, as their documents have it."""

import json
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.services.addresses import Neighbour
from cluster.services.metadata import Instance, Metadata
from webserver.message import Response

ADDRESSES = {"10.77.0.11": 1, "10.77.0.12": 2}
TTL = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def find(address: str) -> Instance | None:
    number = ADDRESSES.get(address)
    if number is None:
        return None
    return Instance(
        node=Neighbour(number),
        instance_id=f"i-{number}",
        user_data=b"#cloud-config\n" if number == 1 else b"",
        public_key="ssh-ed25519 AAAA me",
        architecture="amd64",
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(clock: Clock) -> Metadata:
    return Metadata(find, b"secret", clock)


def token(service: Metadata, caller: str = "10.77.0.11", ttl: str = "60") -> str:
    response = service.answer("PUT", "/latest/api/token", {TTL: ttl}, caller)
    assert response.status == HTTPStatus.OK
    assert (TTL, ttl) in [(name.lower(), value) for name, value in response.headers.items()]
    return response.body.decode()


def get(service: Metadata, path: str, caller: str = "10.77.0.11") -> Response:
    return service.answer("GET", path, {TOKEN: token(service, caller)}, caller)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", "2009-04-04\n2021-03-23\nlatest"),
        ("/latest/", "dynamic/\nmeta-data/\nuser-data"),
        ("/latest/meta-data/instance-id", "i-1"),
        ("/latest/meta-data/hostname", "node-1.cluster.internal"),
        ("/latest/meta-data/local-ipv4", "10.77.0.11"),
        ("/latest/meta-data/public-ipv4", "10.77.0.11"),
        ("/2009-04-04/meta-data/public-keys/", "0=cluster"),
        ("/latest/meta-data/public-keys/0/", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA me"),
        ("/latest/meta-data/placement/availability-zone", "flotilla-1"),
        ("/latest/meta-data/network/interfaces/macs/52:54:00:43:00:01/local-ipv4s", "10.77.0.11"),
        ("/latest/user-data?x=1", "#cloud-config\n"),
    ],
)
def test_ec2(service: Metadata, path: str, body: str) -> None:
    response = get(service, path)
    assert (response.status, response.body.decode()) == (HTTPStatus.OK, body)


def test_nothing_without_a_token_that_is_young_and_ones_own(service: Metadata, clock: Clock) -> None:
    mine, other = token(service), token(service, "10.77.0.12")
    path = "/latest/meta-data/instance-id"

    def status(value: str) -> int:
        return service.answer("GET", path, {TOKEN: value}, "10.77.0.11").status

    assert service.answer("GET", path, {}, "10.77.0.11").status == HTTPStatus.UNAUTHORIZED
    assert [status(value) for value in (mine, other, mine[:-4] + "AAA=", "", "%", "é")] == [
        HTTPStatus.OK,
        *[HTTPStatus.UNAUTHORIZED] * 5,
    ]
    assert status(token(Metadata(find, b"another", clock))) == HTTPStatus.UNAUTHORIZED
    clock.now += 61
    assert status(mine) == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1e3", "٣", "9" * 5000])
def test_a_token_lives_from_a_second_to_six_hours(service: Metadata, ttl: str) -> None:
    assert service.answer("PUT", "/latest/api/token", {TTL: ttl}, "10.77.0.11").status == HTTPStatus.BAD_REQUEST


def test_a_proxy_gets_no_token(service: Metadata) -> None:
    headers = {TTL: "60", "x-forwarded-for": "1.2.3.4"}
    assert service.answer("PUT", "/latest/api/token", headers, "10.77.0.11").status == HTTPStatus.FORBIDDEN
    assert service.answer("GET", "/latest/api/token", {}, "10.77.0.11").status == HTTPStatus.METHOD_NOT_ALLOWED


def test_no_user_data_is_not_found(service: Metadata) -> None:
    assert get(service, "/latest/user-data", "10.77.0.12").status == HTTPStatus.NOT_FOUND
    assert service.answer("GET", "/openstack/latest/user_data", {}, "10.77.0.12").status == HTTPStatus.NOT_FOUND


def test_openstack(service: Metadata) -> None:
    def read(path: str) -> Response:
        response = service.answer("GET", f"/openstack{path}", {}, "10.77.0.11")
        assert response.status == HTTPStatus.OK
        return response

    assert read("").body == b"2012-08-10\n2018-08-27\nlatest"
    assert read("/latest/").body.split() == [b"meta_data.json", b"network_data.json", b"vendor_data.json", b"user_data"]
    assert read("/latest/user_data").body == b"#cloud-config\n"
    meta = json.loads(read("/latest/meta_data.json").body)
    assert (meta["uuid"], meta["name"]) == ("i-1", "node-1")
    assert meta["public_keys"] == {"cluster": "ssh-ed25519 AAAA me"}
    network = json.loads(read("/2018-08-27/network_data.json").body)
    assert network["networks"][0]["ip_address"] == "10.77.0.11"
    assert network["networks"][0]["netmask"] == "255.255.255.0"
    assert network["networks"][0]["link"] == network["links"][0]["id"]


def test_a_stranger_gets_nothing(service: Metadata) -> None:
    for path in ("/latest/api/token", "/latest/user-data", "/openstack/latest/user_data"):
        assert service.answer("GET", path, {}, "10.77.0.99").status == HTTPStatus.NOT_FOUND
    assert service.answer("POST", "/openstack/latest/user_data", {}, "10.77.0.11").status == 405


@given(st.text(max_size=60), st.sampled_from(["GET", "PUT", "HEAD"]))
def test_any_path_has_an_answer(path: str, method: str) -> None:
    service = Metadata(find, b"secret")
    for start in ("/", "/latest/", "/latest/meta-data/", "/openstack/latest/"):
        headers = {TOKEN: token(service)}
        assert service.answer(method, start + path, headers, "10.77.0.11").status in (200, 404, 405)
