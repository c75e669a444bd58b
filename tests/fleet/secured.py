"""A node with certificates and fleet's API over mutual TLS, and users who ask it. All of it is real."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trust
from fleet.api import doors
from fleet.api.server import ApiServer
from fleet.model.registry import Registry
from tests import trusted
from trust import certificate, folder

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(1)
JSON = {"Content-Type": "application/json"}


class World:
    """A trust folder, a node of it with its API on TCP, and users."""

    def __init__(self, root: Path, registry: Registry, node: Path | None = None) -> None:
        self.root, self.registry = root, registry
        self.node = node or trusted.node(root, "node-1", "127.0.0.1")
        self.other = trusted.node(root / "elsewhere", "node-1", "127.0.0.1")
        tls = doors.own(self.node)
        assert tls is not None
        (door,) = doors.opened(["https://0.0.0.0:0"], "", [], tls)
        self.address = ("127.0.0.1", int(door.listening.getsockname()[1]))
        self.server = ApiServer(registry, sockets=[door])
        self.server.start()

    @property
    def lab(self) -> Path:
        return self.root / "authorities"

    def user(self, name: str, role: trust.Role, lab: Path | None = None) -> Path:
        path = self.root / "users" / f"{name}-{len(list((self.root / 'users').glob('*')))}"
        return trusted.laid(path, trust.issue_user(lab or self.lab, name, role))

    def made(self, name: str, role: str, **options: Any) -> Path:
        """A leaf of fleet's authority with other properties."""
        with folder.opened(self.lab, to_write=False) as store:
            authority = store.authority("fleet")
        usual: dict[str, Any] = {"not_after": NOW + DAY, "serves": False, "asks": True}
        key, serial = certificate.new_key(), certificate.random_serial()
        leaf = certificate.leaf(authority, name, role, key.public_key(), serial=serial, **usual | options)
        path = self.root / "users" / f"made-{name}"
        path.mkdir(parents=True)
        (path / "fleet-client.crt").write_text(leaf)
        (path / "fleet-client.key").write_text(certificate.key_text(key))
        shutil.copy(self.node / "fleet-ca.crt", path)
        return path

    def context(self, shown: Path | None, leaf: str = "fleet-client") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.node / "fleet-ca.crt"))
        if shown is not None:
            context.load_cert_chain(shown / f"{leaf}.crt", shown / f"{leaf}.key")
        return context

    @contextlib.contextmanager
    def connected(self, context: ssl.SSLContext) -> Iterator[http.client.HTTPSConnection]:
        with contextlib.closing(http.client.HTTPSConnection(*self.address, timeout=60, context=context)) as connection:
            yield connection

    def ask(
        self, shown: Path | None, method: str = "GET", path: str = "units", body: str | None = None
    ) -> tuple[int, Any]:
        with self.connected(self.context(shown)) as connection:
            return asked(connection, method, path, body)


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection.request(method, f"/fleet/v1/{path}", body, JSON if body else {})
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else None
