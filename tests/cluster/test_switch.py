"""The switch: bytes through real unix sockets as QEMU would send them, and faults between them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model.framing import FRAME_BYTES_MAX
from cluster.model.impairment import Impairment
from cluster.network.forwarding import ForwardingTable
from cluster.network.impairment import HOST, Faults, both_ways
from cluster.network.patience import PATIENCE_S
from cluster.network.switch import LATE_QUEUE_BYTES_MAX, QUEUE_BYTES_MAX, Switch
from tests.cluster.test_forwarding import BROADCAST, mac
from tests.eventually import eventually_async as eventually


def frame(target: bytes, source: bytes, payload: bytes = b"hello") -> bytes:
    return target + source + b"\x08\x00" + payload


class RunningNode:
    """The end of a ``-netdev stream`` that QEMU holds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def stop_reading(self) -> None:
        """As a machine that is paused."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()

    @classmethod
    async def plug_in(cls, path: Path) -> "RunningNode":
        return cls(*await asyncio.open_unix_connection(str(path), limit=1 << 16))

    async def send(self, data: bytes) -> None:
        self.writer.write(len(data).to_bytes(4, "big") + data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return await self.reader.readexactly(length)

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readexactly(1), 0.05)
        except TimeoutError:
            return True
        return False


async def flood(guest: RunningNode, one: bytes, count: int) -> None:
    """Send the frame ``one`` so often, as fast as it is taken."""
    for _ in range(count):
        await guest.send(one)


Story = Callable[[Switch, dict[int, RunningNode]], Awaitable[None]]


def play(
    folder: Path, story: Story, *, nodes: int = 3, faults: Faults | None = None, prepare: Story | None = None
) -> None:
    """Run ``story`` with a switch and one guest a port; ``prepare`` comes before the faults, if there is one."""

    async def main() -> None:
        sockets = {node: folder / f"net-{node}.sock" for node in range(1, nodes + 1)}
        switch = Switch(sockets, faults if prepare is None else None)
        await switch.start()
        guests = {node: await RunningNode.plug_in(path) for node, path in sockets.items()}
        await eventually(lambda: len(switch.connected()) == nodes)
        try:
            if prepare is not None:
                await prepare(switch, guests)
                switch.faults = faults or Faults()
            await asyncio.wait_for(story(switch, guests), 60)
        finally:
            await switch.stop()
            for guest in guests.values():
                guest.writer.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_frames_arrive_whole_at_the_learned_port_only(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await guests[2].receive() == await guests[3].receive() == frame(BROADCAST, mac(1))
        await guests[2].send(frame(mac(1), mac(2), b"x" * 1500))
        assert await guests[1].receive() == frame(mac(1), mac(2), b"x" * 1500)
        assert await guests[3].hears_nothing()
        assert switch.counters[1].frames_in == 1
        assert switch.counters[1].bytes_out == 1514

    play(tmp_path, story)


def test_a_frame_that_trickles_in_byte_by_byte_is_one_frame(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        data = frame(mac(2), mac(1))
        for byte in len(data).to_bytes(4, "big") + data:
            guests[1].writer.write(bytes([byte]))
            await guests[1].writer.drain()
            await asyncio.sleep(0)
        assert await guests[2].receive() == data

    play(tmp_path, story)


def test_a_cut_drops_one_direction_and_is_counted(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await guests[3].receive() == frame(BROADCAST, mac(1))
        assert await guests[2].hears_nothing()
        await guests[2].send(frame(mac(1), mac(2)))
        assert await guests[1].receive() == frame(mac(1), mac(2))
        assert switch.counters[2].dropped_cut == 1
        switch.faults = switch.faults.healing(1, 2)
        await guests[1].send(frame(mac(2), mac(1)))
        assert await guests[2].receive() == frame(mac(2), mac(1))

    play(tmp_path, story, faults=Faults().cutting(1, 2, one_way=True))


def test_a_length_that_no_frame_has_hangs_up_on_that_node_only(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        guests[1].writer.write((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await guests[1].receive()
        await guests[2].send(frame(mac(3), mac(2)))
        assert await guests[3].receive() == frame(mac(3), mac(2))

    play(tmp_path, story)


def test_a_frame_too_short_to_have_addresses_is_dropped_and_counted(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[1].send(b"short")
        await guests[1].send(frame(mac(2), mac(1)))
        assert await guests[2].receive() == frame(mac(2), mac(1))
        assert switch.counters[1].dropped_short == 1

    play(tmp_path, story)


def test_a_restarted_node_takes_its_port_over(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        again = await RunningNode.plug_in(tmp_path / "net-1.sock")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await guests[1].receive()
        await again.send(frame(mac(2), mac(1)))
        assert await guests[2].receive() == frame(mac(2), mac(1))
        assert switch.connected() == {1, 2, 3}
        assert switch.counters[1].connections == 2
        again.writer.close()

    play(tmp_path, story)


def test_a_slow_reader_holds_its_sender_back_and_loses_nothing(tmp_path: Path) -> None:
    frames = 6000  # 9 MB, several times what the queue and the kernel's buffers hold

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        async def sending() -> None:
            for number in range(frames):
                await guests[1].send(frame(mac(2), mac(1), number.to_bytes(4, "big") * 370))

        sender = asyncio.create_task(sending())
        for number in range(frames):
            assert (await guests[2].receive())[14:18] == number.to_bytes(4, "big")
            if number % 1000 == 0:
                await asyncio.sleep(0.05)  # it is slow
        await sender
        assert switch.counters[2].dropped_full == 0

    play(tmp_path, story, nodes=2)


@pytest.mark.slow
def test_a_reader_that_takes_a_little_at_a_time_is_slow_not_paused(tmp_path: Path) -> None:
    """It needs seconds for what waits for it, several times the patience for one that takes nothing."""

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        one = frame(mac(2), mac(1), bytes(1480))
        frames = 3 * QUEUE_BYTES_MAX // len(one)

        sender = asyncio.create_task(flood(guests[1], one, frames))
        left = frames * (4 + len(one))
        while left:
            left -= len(await guests[2].reader.read(1 << 14))
            await asyncio.sleep(PATIENCE_S / 20)  # it is slow
            assert switch.counters[2].dropped_full == 0
        await sender
        assert switch.counters[2].dropped_full == 0

    play(tmp_path, story, nodes=2)


def test_a_switch_that_has_no_time_gives_no_node_up(tmp_path: Path) -> None:
    """On a busy host this process stands still for longer than its patience: then no node could have taken anything."""

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        one = frame(mac(2), mac(1), bytes(1480))
        frames = 4 * QUEUE_BYTES_MAX // len(one)

        sender = asyncio.create_task(flood(guests[1], one, frames))
        await eventually(lambda: switch._links[2].full)
        time.sleep(1.2 * PATIENCE_S)
        await asyncio.sleep(0)
        assert not switch._links[2].stalled
        for _ in range(frames):
            await guests[2].receive()
        await sender
        assert switch.counters[2].dropped_full == 0

    play(tmp_path, story, nodes=2)


def test_a_paused_node_does_not_stall_the_others(tmp_path: Path) -> None:
    """Node 2 reads nothing while node 1 sends it more than every queue holds; then node 1's frame to node 3 must still
    pass.
    """

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[2].send(frame(BROADCAST, mac(2)))
        await guests[3].send(frame(BROADCAST, mac(3)))
        await eventually(lambda: len(switch.table.addresses()) == 2)
        guests[2].stop_reading()
        for _ in range(6000):
            await guests[1].send(frame(mac(2), mac(1), b"x" * 1480))
        await guests[1].send(frame(mac(3), mac(1)))
        assert await guests[3].receive() == frame(BROADCAST, mac(2))
        assert await guests[3].receive() == frame(mac(3), mac(1))
        assert switch.counters[2].dropped_full > 0

    play(tmp_path, story)


def test_throughput_is_far_above_what_emulated_nodes_produce(tmp_path: Path) -> None:
    """Sanity, not a benchmark: the bound is a tenth of what two cores do, since the guests here are the slower half."""

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[2].send(frame(BROADCAST, mac(2)))
        await guests[1].receive()
        one = frame(mac(2), mac(1), b"x" * 1500)
        burst = (len(one).to_bytes(4, "big") + one) * 100
        bursts = 200
        begin = time.monotonic()

        async def sending() -> None:
            for _ in range(bursts):
                guests[1].writer.write(burst)
                await guests[1].writer.drain()

        sender = asyncio.create_task(sending())
        left = bursts * len(burst)
        while left:
            left -= len(await guests[2].reader.read(1 << 16))
        await sender
        megabits_per_s = bursts * len(burst) * 8 / 1e6 / (time.monotonic() - begin)
        print(f"{megabits_per_s:.0f} Mbit/s")
        assert megabits_per_s > 50

    play(tmp_path, story, nodes=2)


# Impaired pairs


def degraded(**how: Any) -> Faults:
    return Faults().worsening(both_ways(1, 2), Impairment(**how))


async def learn(switch: Switch, guests: dict[int, RunningNode]) -> None:
    """Have the switch know every guest: a frame to its own sender is looked at and goes nowhere."""
    for number, guest in guests.items():
        await guest.send(frame(mac(number), mac(number)))
    await eventually(lambda: len(switch.table.addresses()) == len(guests))


def test_a_delayed_pair_is_late_and_holds_no_other_back(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        begin = time.monotonic()
        for number in range(20):
            await guests[1].send(frame(mac(2), mac(1), bytes([number])))
        await guests[1].send(frame(mac(3), mac(1)))
        assert await guests[3].receive() == frame(mac(3), mac(1))
        assert switch.counters[2].frames_out == 0
        for number in range(20):
            assert await guests[2].receive() == frame(mac(2), mac(1), bytes([number]))
        assert 1 <= time.monotonic() - begin < 15
        assert switch.counters[2].dropped_overflow == 0

    play(tmp_path, story, prepare=learn, faults=degraded(delay_s=1))


def test_a_slow_pair_drops_what_is_too_much_and_holds_no_other_back(tmp_path: Path) -> None:
    """Node 1 sends node 2 a hundred times what the link between them carries; node 3 hears every frame at once."""

    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        for number in range(2000):
            await guests[1].send(frame(mac(2), mac(1), bytes(1500)))
            if number % 100 == 0:
                await guests[1].send(frame(mac(3), mac(1), bytes([number // 100])))
        for number in range(20):
            assert await guests[3].receive() == frame(mac(3), mac(1), bytes([number]))
        counters = switch.counters[2]
        assert counters.dropped_overflow > 1500
        assert counters.frames_out + counters.dropped_overflow < 2000  # some still wait for their turn

    play(tmp_path, story, prepare=learn, faults=degraded(rate_bps=300_000))


def test_a_pair_that_loses_everything_and_one_that_doubles(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await guests[3].receive() == await guests[3].receive() == frame(BROADCAST, mac(1))
        assert await guests[2].hears_nothing()
        assert switch.counters[2].dropped_lost == 1
        assert [(wire.pair, wire.fate.duplicated) for wire in switch.wires() if wire.pair[1] == 3] == [((1, 3), 1)]

    faults = degraded(loss=1).worsening([(1, 3)], Impairment(duplicate=1))
    play(tmp_path, story, prepare=learn, faults=faults)


def test_what_is_under_way_arrives_when_a_pair_is_healed_and_never_when_it_is_cut(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        for number in range(5):
            await guests[1].send(frame(mac(2), mac(1), bytes([number])))
        await eventually(lambda: switch.counters[1].frames_in == 6)
        switch.faults = switch.faults.healing(1, 2)
        await guests[1].send(frame(mac(2), mac(1), b"last"))
        for number in range(5):
            assert await guests[2].receive() == frame(mac(2), mac(1), bytes([number]))
        assert await guests[2].receive() == frame(mac(2), mac(1), b"last")
        switch.faults = degraded(delay_s=30)
        await guests[1].send(frame(mac(2), mac(1)))
        await eventually(lambda: switch.counters[1].frames_in == 8)
        switch.faults = switch.faults.cutting(1, 2)
        switch.faults = Faults()
        assert await guests[2].hears_nothing()
        assert switch.counters[2].dropped_cut == 1

    play(tmp_path, story, prepare=learn, faults=degraded(delay_s=30))


def test_an_impairment_that_changes_keeps_what_is_under_way(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await guests[1].send(frame(mac(2), mac(1), b"slow"))
        await eventually(lambda: switch.counters[1].frames_in == 2)
        switch.faults = degraded(loss=1, delay_s=0.2)
        await guests[1].send(frame(mac(2), mac(1), b"lost"))
        assert await guests[2].receive() == frame(mac(2), mac(1), b"slow")
        assert await guests[2].hears_nothing()

    play(tmp_path, story, prepare=learn, faults=degraded(delay_s=0.2))


# Ports of this process, and ports that come and go


class Ear:
    """An endpoint that remembers, and a tap that does."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.senders: list[int] = []
        self.watched: list[bytes] = []
        self.not_given: list[bytes] = []

    def deliver(self, ingress: int, frame: bytes) -> None:
        self.heard.append(frame)
        self.senders.append(ingress)

    def seen(self, frame: bytes) -> None:
        self.watched.append(frame)

    def missed(self, frame: bytes) -> None:
        self.not_given.append(frame)


def test_an_endpoint_of_this_process_hears_and_speaks_as_port_0(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        host = Ear()
        switch.attach(HOST, host)
        await guests[1].send(frame(BROADCAST, mac(1), b"who is there?"))
        await eventually(lambda: bool(host.heard))
        assert host.heard == [frame(BROADCAST, mac(1), b"who is there?")]
        switch.inject(HOST, frame(mac(1), mac(99), b"I am"))
        assert await guests[1].receive() == frame(mac(1), mac(99), b"I am")
        await guests[1].send(frame(mac(99), mac(1), b"good"))
        await eventually(lambda: len(host.heard) == 2)
        await guests[2].send(frame(mac(99), mac(1), b"I am node 1, says node 2"))
        switch.faults = Faults().worsening({(2, HOST)}, Impairment(delay_s=0.01))
        await guests[2].send(frame(mac(99), mac(1), b"I am node 1, says node 2, late"))
        await eventually(lambda: len(host.heard) == 4)
        assert host.senders == [1, 1, 2, 2]
        switch.faults = Faults()
        await guests[1].send(frame(mac(99), mac(1), b"here I am"))
        await eventually(lambda: len(host.heard) == 5)
        assert await guests[2].receive() == frame(BROADCAST, mac(1), b"who is there?")
        assert await guests[2].hears_nothing()
        switch.faults = Faults().cutting(1, HOST)
        await guests[1].send(frame(mac(99), mac(1)))
        await eventually(lambda: switch.counters[HOST].dropped_cut == 1)
        switch.faults = Faults()
        switch.detach(HOST)
        await guests[1].send(frame(mac(99), mac(1)))
        await eventually(lambda: switch.counters[HOST].dropped_down == 1)
        assert len(host.heard) == 5

    play(tmp_path, story)


def test_port_0_may_have_a_socket_beside_its_endpoint(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        host = Ear()
        switch.attach(HOST, host)
        await switch.add(HOST, tmp_path / "host.sock")
        other = await RunningNode.plug_in(tmp_path / "host.sock")
        await eventually(lambda: HOST in switch.connected())
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await other.receive() == frame(BROADCAST, mac(1))
        assert host.heard == [frame(BROADCAST, mac(1))]
        other.writer.close()

    play(tmp_path, story)


def test_this_computer_cannot_fill_a_ports_queue_without_bound(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        switch.attach(HOST, Ear())
        for _ in range(10_000):
            switch.inject(HOST, frame(mac(2), mac(99), bytes(1500)))
        assert switch.counters[2].dropped_full > 0
        assert switch.counters[2].bytes_out < LATE_QUEUE_BYTES_MAX + (1 << 20)

    play(tmp_path, story)


def test_ports_come_and_go_while_others_talk(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        await switch.add(4, tmp_path / "net-4.sock")
        fourth = await RunningNode.plug_in(tmp_path / "net-4.sock")
        await eventually(lambda: 4 in switch.connected())
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await fourth.receive() == await guests[3].receive() == frame(BROADCAST, mac(1))
        await fourth.send(frame(mac(1), mac(4)))
        assert await guests[1].receive() == frame(mac(1), mac(4))
        switch.faults = Faults().worsening([(1, 4)], Impairment(delay_s=2))
        await guests[1].send(frame(mac(4), mac(1)))
        await eventually(lambda: switch.wires()[0].fate.frames == 1)
        switch.remove(4)
        assert not (tmp_path / "net-4.sock").exists()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await fourth.receive()
        fourth.writer.close()
        await asyncio.sleep(2.1)  # what was under way to it is due now
        await guests[1].send(frame(mac(4), mac(1), b"absent"))
        assert await guests[2].receive() == frame(BROADCAST, mac(1))
        assert await guests[2].receive() == frame(mac(4), mac(1), b"absent")
        assert sorted(switch.counters) == [1, 2, 3]

    play(tmp_path, story)


def test_a_tap_sees_what_the_card_sends_and_is_given_and_what_it_is_not(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, RunningNode]) -> None:
        one, two = Ear(), Ear()
        switch.tap(1, one)
        switch.tap(2, two)
        cut, whole = frame(mac(2), mac(1), b"cut"), frame(mac(2), mac(1), b"whole")
        await guests[1].send(cut)
        await eventually(lambda: bool(two.not_given))
        switch.faults = Faults()
        await guests[1].send(whole)
        assert await guests[2].receive() == whole
        assert one.watched == [cut, whole]
        assert one.not_given == []
        assert two.watched == [whole]
        assert two.not_given == [cut]
        switch.faults = degraded(loss=1)
        await guests[1].send(cut)
        await eventually(lambda: len(two.not_given) == 2)
        switch.untap(2, two)
        await guests[1].send(cut)
        await eventually(lambda: switch.counters[2].dropped_lost == 2)
        assert len(two.not_given) == 2

    play(tmp_path, story, faults=Faults().cutting(1, 2), prepare=learn)


cards = st.integers(1, 4)
flows = st.lists(
    st.tuples(cards, st.lists(st.tuples(cards | st.just(0xFF), st.integers(0, 40)), max_size=12)), max_size=8
)


@given(flows)
def test_chunks_of_frames_go_where_the_table_says_each_for_itself(
    chunks: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    """Against the simplest switch: one frame at a time, by the same table. Order holds for every pair of ports."""
    table = ForwardingTable([1, 2, 3, 4])
    expected: dict[int, list[bytes]] = {port: [] for port in (1, 2, 3, 4)}
    ears = {port: Ear() for port in expected}

    async def story() -> None:
        switch = Switch({})
        for port, ear in ears.items():
            switch.attach(port, ear)
        serial = 0
        for ingress, targets in chunks:
            chunk = b""
            for target, size in targets:
                serial += 1
                to = BROADCAST if target == 0xFF else mac(target)
                data = frame(to, mac(ingress), serial.to_bytes(2, "big") + bytes(size))
                chunk += len(data).to_bytes(4, "big") + data
                for port in table.route(ingress, to, mac(ingress)):
                    expected[port].append(data)
            used, full = switch.forward(ingress, chunk + b"\0\0")
            assert (used, full) == (len(chunk), [])
        await asyncio.sleep(0)
        assert switch.table.addresses() == table.addresses()
        assert sum(each.frames_in for each in switch.counters.values()) == serial

    asyncio.run(story())
    assert {port: ear.heard for port, ear in ears.items()} == expected
