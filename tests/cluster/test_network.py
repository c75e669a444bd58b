"""``cluster.net`` and its commands, with a real supervisor; the nodes are ends of sockets, as a machine's card is."""

import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.client.cluster import Cluster
from cluster.client.net import Net
from cluster.faults.book import FaultBook
from cluster.lifecycle.ports import choose
from cluster.model import timeline
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.impairment import Impairment
from cluster.model.layout import Layout
from cluster.model.protocol import Request, Status, T
from cluster.network.segment import Segment
from terminal import Failure, UsageFailure
from tests.cluster.commands import call
from tests.cluster.reported import connections
from tests.eventually import eventually

pytestmark = pytest.mark.slow

BROADCAST = b"\xff" * 6
SIZE = 5


class Card:
    """A node's card: sends something to all, and returns who was heard since the last time."""

    def __init__(self, number: int, cluster: Cluster) -> None:
        self.number = number
        self._cluster = cluster
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(cluster.layout.net_socket(number)))

    def shout(self, payload: bytes = b"") -> None:
        """Returns when the switch has passed it on."""
        before = self._said()
        frame = BROADCAST + bytes([2, 0, 0, 0, 0, self.number]) + b"\x88\xb5" + payload
        self._line.sendall(len(frame).to_bytes(4, "big") + frame)
        assert eventually(lambda: self._said() > before)

    def _said(self) -> int:
        return int(self._cluster.ask(Status()).network[str(self.number)]["frames_in"])

    def heard(self, seconds: float = 0.1) -> list[int]:
        """Whom it hears within this time after the last one."""
        self._line.settimeout(seconds)
        data = b""
        try:
            while chunk := self._line.recv(1 << 16):
                data += chunk
        except TimeoutError:
            pass
        found = []
        while data:
            length = int.from_bytes(data[:4], "big")
            found.append(data[15])
            data = data[4 + length :]
        return sorted(found)

    def close(self) -> None:
        self._line.close()


@pytest.fixture
def cluster(home: Path) -> Iterator[Cluster]:
    """Five nodes that are supervised and off."""
    layout = Layout.of("net")
    ports = choose(SIZE + 1, ())
    description = Description(
        name="net",
        runtime=str(layout.runtime),
        qemu="/nowhere/qemu",
        accelerator=Accelerator("tcg", 1.0, "a test"),
        memory_mib=128,
        ssh_ports=tuple(ports[:SIZE]),
        discovery_port=ports[SIZE],
        agent_ttl="30s",
        ready=True,
    )
    made = Cluster.create(layout, description)
    made.launch()
    yield made
    made.remove()


@pytest.fixture
def cards(cluster: Cluster) -> Iterator[dict[int, Card]]:
    """Every node's card, plugged in."""
    made = {number: Card(number, cluster) for number in range(1, SIZE + 1)}
    assert eventually(lambda: all(connections(cluster, index) for index in range(SIZE)))
    yield made
    for card in made.values():
        card.close()


def views(cards: dict[int, Card]) -> dict[int, list[int]]:
    """Whom each hears when all shout."""
    for card in cards.values():
        card.shout()
    return {number: card.heard() for number, card in cards.items()}


def everybody_but(*numbers: int) -> list[int]:
    return [number for number in range(1, SIZE + 1) if number not in numbers]


WHOLE = {number: everybody_but(number) for number in range(1, SIZE + 1)}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = call(main, *words, "--name", "net")
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_shapes_are_what_the_nodes_hear(cluster: Cluster, cards: dict[int, Card]) -> None:
    net = cluster.net
    assert views(cards) == WHOLE
    with net.isolate(cluster.node("node-2")) as fault:
        assert str(fault) == "isolate node-2"
        assert views(cards) == {2: [], **{n: everybody_but(n, 2) for n in everybody_but(2)}}
    assert views(cards) == WHOLE
    with net.halves():
        assert views(cards) == {1: [2], 2: [1], 3: [4, 5], 4: [3, 5], 5: [3, 4]}
    with net.bridge("node-3"):
        assert views(cards) == {1: [2, 3], 2: [1, 3], 3: [1, 2, 4, 5], 4: [3, 5], 5: [3, 4]}
    with net.majority_ring():
        assert views(cards) == {1: [2, 5], 2: [1, 3], 3: [2, 4], 4: [3, 5], 5: [1, 4]}
    with net.partition({1, "2"}, [cluster.node("node-3")], {"node-4", "host"}):
        assert views(cards) == {1: [2, 5], 2: [1, 5], 3: [5], 4: [5], 5: [1, 2, 3, 4]}
    with net.cut(1, to=2):
        assert views(cards) == {**WHOLE, 2: everybody_but(1, 2)}
    assert views(cards) == WHOLE


def test_faults_add_up_and_each_is_healed_by_itself(cluster: Cluster, cards: dict[int, Card]) -> None:
    net = cluster.net
    isolated, cut = net.isolate(2), net.cut(2, to=1)
    isolated.heal()
    isolated.heal()
    assert views(cards) == {**WHOLE, 1: everybody_but(1, 2)}
    lossy = net.degrade(1, 3, loss="100%", one_way=True)
    assert views(cards) == {**WHOLE, 1: everybody_but(1, 2), 3: everybody_but(1, 3)}
    assert net.heal() == [2, 3]
    assert views(cards) == WHOLE
    assert net.faults() == []
    cut.heal()
    lossy.heal()
    assert lossy.healed


def test_degrading_is_seen_in_frames_and_reported_with_its_seed(cluster: Cluster, cards: dict[int, Card]) -> None:
    with cluster.net.degrade(1, 2, delay="1s", duplicate=1.0, seed=7) as fault:
        assert str(fault) == "degrade node-1 <-> node-2: delay 1s, duplicate 100%"
        cards[1].shout()
        assert cards[3].heard() == [1]
        assert cards[2].heard() == []
        assert cards[2].heard(2) == [1, 1]
        faults = cluster.net.faults()
        assert faults == cluster.status()["faults"]
        assert faults[0]["impairment"] == {"delay_s": 1.0, "duplicate": 1.0}
        assert (faults[0]["id"], faults[0]["nodes"], faults[0]["seed"]) == (1, [1, 2], 7)
        assert [(each["pair"], each["duplicated"]) for each in faults[0]["frames"]] == [([1, 2], 1), ([2, 1], 0)]


def test_every_fault_and_healing_is_on_the_timeline(cluster: Cluster) -> None:
    with cluster.net.cut(1, to=2, one_way=False), cluster.net.degrade(1, 0, loss=0.5, seed=3):
        pass
    cluster.net.degrade(2, 3, loss=0.5)
    events = timeline.read(cluster.layout.timeline)
    assert [(event.kind, event.what, event.nodes, event.id) for event in events[:-1]] == [
        ("fault", "cut node-1 <-> node-2", (1, 2), 1),
        ("fault", "degrade node-1 <-> host: loss 50% (seed 3)", (1,), 2),
        ("heal", "degrade node-1 <-> host: loss 50% (seed 3)", (1,), 2),
        ("heal", "cut node-1 <-> node-2", (1, 2), 1),
    ]
    seed = cluster.net.faults()[0]["seed"]
    assert events[-1].what == f"degrade node-2 <-> node-3: loss 50% (seed {seed})"


def unreachable(request: Request[T], /, *, deadline_s: float = 0) -> T:
    """A supervisor that must not be called."""
    pytest.fail(f"{request} within {deadline_s} s")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nod-2", "did you mean node-2? there are: host, node-1, node-2, node-3"),
        ("hots", "did you mean host? there are: host, node-1, node-2, node-3"),
        (
            "node-9",
            "there are: host, node-1, node-2, node-3",
        ),  # a node that is not there is no typing error for one that is
        ("x2", "there are: host, node-1, node-2, node-3"),
    ],
)
def test_a_mistyped_node_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UsageFailure, match="there is no node") as caught:
        Net(ask=unreachable, numbers=lambda: [1, 2, 3]).isolate(name)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda net: net.cut(1, to=1), "node-1 has no link to itself"),
        (lambda net: net.cut(1, to=9), "there is no node 9"),
        (lambda net: net.isolate("node-x"), "there is no node 'node-x'"),
        (lambda net: net.partition({1, 2}), "two groups or more"),
        (lambda net: net.degrade(1, 2), "nothing to degrade"),
        (lambda net: net.degrade(1, 2, delay="fast"), "delay 'fast': a time has a number and a unit"),
        (lambda net: net.degrade(1, 2, rate="10bit"), "rate 10 bit/s: from 1 kbit/s"),
    ],
)
def test_a_wrong_fault_is_refused_before_any_request(wrong: Callable[[Net], object], complaint: str) -> None:
    with pytest.raises(UsageFailure, match=complaint):
        wrong(Net(ask=unreachable, numbers=lambda: [1, 2, 3]))


CUT = Impairment(cut=True)


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda segment: segment.impair("x", [(1, 99)], CUT),
        lambda segment: segment.impair("x", [(1, 1)], CUT),
        lambda segment: segment.impair("x", [], CUT),
        lambda segment: segment.impair("x", [(1, 2)], Impairment(loss=2)),
        lambda segment: segment.release(1),
        lambda segment: segment.capture(99, Path("/nowhere"), None, 100),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(nonsense: Callable[[Segment], object], home: Path) -> None:
    recorded: list[object] = []
    book = FaultBook(lambda *event: recorded.append(event))
    segment = Segment({number: home / f"net-{number}" for number in (1, 2)}, book)
    with pytest.raises(Failure):
        nonsense(segment)
    assert segment.faults() == ()
    assert recorded == []


def test_a_capture_has_what_the_card_sent_and_was_given_and_beside_it_what_it_was_not(
    cluster: Cluster, cards: dict[int, Card], tmp_path: Path
) -> None:
    with (
        cluster.net.pcap(2, tmp_path / "two.pcap", missed=tmp_path / "missed.pcap") as counts,
        cluster.net.cut(1, to=2),
    ):
        assert views(cards)[2] == everybody_but(1, 2)
    assert (counts["seen"]["frames"], counts["missed"]["frames"]) == (4, 1)
    assert (tmp_path / "two.pcap").stat().st_size == 24 + 4 * (16 + 14)
    assert (tmp_path / "missed.pcap").read_bytes()[-14:] == BROADCAST + bytes([2, 0, 0, 0, 0, 1]) + b"\x88\xb5"
    assert views(cards) == WHOLE
    assert (tmp_path / "two.pcap").stat().st_size == 24 + 4 * (16 + 14)


# The commands


def test_the_commands_of_a_faulty_network(cluster: Cluster, cards: dict[int, Card]) -> None:
    done = command("fault", "list")
    assert (done.returncode, done.stdout) == (0, "nothing is broken on purpose\n")
    done = command("fault", "cut", "node-1", "2", "--one-way")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cut node-1 -> node-2; it lasts until: cluster fault heal --name net\n"
    assert command("fault", "partition", "--isolate", "3", "--host").stdout.startswith("isolate node-3; ")
    done = command("fault", "degrade", "4", "5", "--loss", "100%", "--delay", "75ms", "--jitter", "50ms", "--seed", "9")
    assert done.stdout.startswith("degrade node-4 <-> node-5: delay 75ms, jitter 50ms, loss 100%; ")
    assert views(cards) == {1: [2, 4, 5], 2: [4, 5], 3: [], 4: [1, 2], 5: [1, 2]}
    listed = json.loads(command("fault", "list", "--json").stdout)
    assert [fault["id"] for fault in listed] == [1, 2, 3]
    assert [0, 3] in listed[1]["pairs"]
    assert command("fault", "list").stdout.splitlines()[-1].split() == [
        *(
            "3",
            "degrade",
            "node-4",
            "<->",
            "node-5:",
            "delay",
            "75ms,",
            "jitter",
            "50ms,",
            "loss",
            "100%",
            "(seed",
            "9)",
        )
    ]
    assert "fault 2: isolate node-3\n" in command("status").stdout
    assert len(json.loads(command("status", "--json").stdout)["faults"]) == 3
    assert command("fault", "heal", "2").stdout == "healed: 2\n"
    assert command("fault", "heal").stdout == "healed: 3, 1\n"
    assert command("fault", "heal").stdout == "healed: nothing was broken\n"
    assert views(cards) == WHOLE


def test_the_command_knows_every_shape(cluster: Cluster) -> None:
    for shape, what in (
        (["--halves"], "partition into halves node-1 node-2 | node-3 node-4 node-5"),
        (["--ring"], "partition into a majority ring"),
        (["--bridge", "node-1"], "partition into halves with the bridge node-1"),
        (["--groups", "1,2/3, host"], "partition node-1 node-2 | host node-3"),
    ):
        done = command("fault", "partition", *shape)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{what}; ")


def test_the_commands_say_what_is_wrong(cluster: Cluster) -> None:
    for words, complaint in (
        ("fault partition", "one of the arguments"),
        ("fault partition --groups 1/2/1", "node-1 is in two groups"),
        ("fault partition --halves --host", "--host goes with --isolate"),
        ("fault cut 1 7", "there is no node '7'"),
        ("fault degrade 1 2 --delay 75", "a time has a number and a unit"),
        ("fault degrade 1 2 --loss 120%", "a share is between 0% and 100%"),
        ("fault degrade 1 2", "nothing to degrade"),
        ("fault heal 4", "there is no fault 4 (there are: none)"),
        ("pcap 1 one.pcap --seconds 0", "more than 0"),
        ("pcap 1 one.pcap --mib 0", "at least 1"),
        ("pcap 1 /nowhere/one.pcap --seconds 1", "No such file or directory"),
        ("pcap node-6 one.pcap --seconds 1", "there is no node 'node-6'"),
    ):
        done = command(*words.split())
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr


def test_the_command_records_until_it_is_stopped(cluster: Cluster, cards: dict[int, Card], tmp_path: Path) -> None:
    argv = [str(Path(sys.executable).parent / "cluster"), "pcap", "node-2", str(tmp_path / "two.pcap"), "--name", "net"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "recording until Ctrl-C\n"
        views(cards)
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert said == f"{tmp_path / 'two.pcap'}: 5 frames\n"


def test_the_command_records_for_some_seconds(cluster: Cluster, tmp_path: Path) -> None:
    done = command("pcap", "1", str(tmp_path / "x.pcap"), "--seconds", "0.2", "--missed", str(tmp_path / "y.pcap"))
    assert done.stdout == f"{tmp_path / 'x.pcap'}: 0 frames\n{tmp_path / 'y.pcap'}: 0 frames\n"
