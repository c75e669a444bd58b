"""The switch: learning and faults as pure values, then bytes through real unix sockets as QEMU would send them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.impairment import Faults
from cluster.switch import ADDRESSES_MAX, FRAME_BYTES_MAX, ForwardingTable, Switch

BROADCAST = b"\xff" * 6


def mac(node: int) -> bytes:
    return bytes([0x52, 0x54, 0, 0x43, 0, node])


def frame(target: bytes, source: bytes, payload: bytes = b"hello") -> bytes:
    return target + source + b"\x08\x00" + payload


class Guest:
    """The end of a ``-netdev stream`` that QEMU holds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def plug_in(cls, path: Path) -> "Guest":
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


Story = Callable[[Switch, dict[int, Guest]], Awaitable[None]]


def play(folder: Path, story: Story, *, nodes: int = 3, faults: Faults | None = None) -> None:
    """Run ``story`` with a switch and one guest a port."""

    async def main() -> None:
        sockets = {node: folder / f"net-{node}.sock" for node in range(1, nodes + 1)}
        switch = Switch(sockets, faults)
        await switch.start()
        guests = {node: await Guest.plug_in(path) for node, path in sockets.items()}
        while len(switch.connected()) < nodes:
            await asyncio.sleep(0.001)
        try:
            await asyncio.wait_for(story(switch, guests), 20)
        finally:
            await switch.stop()
            for guest in guests.values():
                guest.writer.close()
            await asyncio.sleep(0)

    asyncio.run(main())


# The table


def test_an_unknown_address_floods_and_a_learned_one_goes_to_its_port_only() -> None:
    table = ForwardingTable([1, 2, 3])
    assert table.route(1, mac(2), mac(1)) == (2, 3)
    assert table.route(2, mac(1), mac(2)) == (1,)
    assert table.route(1, mac(2), mac(1)) == (2,)


def test_an_address_behind_the_port_it_came_from_goes_nowhere() -> None:
    table = ForwardingTable([1, 2])
    table.route(1, BROADCAST, mac(9))
    assert table.route(1, mac(9), mac(1)) == ()


def test_an_address_that_moves_is_found_at_its_new_port_and_a_forgotten_one_floods() -> None:
    table = ForwardingTable([1, 2, 3])
    table.route(1, BROADCAST, mac(9))
    table.route(2, BROADCAST, mac(9))
    assert table.route(3, mac(9), mac(3)) == (2,)
    table.forget(2)
    assert table.route(3, mac(9), mac(3)) == (1, 2)


def test_a_guest_that_makes_up_addresses_cannot_grow_the_table_without_bound() -> None:
    table = ForwardingTable([1, 2])
    for number in range(ADDRESSES_MAX + 100):
        table.route(1, BROADCAST, b"\x02" + number.to_bytes(5, "big"))
    assert len(table.addresses()) == ADDRESSES_MAX


addresses = st.sampled_from([bytes([first, 0, 0, 0, 0, last]) for first in (0, 1, 2) for last in (1, 2, 3)])


@given(st.lists(st.tuples(st.integers(1, 4), addresses, addresses)))
def test_whatever_was_learned_a_frame_never_returns_and_never_leaves_twice(
    frames: list[tuple[int, bytes, bytes]],
) -> None:
    table = ForwardingTable([1, 2, 3, 4])
    for ingress, target, source in frames:
        out = table.route(ingress, target, source)
        assert ingress not in out
        assert len(set(out)) == len(out)
        if target[0] & 1:
            assert set(out) == {1, 2, 3, 4} - {ingress}
    assert not any(address[0] & 1 for address in table.addresses())


# The rim


def test_frames_arrive_whole_at_the_learned_port_only(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        await guests[1].send(frame(BROADCAST, mac(1)))
        assert await guests[2].receive() == await guests[3].receive() == frame(BROADCAST, mac(1))
        await guests[2].send(frame(mac(1), mac(2), b"x" * 1500))
        assert await guests[1].receive() == frame(mac(1), mac(2), b"x" * 1500)
        assert await guests[3].hears_nothing()
        assert switch.counters[1].frames_in == 1
        assert switch.counters[1].bytes_out == 1514

    play(tmp_path, story)


def test_a_frame_that_trickles_in_byte_by_byte_is_one_frame(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        data = frame(mac(2), mac(1))
        for byte in len(data).to_bytes(4, "big") + data:
            guests[1].writer.write(bytes([byte]))
            await guests[1].writer.drain()
            await asyncio.sleep(0)
        assert await guests[2].receive() == data

    play(tmp_path, story)


def test_a_cut_drops_one_direction_and_is_counted(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
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
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        guests[1].writer.write((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await guests[1].receive()
        await guests[2].send(frame(mac(3), mac(2)))
        assert await guests[3].receive() == frame(mac(3), mac(2))

    play(tmp_path, story)


def test_a_frame_too_short_to_have_addresses_is_dropped_and_counted(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        await guests[1].send(b"short")
        await guests[1].send(frame(mac(2), mac(1)))
        assert await guests[2].receive() == frame(mac(2), mac(1))
        assert switch.counters[1].dropped_short == 1

    play(tmp_path, story)


def test_a_restarted_node_takes_its_port_over(tmp_path: Path) -> None:
    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        again = await Guest.plug_in(tmp_path / "net-1.sock")
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

    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        async def sending() -> None:
            for number in range(frames):
                await guests[1].send(frame(mac(2), mac(1), number.to_bytes(4, "big") * 370))

        sender = asyncio.create_task(sending())
        for number in range(frames):
            assert (await guests[2].receive())[14:18] == number.to_bytes(4, "big")
            if number % 1000 == 0:
                await asyncio.sleep(0.05)
        await sender
        assert switch.counters[2].dropped_full == 0

    play(tmp_path, story, nodes=2)


def test_a_paused_node_does_not_stall_the_others(tmp_path: Path) -> None:
    """Node 2 reads nothing while node 1 sends it more than every queue holds; then node 1's frame to node 3 must still pass."""

    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
        await guests[2].send(frame(BROADCAST, mac(2)))
        await guests[3].send(frame(BROADCAST, mac(3)))
        while len(switch.table.addresses()) < 2:
            await asyncio.sleep(0.001)
        guests[2].writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(6000):
            await guests[1].send(frame(mac(2), mac(1), b"x" * 1480))
        await guests[1].send(frame(mac(3), mac(1)))
        assert await guests[3].receive() == frame(BROADCAST, mac(2))
        assert await guests[3].receive() == frame(mac(3), mac(1))
        assert switch.counters[2].dropped_full > 0

    play(tmp_path, story)


def test_throughput_is_far_above_what_emulated_nodes_produce(tmp_path: Path) -> None:
    """Sanity, not a benchmark: the bound is a tenth of what two cores do, since the guests here are the slower half."""

    async def story(switch: Switch, guests: dict[int, Guest]) -> None:
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
