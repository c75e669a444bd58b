"""All services of one cluster, as the supervisor owns them: what is plugged into the switch's port 0."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.faults.book import FaultBook
from cluster.model.description import FORWARD, Description
from cluster.model.layout import Layout
from cluster.model.machine import DISCOVERY_PORT
from cluster.model.protocol import Begun
from cluster.services import addresses, dhcp, files, metadata, ntp, packet, pulls, registry
from cluster.services.addresses import EVERY_NODE, METADATA, METADATA_SOURCES, SERVICES, Neighbour, packed
from cluster.services.host import Caller, Host
from cluster.services.metadata import Instance, Metadata
from cluster.services.ntp import TimeServer
from cluster.services.registry import Registry
from cluster.services.stack import Door, Stack, alias
from terminal import Failure
from webserver import selfmade
from webserver.server import Server, Site

if TYPE_CHECKING:
    import ssl

DNS_PORT = 53


class Services:
    """This computer on a cluster's segment.

    ``inject`` sends a frame to the switch, which calls :meth:`deliver` with those for us.
    """

    def __init__(
        self,
        description: Description,
        layout: Layout,
        inject: Callable[[bytes], None],
        book: FaultBook,
        *,
        changed: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Faults of the services are written into ``book``.

        ``changed`` is called when there is another process to record, see :attr:`pids`.
        """
        self._description, self._layout = description, layout
        self._inject, self._say = inject, say
        self._book = book
        self._nodes: dict[str, Neighbour] = {}
        self._time = TimeServer()
        self._shifts: dict[int, float] = {}
        self._addresses: Callable[[Caller, bytes], bytes | None]
        self._names: Callable[[Caller, bytes], bytes | None] | None
        self.adopt(description)
        self._host = Host(
            bytes.fromhex(addresses.MAC.replace(":", "")),
            [packed(SERVICES), *([packed(METADATA)] if self._has_metadata else [])],
            {dhcp.PORT: self._address, DNS_PORT: self._name, ntp.PORT: self._time},
        )
        self._stack = Stack(
            Path(description.qemu),
            layout.runtime / "stack",
            layout.services_log,
            self._doors(),
            mac=self._host.mac,
            apart={node.address: METADATA for node in EVERY_NODE},
            send=inject,
            changed=changed,
            say=say,
        )
        self.registry = Registry(layout.registry, layout.registry_socket, changed, say)
        self._metadata = Metadata(self._instance, secrets.token_bytes(32))
        self._servers: list[Server] = []

    async def start(self) -> None:
        """Listen; a registry that has images runs, if it can. Raises OSError."""
        await self._stack.start()
        secure = self._description.services_fingerprint != ""
        self._serve(
            "pulls",
            pulls.site(self._layout.registry_socket, self._say),
            selfmade.context(self._layout.services_certificate) if secure else None,
        )
        if self._has_metadata:
            self._serve("meta", metadata.site(self._metadata, self._say))
        if self._description.files is not None:
            self._serve("files", files.site(Path(self._description.files), self._say))
        if self.registry.used:
            try:
                await self.registry.start(registry.find())
            except Failure as failure:
                self._say(f"the pushed images cannot be served: {failure}")

    def _serve(self, name: str, site: Site, tls: ssl.SSLContext | None = None) -> None:
        server = Server.at(self._layout.runtime / name, site, tls=tls)
        server.start()
        self._servers.append(server)

    async def stop(self) -> None:
        """End everything."""
        await self._stack.stop()
        await self.registry.stop()
        for server in self._servers:
            server.stop(0)  # the nodes are gone
        self._servers.clear()

    def adopt(self, description: Description) -> None:
        """Serve the cluster that ``description`` describes from now on."""
        self._description = description
        self._nodes = {node.address: node for node in map(Neighbour, description.numbers)}
        self._addresses = dhcp.AddressServer(self._nodes.values())
        self._names = None

    @property
    def _has_metadata(self) -> bool:
        """It serves user-data, which holds secrets: there is none unless nodes take their user-data from it."""
        return self._description.datasource in METADATA_SOURCES

    def shift_time(self, seconds: float) -> Begun:
        """Make the time server wrong by ``seconds``, and by those of other such faults.

        Returns number and text of the fault.
        """
        number, what = self._book.number(), f"time server {seconds:+g} s"
        self._shifts[number] = seconds
        self._time.offset_s = sum(self._shifts.values())

        async def heal() -> None:
            self._shifts.pop(number, None)
            self._time.offset_s = sum(self._shifts.values())

        return Begun(self._book.begin(number, what, (), heal), what)

    def deliver(self, ingress: int, data: bytes) -> None:
        """Take a frame that node ``ingress`` has sent on the segment.

        A frame with another node's source gets no answer.
        """
        frame = packet.read_frame(data)
        if frame is None or addresses.claimed(frame) - {ingress}:
            return
        if (came := self._host.wants(frame)) is not None:
            self._stack.carry(frame.source, came)
        elif (reply := self._host.answer(frame)) is not None:
            self._inject(reply)

    @property
    def pids(self) -> list[int]:
        """The processes that run for them now."""
        return [owner.process.pid for owner in (self._stack, self.registry) if owner.process is not None]

    def _address(self, caller: Caller, question: bytes) -> bytes | None:
        return self._addresses(caller, question)

    def _name(self, caller: Caller, question: bytes) -> bytes | None:
        if self._names is None:
            from cluster.services.dns import NameServer  # its library takes a while to load: not before the first query

            self._names = NameServer(self._nodes.values())
        return self._names(caller, question)

    def _instance(self, address: str) -> Instance | None:
        from cloudconfig.node.datasource import read_volume

        node = self._nodes.get(address)
        if node is None:
            return None
        try:
            seed = read_volume(self._layout.node(node.number) / "cidata.iso")
            public_key = self._layout.key.with_suffix(".pub").read_text().strip()
        except (Failure, OSError) as error:
            self._say(f"no metadata for {node.name}: {error}")
            return None
        return Instance(
            node=node,
            instance_id=seed.instance_id,
            user_data=seed.user_data,
            public_key=public_key,
            architecture=self._description.architecture,
        )

    def _doors(self) -> list[Door]:
        forward = (os.fspath(sys.executable), "-I", "-S", str(FORWARD))
        discovery = str(self._description.discovery_port)
        meta = str(self._layout.runtime / "meta")
        return [
            Door(SERVICES, DISCOVERY_PORT, (*forward, "127.0.0.1", discovery)),
            Door(SERVICES, addresses.FILES_PORT, (*forward, str(self._layout.runtime / "files"))),
            Door(SERVICES, addresses.REGISTRY_PORT, (*forward, str(self._layout.runtime / "pulls"))),
            *(
                Door(alias(node.address), addresses.METADATA_PORT, (*forward, meta, node.address))
                for node in (EVERY_NODE if self._has_metadata else ())
            ),
        ]
