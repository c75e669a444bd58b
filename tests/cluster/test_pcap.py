"""Captures: the bytes are pinned, and the real tcpdump reads them back."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.network.pcap import BUFFER_BYTES, Recording, file_header, record
from terminal import Failure

ARP = bytes.fromhex("ffffffffffff525400430001 0806 0001080006040001 525400430001 0a4d000b 000000000000 0a4d000c")


def test_the_bytes_of_a_file() -> None:
    assert file_header().hex(" ", -4) == "4d3cb2a1 02000400 00000000 00000000 00000400 01000000"
    assert record(1_700_000_000_123_456_789, b"frame").hex(" ", -4) == "00f15365 15cd5b07 05000000 05000000 6672616d 65"


def test_tcpdump_reads_what_we_wrote(tmp_path: Path) -> None:
    program = shutil.which("tcpdump")
    assert program, "no tcpdump: scripts/setup --tests"
    times = iter([1_700_000_000_000_000_001, 1_700_000_001_999_999_999])
    recording = Recording(tmp_path / "one.pcap", clock_ns=lambda: next(times))
    recording.add(ARP)
    recording.add(ARP + bytes(1472))
    recording.close()
    command = [program, "-nn", "-tt", "-e", "--time-stamp-precision=nano", "-r", str(tmp_path / "one.pcap")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"], "TZ": "UTC"}
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(
        "1700000000.000000001 52:54:00:43:00:01 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42:"
    )
    assert "Request who-has 10.77.0.12 tell 10.77.0.11" in first
    assert second.startswith("1700000001.999999999 ")
    assert "length 1514" in second


@given(st.lists(st.binary(max_size=80), max_size=12), st.integers(24, 600))
def test_a_file_never_grows_beyond_its_bound_and_holds_whole_frames_from_the_first_on(
    tmp_path_factory: pytest.TempPathFactory, frames: list[bytes], bytes_max: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "bounded.pcap"
    recording = Recording(path, bytes_max, clock_ns=lambda: 7)
    for frame in frames:
        recording.add(frame)
    recording.close()
    expected = file_header()
    count = 0
    for frame in frames:
        if len(expected) + len(record(7, frame)) > bytes_max:
            break
        expected += record(7, frame)
        count += 1
    assert path.read_bytes() == expected
    assert (recording.frames, recording.left_out) == (count, len(frames) - count)


def test_places_where_no_file_can_be_are_reported(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file or directory"):
        Recording(tmp_path / "missing" / "one.pcap")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Failure, match="cannot be written"):
        Recording(tmp_path / "pipe")
    with pytest.raises(Failure, match="plain file"):
        Recording(Path("/dev/null"))


def test_a_full_disk_ends_the_capture_and_not_the_network(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "one.pcap")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recording._file.fileno())
    os.close(full)
    for _ in range(2 * BUFFER_BYTES // 1500):
        recording.add(ARP + bytes(1472))
    recording.close()
    assert recording.trouble is not None
    assert "No space left" in recording.trouble
    assert recording.left_out > 0
