"""The time server, and the time of its answers."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from cluster.services.host import Caller
from cluster.services.ntp import EPOCH_1900_S, TimeServer, timestamp

NODE = Caller(b"\x52\x54\0\x43\0\x01", b"\x0a\x4d\0\x0b")
# What systemd-timesyncd 257 sends: leap unknown, version 4, client; its own time in the last field.
QUESTION = bytes.fromhex("23" + "00" * 39 + "ea1c0000deadbeef")


def test_an_answer_as_on_the_wire() -> None:
    server = TimeServer(lambda: 1_700_000_000.5)
    answer = server(NODE, QUESTION)
    assert answer is not None
    assert answer.hex() == (
        "240100ec"  # no warning, version 4, server; stratum 1; poll as requested; 2^-20 s
        "00000000000000404c4f434c"  # delay, dispersion, "LOCL"
        "e8fe6f8080000000"  # last set
        "ea1c0000deadbeef"  # the client's own
        "e8fe6f8080000000e8fe6f8080000000"  # received, sent
    )  # fmt: skip


def test_a_server_that_is_wrong_by_request() -> None:
    server = TimeServer(lambda: 1_700_000_000.0)
    server.offset_s = -3600
    answer = server(NODE, QUESTION)
    assert answer is not None
    assert struct.unpack(">I", answer[40:44])[0] - EPOCH_1900_S == 1_700_000_000 - 3600


def test_the_era_after_2036() -> None:
    assert timestamp((1 << 32) - EPOCH_1900_S + 5.25).hex() == "0000000540000000"


@given(st.binary(max_size=80))
def test_only_clients_are_answered(question: bytes) -> None:
    answer = TimeServer()(NODE, question)
    assert (answer is not None) == (len(question) >= 48 and question[0] & 7 == 3)
