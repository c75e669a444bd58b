"""The switch's table, as a pure value: what it learns, and where a frame goes."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.network.forwarding import ADDRESSES_MAX, ForwardingTable

BROADCAST = b"\xff" * 6


def mac(node: int) -> bytes:
    return bytes([0x52, 0x54, 0, 0x43, 0, node])


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
