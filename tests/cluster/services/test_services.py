"""The services as nodes see them: the real switch, the real libslirp behind the services, and for each node a QEMU
without machine.

A node's TCP is libslirp's, too: with the node's address as its own and ``hostfwd``, it makes a connection on the
segment of each one made to a port of this computer.
"""

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloudconfig.host import seed
from cluster.faults.book import FaultBook
from cluster.machines import qemu
from cluster.machines.process import Process
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.layout import Layout, make_private
from cluster.model.machine import cluster_address
from cluster.network.impairment import HOST, Faults
from cluster.network.switch import Switch
from cluster.services.addresses import MAC, Neighbour, packed
from cluster.services.packet import ARP, ARP_REQUEST, IPV4, TCP, Arp, Frame, Ipv4, read_ipv4
from cluster.services.provider import Services
from tests.eventually import eventually
from tests.ports import free_ports

pytestmark = pytest.mark.slow

SERVICES_CARD = bytes.fromhex(MAC.replace(":", ""))
USER_DATA = "#cloud-config\nhostname: {}\n"
LARGE = bytes(range(256)) * 8192
"""2 MiB: many windows of TCP."""


class Segment:
    """A cluster's services and switch, in a thread with an event loop, as the supervisor has them."""

    def __init__(self, description: Description, layout: Layout) -> None:
        self.said: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.switch = Switch({number: layout.net_socket(number) for number in description.numbers})
        self.services = Services(
            description,
            layout,
            partial(self.switch.inject, HOST),
            FaultBook(lambda *_: None),
            changed=lambda: None,
            say=self.said.append,
        )
        self.switch.attach(HOST, self.services)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.wait(self.switch.start())
        self.wait(self.services.start())

    def wait(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(60)

    def stop(self) -> None:
        self.wait(self.services.stop())
        self.wait(self.switch.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def program() -> Path:
    return qemu.find({"PATH": os.environ["PATH"]}).path


@pytest.fixture
def description(program: Path, tmp_path: Path) -> Description:
    files = tmp_path / "files"
    files.mkdir()
    (files / "large").write_bytes(LARGE)
    return Description(
        name="segment",
        runtime=str(Layout.of("segment").runtime),
        qemu=str(program),
        accelerator=Accelerator(name="tcg", factor=1.0, reason="a test"),
        memory_mib=64,
        ssh_ports=(1, 2),
        discovery_port=9,
        agent_ttl="30s",
        files=str(files),
        datasource="ec2",
    )


@pytest.fixture
def segment(description: Description) -> Iterator[Segment]:
    layout = Layout.of("segment")
    layout.state.mkdir(parents=True)
    make_private(layout.runtime)
    layout.key.with_suffix(".pub").write_text("ssh-ed25519 AAAA test\n")
    for number in description.numbers:
        layout.node(number).mkdir()
        meta = seed.meta_data(f"i-{number}", f"node-{number}")
        seed.make(layout.node(number) / "cidata.iso", USER_DATA.format(f"node-{number}"), meta)
    segment = Segment(description, layout)
    yield segment
    segment.stop()


@contextmanager
def node(
    segment: Segment, program: Path, number: int, address: str, port: int, as_number: int | None = None
) -> Iterator[str]:
    """The way of node ``number``, with the address of another one if that is named, to a TCP address:
    ``127.0.0.1:PORT``.
    """
    (here,) = free_ports(1)
    user = {
        "type": "user",
        "id": "user",
        "net": "10.77.0.0/24",
        "host": cluster_address(as_number or number),
        "dns": "10.77.0.250",
        "dhcpstart": "10.77.0.200",
        "ipv6": False,
        "hostfwd": [{"str": f"tcp:127.0.0.1:{here}-{address}:{port}"}],
    }
    path = str(Layout.of("segment").net_socket(number))
    wire = {"type": "stream", "id": "wire", "server": False, "addr": {"type": "unix", "path": path}}
    hubs = [{"type": "hubport", "id": f"hub-{end}", "hubid": 0, "netdev": end} for end in ("user", "wire")]
    networks = [word for net in (user, wire, *hubs) for word in ("-netdev", json.dumps(net))]
    command: list[str | Path] = [program, "-M", "none", "-nodefaults", "-display", "none", *networks]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            # What it sends before its wire is connected is lost, and sent again after six seconds.
            eventually(lambda: process.poll() is not None or number in segment.switch.connected())
            eventually(lambda: process.poll() is not None or listens(here))
            assert process.poll() is None
            yield f"127.0.0.1:{here}"
        finally:
            process.kill()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def get(url: str, method: str = "GET", **headers: str) -> bytes:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=names)
    with urllib.request.urlopen(request, timeout=60) as response:
        return bytes(response.read())


def test_a_node_reads_files(segment: Segment, program: Path) -> None:
    with node(segment, program, 1, "10.77.0.1", 8080) as place:
        assert get(f"http://{place}/large") == LARGE
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"http://{place}/../../key.pub")


def test_each_node_gets_its_own_metadata(segment: Segment, program: Path) -> None:
    for number in (1, 2):
        with node(segment, program, number, "169.254.169.254", 80) as place:
            token = get(f"http://{place}/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60").decode()
            assert get(f"http://{place}/latest/user-data", X_aws_ec2_metadata_token=token).decode() == USER_DATA.format(
                f"node-{number}"
            )
            assert json.loads(get(f"http://{place}/openstack/latest/meta_data.json"))["uuid"] == f"i-{number}"


def test_who_takes_a_nodes_address_does_not_get_its_user_data(segment: Segment, program: Path) -> None:
    """Not even a connection: node 2 says that it has node 1's address."""
    with node(segment, program, 2, "169.254.169.254", 80, as_number=1) as place:
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(f"http://{place}/openstack/latest/user_data", timeout=1)
        assert segment.switch.counters[HOST].frames_out > 0
    assert segment.services.pids == []


class Card:
    """The tap at a node's card."""

    def __init__(self) -> None:
        self.ttls: set[tuple[bytes, int]] = set()

    def seen(self, frame: bytes) -> None:
        if (came := read_ipv4(frame[14:])) is not None and frame[:6] != SERVICES_CARD:
            self.ttls.add((came.source, frame[14 + 8]))

    def missed(self, frame: bytes) -> None:
        raise AssertionError(frame)


def test_an_answer_with_user_data_reaches_the_node_and_no_one_behind_it(segment: Segment, program: Path) -> None:
    """A router, which a node is for its containers, drops what it would have to pass on with a TTL of 0."""
    for address, port, ttl in (("169.254.169.254", 80, 1), ("10.77.0.1", 8080, 64)):
        card = Card()
        with node(segment, program, 1, address, port) as place:
            segment.loop.call_soon_threadsafe(segment.switch.tap, 1, card)
            with suppress(urllib.error.HTTPError):
                get(f"http://{place}/openstack/latest/user_data")
            segment.loop.call_soon_threadsafe(segment.switch.untap, 1, card)
        # Besides, the end of the connection before may be sent again.
        assert {seen for source, seen in card.ttls if source == packed(address)} == {ttl}


def test_without_need_there_is_no_metadata(program: Path, description: Description) -> None:
    layout = Layout.of("segment")
    layout.state.mkdir(parents=True)
    make_private(layout.runtime)
    usual = Segment(replace(description, datasource="nocloud"), layout)
    try:
        assert not (layout.runtime / "meta").exists()
        question = Arp(ARP_REQUEST, Neighbour(1).mac, packed("10.77.0.11"), bytes(6), packed("169.254.169.254"))
        frame = Frame(b"\xff" * 6, Neighbour(1).mac, ARP, question.bytes())
        assert usual.services._host.answer(frame) is None
        assert usual.services._host.answer(
            frame._replace(payload=question._replace(target_ip=packed("10.77.0.1")).bytes())
        )
        with node(usual, program, 1, "10.77.0.1", 8080) as place:
            assert get(f"http://{place}/large") == LARGE
    finally:
        usual.stop()


def test_a_connection_survives_a_cut_of_its_link(segment: Segment, program: Path) -> None:
    """TCP of both sides sends again what the switch drops."""
    with node(segment, program, 1, "10.77.0.1", 8080) as place:
        get(f"http://{place}/")
        segment.loop.call_soon_threadsafe(segment.switch.impose, Faults().cutting(1, HOST))
        heal = partial(segment.switch.impose, Faults())
        segment.loop.call_soon_threadsafe(lambda: segment.loop.call_later(0.5, heal))
        assert get(f"http://{place}/large") == LARGE


def test_tcp_comes_back_when_its_qemu_is_killed(segment: Segment, program: Path) -> None:
    with node(segment, program, 1, "10.77.0.1", 8080) as place:
        get(f"http://{place}/")
        (first,) = segment.services.pids
        os.kill(first, 9)
        assert get(f"http://{place}/large") == LARGE
        assert segment.services.pids != [first]
    assert any("TCP of the services ended" in line for line in segment.said)


def test_nothing_runs_before_somebody_asks_and_nothing_is_left(segment: Segment, program: Path) -> None:
    assert segment.services.pids == []
    with node(segment, program, 1, "10.77.0.1", 8080) as place:
        get(f"http://{place}/")
    (pid,) = segment.services.pids
    segment.wait(segment.services.stop())
    assert segment.services.pids == []
    assert Process.of(pid) is None
    segment.wait(segment.services.start())  # the fixture stops them once more


def test_other_ports_are_refused(segment: Segment, program: Path) -> None:
    with node(segment, program, 1, "10.77.0.1", 22) as place, pytest.raises(OSError):
        get(f"http://{place}/")


def test_nodes_come_and_go(segment: Segment, program: Path, description: Description) -> None:
    with node(segment, program, 2, "169.254.169.254", 80) as place:
        url = f"http://{place}/openstack/latest/meta_data.json"
        assert json.loads(get(url))["name"] == "node-2"
        segment.loop.call_soon_threadsafe(segment.services.adopt, replace(description, ssh_ports=(1,)))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url)
        segment.loop.call_soon_threadsafe(segment.services.adopt, description)
        assert json.loads(get(url))["name"] == "node-2"


def test_who_is_not_of_the_segment_starts_nothing(segment: Segment) -> None:
    for source, alive in (("10.77.1.12", False), ("192.168.0.1", False), ("10.77.0.11", True)):
        came = Ipv4(packed(source), packed("10.77.0.1"), TCP, bytes(20))
        frame = Frame(bytes.fromhex("525400430000"), bytes.fromhex("525400430001"), IPV4, came.bytes())
        segment.loop.call_soon_threadsafe(segment.services.deliver, 1, frame.bytes())
        if alive:
            eventually(lambda: segment.services.pids)
        else:
            time.sleep(0.3)  # nothing comes
        assert bool(segment.services.pids) == alive
