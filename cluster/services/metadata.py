"""A cloud's metadata service for its machines, at 169.254.169.254.

It has EC2's instance metadata, with the tokens of its version 2, and OpenStack's.

A pure function from a request of a node to its answer. Formats: Amazon's "Instance metadata and user data" and
OpenStack's "Metadata service" documents. EC2's part answers nothing without a token, as EC2 does for machines made
today; OpenStack's has no tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from cluster.model.machine import PREFIX_BITS, cluster_mac
from cluster.services.addresses import DOMAIN, METADATA, SERVICES, Neighbour
from cluster.services.site import node_site
from webserver.message import Response
from webserver.server import Site

EC2_VERSIONS = ("2009-04-04", "2021-03-23", "latest")
OPENSTACK_VERSIONS = ("2012-08-10", "2018-08-27", "latest")
TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_TTL_S_MAX = 21600
REGION = "flotilla"
ZONE = "flotilla-1"
JSON = "application/json"

Tree = Mapping[str, "Tree | str | bytes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """The metadata of one node."""

    node: Neighbour
    instance_id: str
    user_data: bytes
    public_key: str
    architecture: str


class Metadata:
    """The service: ``find`` knows the instance that has an address, None if none has."""

    def __init__(
        self, find: Callable[[str], Instance | None], secret: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        """``secret`` signs tokens, so that none needs to be remembered."""
        self._find, self._secret, self._clock = find, secret, clock

    def answer(self, method: str, path: str, headers: Mapping[str, str], caller: str) -> Response:
        """The answer to a request; ``headers`` by name in lower case."""
        instance = self._find(caller)
        if instance is None:
            return Response(HTTPStatus.NOT_FOUND)
        parts = [part for part in path.partition("?")[0].split("/") if part]
        if parts == ["latest", "api", "token"]:
            return self._token(method, headers, caller)
        if method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED)
        if parts[:1] == ["openstack"]:
            return _openstack(instance, parts[1:])
        if not self._valid(headers.get(TOKEN_HEADER.lower(), ""), caller):
            return Response(HTTPStatus.UNAUTHORIZED)
        if not parts:
            return Response(HTTPStatus.OK, "\n".join(EC2_VERSIONS).encode())
        return _walk(_ec2(instance), parts[1:]) if parts[0] in EC2_VERSIONS else Response(HTTPStatus.NOT_FOUND)

    def _token(self, method: str, headers: Mapping[str, str], caller: str) -> Response:
        if method != "PUT":
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "OPTIONS, PUT"})
        if "x-forwarded-for" in headers:  # the request comes through an open proxy
            return Response(HTTPStatus.FORBIDDEN)
        text = headers.get(TTL_HEADER.lower(), "")
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= TOKEN_TTL_S_MAX and len(text) <= 6):
            return Response(HTTPStatus.BAD_REQUEST)
        token = self._sign(int(self._clock()) + int(text), caller)
        return Response(HTTPStatus.OK, token.encode(), headers={TTL_HEADER: text})

    def _sign(self, until: int, caller: str) -> str:
        stamp = until.to_bytes(8, "big")
        digest = hmac.digest(self._secret, stamp + caller.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(stamp + digest).decode()

    def _valid(self, token: str, caller: str) -> bool:
        try:
            until = int.from_bytes(base64.urlsafe_b64decode(token)[:8], "big")
        except ValueError:
            return False
        if not self._clock() < until < 1 << 63:
            return False
        return hmac.compare_digest(self._sign(until, caller).encode(), token.encode())


def _ec2(instance: Instance) -> Tree:
    node = instance.node
    name = f"{node.name}.{DOMAIN}"
    mac = cluster_mac(node.number)
    document = {
        "accountId": "000000000000",
        "architecture": {"amd64": "x86_64"}.get(instance.architecture, instance.architecture),
        "availabilityZone": ZONE,
        "imageId": "ami-flotilla",
        "instanceId": instance.instance_id,
        "instanceType": "flotilla.node",
        "privateIp": node.address,
        "region": REGION,
        "version": "2017-09-30",
    }
    tree: dict[str, Tree | str | bytes] = {
        "dynamic": {"instance-identity": {"document": json.dumps(document, indent=1)}},
        "meta-data": {
            "ami-id": "ami-flotilla",
            "ami-launch-index": str(node.number - 1),
            "hostname": name,
            "instance-id": instance.instance_id,
            "instance-type": "flotilla.node",
            "local-hostname": name,
            "local-ipv4": node.address,
            "mac": mac,
            "network": {"interfaces": {"macs": {mac: {"device-number": "0", "local-ipv4s": node.address, "mac": mac}}}},
            "placement": {"availability-zone": ZONE, "region": REGION},
            "public-hostname": name,
            "public-ipv4": node.address,
            "public-keys": {"0": {"openssh-key": instance.public_key}},
        },
    }
    if instance.user_data:
        tree["user-data"] = instance.user_data
    return tree


def _openstack(instance: Instance, parts: list[str]) -> Response:
    if not parts:
        return Response(HTTPStatus.OK, "\n".join(OPENSTACK_VERSIONS).encode())
    if parts[0] not in OPENSTACK_VERSIONS:
        return Response(HTTPStatus.NOT_FOUND)
    node = instance.node
    files: dict[str, Tree | str | bytes] = {
        "meta_data.json": _json(
            {
                "availability_zone": ZONE,
                "hostname": f"{node.name}.{DOMAIN}",
                "keys": [{"name": "cluster", "type": "ssh", "data": instance.public_key}],
                "launch_index": node.number - 1,
                "local-ipv4": node.address,
                "meta": {},
                "name": node.name,
                "public_keys": {"cluster": instance.public_key},
                "uuid": instance.instance_id,
            }
        ),
        "network_data.json": _json(_network(node)),
        "vendor_data.json": _json({}),
    }
    if instance.user_data:
        files["user_data"] = instance.user_data
    return _walk(files, parts[1:])


def _network(node: Neighbour) -> dict[str, object]:
    mask = ".".join(str(255 if byte < PREFIX_BITS // 8 else 0) for byte in range(4))
    route = {"network": METADATA, "netmask": "255.255.255.255", "gateway": SERVICES}
    segment = {"id": "segment", "link": "cluster", "type": "ipv4", "network_id": "segment"}
    return {
        "links": [{"id": "cluster", "type": "phy", "ethernet_mac_address": cluster_mac(node.number), "mtu": 1500}],
        "networks": [{**segment, "ip_address": node.address, "netmask": mask, "routes": [route]}],
        "services": [{"type": "dns", "address": SERVICES}],
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


def _walk(tree: Tree, parts: list[str]) -> Response:
    found: Tree | str | bytes = tree
    for part in parts:
        below = found.get(part) if isinstance(found, Mapping) else None
        if below is None:
            return Response(HTTPStatus.NOT_FOUND)
        found = below
    kind = JSON if parts and parts[-1].endswith(".json") else "text/plain"
    if isinstance(found, bytes):
        return Response(HTTPStatus.OK, found, "application/octet-stream")
    if isinstance(found, str):
        return Response(HTTPStatus.OK, found.encode(), kind)
    if parts[-1:] == ["public-keys"]:
        return Response(HTTPStatus.OK, b"0=cluster")  # EC2 lists keys with their names, unlike everything else
    names = [f"{name}/" if isinstance(value, Mapping) else name for name, value in found.items()]
    return Response(HTTPStatus.OK, "\n".join(names).encode())


def site(service: Metadata, say: Callable[[str], None]) -> Site:
    """What serves ``service``."""
    return node_site(
        lambda request: service.answer(request.method, request.target, request.headers, request.peer),
        ("GET", "HEAD", "PUT"),
        say,
    )
