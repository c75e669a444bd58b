"""Members that are killed, wiped, cut off, or die while they join: a membership that heals itself, over real etcds.

A :class:`Node` does what a machine does: its unit starts ``discovery join`` again and again, its upkeep makes rounds,
and something renews its machine's lease. Faults are chosen by a seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from discovery.beside import Beside
from discovery.join import Join
from discovery.server import DiscoveryServer
from discovery.upkeep.daemon import Settings, Upkeep
from discovery.upkeep.desired import MACHINES, PREFIX, decode
from discovery.upkeep.plan import Limits
from etcd import Client, EtcdError, Lease, Member, Tls, credentials
from terminal import Failure
from tests import trusted
from tests.discovery.relays import Relays
from tests.eventually import eventually
from tests.ports import free_ports

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    # Python leaves a socket open that is reset in the moment in which TLS begins (ssl.SSLSocket._create), and members
    # that are killed reset theirs at any moment.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]

EVERY_S = 0.3
LEASE_S = 3
LIMITS = Limits(absent_s=2.0, stalled_s=6.0)
NODES, MEMBERS = 5, 3
HEALED_S = 240.0
"""On a computer with ten other things to do; alone it takes ten seconds."""


class Node:
    """A machine, from :meth:`start` to :meth:`kill`."""

    def __init__(self, folder: Path, binary: str, number: int, discovery: str) -> None:
        self.number = number
        self.name = f"n{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.log = folder / f"{self.name}.log"
        self.is_up = False
        self.process: subprocess.Popen[bytes] | None = None
        self.client_port, self.peer_port, self.relayed_client, self.relayed_peer = free_ports(4)
        self.url = f"http://127.0.0.1:{self.client_port}"
        self.peer = f"http://127.0.0.1:{self.relayed_peer}"
        self._binary = binary
        self._environment = {
            "PATH": os.environ["PATH"],
            "ETCD_NAME": self.name,
            "ETCD_DATA_DIR": str(self.folder / "data"),
            "ETCD_DISCOVERY": discovery,
            "ETCD_LISTEN_CLIENT_URLS": self.url,
            "ETCD_ADVERTISE_CLIENT_URLS": f"http://127.0.0.1:{self.relayed_client}",
            "ETCD_LISTEN_PEER_URLS": f"http://127.0.0.1:{self.peer_port}",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": self.peer,
            "ETCD_UNSAFE_NO_FSYNC": "true",
            "ETCD_LOG_LEVEL": "error",
            "ETCD_HEARTBEAT_INTERVAL": "100",
            "ETCD_ELECTION_TIMEOUT": "1000",
        }
        self._threads: list[threading.Thread] = []
        self._upkeep: Upkeep | None = None
        self._paused = threading.Event()
        """Set, its machine's lease is not renewed."""

    def start(self) -> None:
        """Switch it on."""
        self.is_up = True
        self._upkeep = Upkeep(
            Beside(self.folder / "data"),
            Settings(self.name, EVERY_S, LIMITS, timeout_s=2.0),
            say=self.say,
            restart=lambda _: self._signal(signal.SIGTERM),
        )
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._unit, self._upkeep.run, self._lease)
        ]
        for thread in self._threads:
            thread.start()

    def kill(self) -> None:
        """Pull its plug."""
        self.is_up = False
        self._signal(signal.SIGKILL)
        if self._upkeep is not None:
            self._upkeep.stop()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), self.log.read_text()

    def wipe(self) -> None:
        """Lose its disk."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def pause_lease(self, paused: bool) -> None:
        """Whether its machine's lease ends."""
        (self._paused.set if paused else self._paused.clear)()

    def say(self, text: str) -> None:
        """Keep what it says."""
        with self.log.open("a") as log:
            log.write(f"{time.monotonic():.1f} {text}\n")

    def _unit(self) -> None:
        while self.is_up:
            try:
                Join(
                    self._environment,
                    certificates=self.folder / "none",
                    etcd=self._binary,
                    say=self.say,
                    become=self._become,
                    sleep=lambda seconds: time.sleep(min(seconds, 0.3)) if self.is_up else sys.exit(),
                ).run()
            except Failure as failure:
                self.say(str(failure))
            time.sleep(0.2)  # RestartSec=

    def _become(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        if not self.is_up:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=dict(environment), stdout=log, stderr=log)
        if not self.is_up:
            self.process.kill()
        if self.process.wait() == 0 and self.is_up:
            Beside(self.folder / "data").ended.touch()  # ExecStopPost=

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _lease(self) -> None:
        """What fleet does for its machine."""
        lease = Lease(0, 0)
        with contextlib.closing(Client([self.url], timeout=2.0)) as client:
            while self.is_up:
                with contextlib.suppress(EtcdError):
                    if self._paused.is_set():
                        pass
                    elif not lease.id or client.lease_keepalive(lease.id) == 0:
                        lease = client.lease_grant(LEASE_S)
                        client.put(MACHINES + self.name, b"{}", lease=lease.id)
                time.sleep(LEASE_S / 6)


class Fleet:
    """Five nodes, of which three found the cluster; a writer, and one who watches how many changes are in flight."""

    def __init__(self, folder: Path, binary: str, discovery: str) -> None:
        self.nodes = [Node(folder, binary, number, discovery) for number in range(1, NODES + 1)]
        self.relays = Relays(lambda: {each.number: each.process.pid for each in self.nodes if each.process is not None})
        for node in self.nodes:
            self.relays.add(node.number, node.relayed_client, node.client_port)
            self.relays.add(node.number, node.relayed_peer, node.peer_port)
        self.acknowledged: list[int] = []
        self.gap_s = 0.0
        """The longest time without an acknowledged write."""
        self.in_flight: set[int] = set()
        self.client = Client([each.url for each in self.nodes], timeout=3.0)
        self._writing = threading.Event()
        self._beside = [threading.Thread(target=each, daemon=True) for each in (self._write, self._observe)]

    def form(self) -> None:
        """Bring up the founders first, then the proxies."""
        for node in self.nodes[:MEMBERS]:
            node.start()
        eventually(self.is_whole, self.story)
        for node in self.nodes[MEMBERS:]:
            node.start()
        eventually(lambda: len(self.offers()) == NODES, self.story)
        for thread in self._beside:
            thread.start()
        eventually(lambda: self.acknowledged, self.story)  # or a fault may come before the first write

    def close(self) -> None:
        """End all."""
        self._writing.set()
        for thread in self._beside:
            if thread.ident is not None:
                thread.join(60)
        for node in self.nodes:
            node.kill()
        self.client.close()
        self.relays.close()

    def members(self) -> tuple[Member, ...]:
        """As a quorum knows them."""
        return self.client.members(agreed=True)

    def offers(self) -> Mapping[str, object]:
        """The nodes that have said what they are."""
        with contextlib.suppress(EtcdError):
            return decode(self.client.range(PREFIX).kvs, PREFIX).offers
        return {}

    def is_whole(self) -> bool:
        """Whether there are as many voters as there should be, each on a node that is up, and all follow one leader."""
        try:
            members = self.members()
            up = {each.peer: each.url for each in self.nodes if each.is_up}
            if len(members) != MEMBERS or any(each.learner or each.peer_urls[0] not in up for each in members):
                return False
            said = [self.client.status(up[each.peer_urls[0]]) for each in members]
        except EtcdError:
            return False
        return {each.member_id for each in said} == {each.id for each in members} and len(
            {each.leader for each in said} - {0}
        ) == 1

    def voters(self) -> list[Node]:
        """The nodes that vote."""
        peers = {url for each in self.members() if not each.learner for url in each.peer_urls}
        return [each for each in self.nodes if each.peer in peers]

    def learner(self) -> Node | None:
        """The node that is joining."""
        with contextlib.suppress(EtcdError):
            peers = {url for each in self.members() if each.learner for url in each.peer_urls}
            return next((each for each in self.nodes if each.peer in peers), None)
        return None

    def story(self) -> str:
        """What all have said."""
        said = [f"--- {each.name}\n{each.log.read_text()}" for each in self.nodes if each.log.exists()]
        return "\n".join(line for text in said for line in text.splitlines() if '"level":"info"' not in line)

    def _write(self) -> None:
        number, last = 0, time.monotonic()
        with contextlib.closing(Client([each.url for each in self.nodes], timeout=2.0)) as client:
            while not self._writing.wait(0.02):
                number += 1
                try:
                    client.put(f"written/{number}", b"")
                except EtcdError:
                    continue
                now = time.monotonic()
                self.gap_s, last = max(self.gap_s, now - last), now
                self.acknowledged.append(number)

    def _observe(self) -> None:
        with contextlib.closing(Client([each.url for each in self.nodes], timeout=2.0)) as client:
            while not self._writing.wait(0.1):
                with contextlib.suppress(EtcdError):
                    self.in_flight.add(sum(each.learner or not each.name for each in client.members(agreed=True)))

    def lost(self) -> list[int]:
        """The acknowledged writes that are missing."""
        acknowledged = list(self.acknowledged)  # before it reads: more are written meanwhile
        keys = {kv.key for kv in self.client.range("written/").kvs}
        return [number for number in acknowledged if f"written/{number}" not in keys]


@pytest.fixture
def fleet(tmp_path: Path, etcd_binary: str) -> Iterator[Fleet]:
    service = DiscoveryServer("127.0.0.1", 0, tmp_path / "tokens.json")
    service.start()
    fleet = Fleet(tmp_path, etcd_binary, service.url(service.new_token(MEMBERS)))
    try:
        fleet.form()
        yield fleet
    finally:
        fleet.close()
        service.stop()


def killed(fleet: Fleet, one: Node) -> None:
    """It is gone for a while, with its machine, and comes back with the data of a member that was removed."""
    one.kill()
    eventually(fleet.is_whole, fleet.story, HEALED_S)
    one.start()


def wiped(fleet: Fleet, one: Node) -> None:
    """It is back at once, and has nothing."""
    one.kill()
    one.wipe()
    one.start()


def destroyed(fleet: Fleet, one: Node) -> None:
    """It is gone for a while, and comes back with another disk."""
    one.kill()
    one.wipe()
    eventually(fleet.is_whole, fleet.story, HEALED_S)
    one.start()


def cut(fleet: Fleet, one: Node) -> None:
    """It runs, and reaches no other: it counts as lost, and learns of it when it is back."""
    fleet.relays.isolate(one.number)
    one.pause_lease(True)
    former = {each.name for each in fleet.voters() if each is not one}
    eventually(lambda: {each.name for each in voters_of(fleet)} - former - {one.name}, fleet.story, HEALED_S)
    one.pause_lease(False)
    fleet.relays.heal()


def joiner_dies(fleet: Fleet, one: Node) -> None:
    """One is destroyed, and who was to take its place dies on the way: its learner is evicted."""
    one.kill()
    one.wipe()
    joiner = eventually(fleet.learner, fleet.story, HEALED_S)
    assert joiner is not None
    joiner.kill()
    eventually(fleet.is_whole, fleet.story, HEALED_S)
    one.start()
    joiner.start()


def voters_of(fleet: Fleet) -> list[Node]:
    with contextlib.suppress(EtcdError):
        return fleet.voters()
    return []


FAULTS: Sequence[Callable[[Fleet, Node], None]] = (killed, wiped, destroyed, cut, joiner_dies)


def suffers(fleet: Fleet, faults: Sequence[Callable[[Fleet, Node], None]], chance: random.Random) -> None:
    """Each of the faults befalls one of the voters; then it is whole, without anyone doing anything."""
    for fault in faults:
        one = chance.choice(fleet.voters())
        for node in fleet.nodes:
            node.say(f"=== {fault.__name__} {one.name}")
        fault(fleet, one)
        eventually(fleet.is_whole, fleet.story, HEALED_S)
    eventually(lambda: all(each.is_up for each in fleet.nodes) and fleet.is_whole(), fleet.story, HEALED_S)
    assert fleet.in_flight <= {0, 1}, f"changes in flight at the same time: {fleet.in_flight}\n{fleet.story()}"
    assert fleet.acknowledged
    assert fleet.lost() == [], fleet.story()


@pytest.mark.parametrize("part", [(wiped, joiner_dies), (cut,)], ids=lambda part: part[0].__name__)
def test_a_membership_heals_itself_and_no_acknowledged_write_is_lost(
    fleet: Fleet, seed: int, part: Sequence[Callable[[Fleet, Node], None]]
) -> None:
    suffers(fleet, part, random.Random(seed))


@pytest.mark.full
@pytest.mark.parametrize("number", range(50))
def test_fifty_times_by_chance(fleet: Fleet, number: int) -> None:
    chance = random.Random(number)
    suffers(fleet, chance.choices(FAULTS, k=3), chance)


class Command:
    """``discovery join`` and ``discovery upkeep`` of one node as systemd would run them, with certificates."""

    def __init__(self, folder: Path, binary: str, name: str, discovery: str, certificates: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.log = folder / f"{name}.log"
        client, peer = free_ports(2)
        self.endpoint, self.peer = f"https://127.0.0.1:{client}", f"https://127.0.0.1:{peer}"
        self.trust = certificates
        python = [sys.executable, "-c", "import sys; from discovery.cli import main; sys.exit(main())"]
        self.status = [*python, "status", "--data", str(self.folder / "data"), "--trust", str(certificates)]
        self._join = [*python, "join", "--etcd", binary, "--trust", str(certificates)]
        self._upkeep = [*python, "upkeep", "--data", str(self.folder / "data"), "--machine", name]
        self._upkeep += ["--trust", str(certificates), "--every", "0.5"]
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "ETCD_NAME": name,
            "ETCD_DATA_DIR": str(self.folder / "data"),
            "ETCD_DISCOVERY": discovery,
            "ETCD_LISTEN_CLIENT_URLS": self.endpoint,
            "ETCD_ADVERTISE_CLIENT_URLS": self.endpoint,
            "ETCD_LISTEN_PEER_URLS": self.peer,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": self.peer,
            "ETCD_UNSAFE_NO_FSYNC": "true",
            "ETCD_LOG_LEVEL": "error",
        }
        self._stopped = False
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._units = [
            threading.Thread(target=self._unit, args=(argv,), daemon=True) for argv in (self._join, self._upkeep)
        ]
        for unit in self._units:
            unit.start()

    def _unit(self, argv: Sequence[str]) -> None:
        while not self._stopped:
            with self.log.open("ab") as log:
                process = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log, cwd="/")
            self._running[threading.get_ident()] = process
            if self._stopped:
                process.kill()
            process.wait()

    def stop(self) -> None:
        """End both."""
        self._stopped = True
        for process in list(self._running.values()):
            process.kill()
        for unit in self._units:
            unit.join(60)


def test_one_member_becomes_three_with_certificates_and_the_commands_of_a_node(
    tmp_path: Path, etcd_binary: str
) -> None:
    """A token for one, and three nodes: the proxies become members. The certificates of a node suffice for that."""
    service = DiscoveryServer("127.0.0.1", 0, tmp_path / "tokens.json")
    service.start()
    url = service.url(service.new_token(1))
    nodes: list[Command] = []
    try:
        for name in ("one", "two", "three"):
            certificates = trusted.node(tmp_path / "lab", name, "127.0.0.1")
            nodes.append(Command(tmp_path, etcd_binary, name, url, certificates))
            own = credentials.client(certificates)
            assert own is not None
            tls = Tls(own.authority, own.certificate, own.key)
            with contextlib.closing(Client([nodes[-1].endpoint], tls=tls)) as client:
                eventually(client.health, nodes[-1].log.read_text)
                client.put(MACHINES + name, b"{}", lease=client.lease_grant(3600).id)

        def voters() -> list[str]:
            with contextlib.closing(Client([nodes[0].endpoint], tls=tls)) as client, contextlib.suppress(EtcdError):
                return sorted(each.name for each in client.members() if each.name and not each.learner)
            return []

        eventually(
            lambda: voters() == ["one", "three", "two"], lambda: "".join(each.log.read_text() for each in nodes), 240.0
        )
        assert "the others have added it: joins as a new member" in nodes[1].log.read_text()

        def said() -> str:
            asked = subprocess.run(
                nodes[2].status, env=nodes[2].environment, capture_output=True, text=True, timeout=120, check=False
            )
            return asked.stdout

        text = eventually(lambda: found if "nothing to do" in (found := said()) else "", within_s=240.0)
        assert text.count("healthy") == 4, text
        assert "3 voters, as there should be" in text
    finally:
        for node in nodes:
            node.stop()
        service.stop()
