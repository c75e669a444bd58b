"""Finding QEMU and proving an accelerator; one test runs the real thing."""

import json
import os
from pathlib import Path

import pytest

from cluster.machines import probe, qemu
from cluster.machines.probe import BOOT_SECTOR, FACTOR_MAX, FACTOR_MIN, emulated_factor, run_probe
from cluster.machines.qemu import Qemu
from terminal import Failure


def fake(folder: Path, script: str) -> Qemu:
    program = folder / "fake-qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Qemu(program, (10, 0))


def test_the_probe_is_one_bootable_sector() -> None:
    assert len(BOOT_SECTOR) == 512
    assert BOOT_SECTOR.endswith(b"\x55\xaa")


def test_the_probe_runs_in_the_real_qemu() -> None:
    """QEMU is required to work on Flotilla (./scripts/setup installs it), so this does not skip."""
    seconds = run_probe(qemu.find({"PATH": os.environ["PATH"]}), "tcg", 60)
    assert 0 < seconds < 60


def test_a_guest_that_stays_silent_is_trouble_with_a_deadline(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="still silent after 0 s"):
        run_probe(fake(tmp_path, "exec sleep 60"), "kvm", 0.2)


def test_what_qemu_says_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"a test guest failed: error: failed to set MSR 0x10a"):
        run_probe(fake(tmp_path, "echo 'error: failed to set MSR 0x10a' >&2; exit 1"), "kvm", 10)


def test_without_kvm_nodes_are_emulated_and_the_reason_is_kept(standin: Path) -> None:
    chosen = probe.choose(qemu.find())
    assert chosen.name == "tcg"
    assert chosen.reason.startswith("KVM does not work here: ")
    assert chosen.factor >= FACTOR_MIN


def test_insisting_on_kvm_that_does_not_work(standin: Path) -> None:
    with pytest.raises(Failure, match="KVM does not work here") as caught:
        probe.choose(qemu.find(), "kvm")
    assert caught.value.hint is not None
    assert "--accel tcg" in caught.value.hint


def test_the_probe_runs_once_and_again_after_its_file_broke(standin: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep/accelerator.json"
    program = qemu.find()
    first = probe.remembered(program, cache)
    kept = json.loads(cache.read_text())
    kept["accelerator"]["factor"] = 7.5
    cache.write_text(json.dumps(kept))
    assert probe.remembered(program, cache).factor == 7.5
    assert probe.remembered(program, cache, "tcg").reason == "requested"
    cache.write_text("{")
    assert probe.remembered(program, cache).name == first.name


def test_a_slower_computer_waits_longer_within_bounds() -> None:
    assert emulated_factor(0.5) == probe.EMULATED_FACTOR
    assert emulated_factor(1.0) == 2 * probe.EMULATED_FACTOR
    assert emulated_factor(0.001) == FACTOR_MIN
    assert emulated_factor(1000) == FACTOR_MAX


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright", (10, 0)),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", (7, 2)),
        ("QEMU emulator version 11.1.50", (11, 1)),
    ],
)
def test_versions_as_qemu_writes_them(text: str, version: tuple[int, int]) -> None:
    assert qemu.parse_version(text, "qemu") == version


def test_a_program_that_is_not_qemu(tmp_path: Path) -> None:
    program = fake(tmp_path, "echo hello")
    with pytest.raises(Failure, match="this is not QEMU: it calls itself 'hello'"):
        qemu.find({"FLOTILLA_QEMU": str(program.path), "PATH": ""})


def test_a_qemu_that_cannot_even_print_its_version(tmp_path: Path) -> None:
    program = fake(tmp_path, "exit 127")
    with pytest.raises(Failure, match="QEMU does not print its version"):
        qemu.find({"FLOTILLA_QEMU": str(program.path), "PATH": ""})


def test_an_old_qemu_will_do_with_kvm_but_not_before_it_had_our_network() -> None:
    Qemu(Path("qemu"), (7, 2)).require("kvm")
    with pytest.raises(Failure, match=r"needs QEMU 10\.0"):
        Qemu(Path("qemu"), (9, 2)).require("tcg")
    with pytest.raises(Failure, match=r"needs QEMU 7\.2"):
        Qemu(Path("qemu"), (6, 2)).require("kvm")
