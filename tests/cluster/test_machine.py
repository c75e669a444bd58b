"""The command line of a node, whole: whoever changes it must see what changes."""

import dataclasses
from pathlib import Path

import pytest

from cluster.model.machine import EMULATED_PROCESSOR, Machine, argv, cluster_address, cluster_mac, management_mac

MACHINE = Machine(
    number=2,
    name="flotilla-default-node-2",
    accelerator="tcg",
    memory_mib=1024,
    image=Path("/c/image"),
    cmdline="console=ttyS0 ro",
    state_disk=Path("/c/node-2/state.img"),
    cidata=Path("/c/node-2/cidata.iso"),
    console=Path("/c/node-2/console.log"),
    net_socket=Path("/run/c/net-2"),
    qmp_socket=Path("/run/c/qmp-2"),
    shell_socket=Path("/run/c/shell-2"),
    ssh_port=22002,
    forward=("/usr/bin/python3", "-I", "-S", "/my code/forward.py", "127.0.0.1", "22004"),
)

GOLDEN = """\
/usr/bin/qemu
-name flotilla-default-node-2,debug-threads=on
-nodefaults
-no-user-config
-display none
-sandbox on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny
-M q35,memory-backend=ram
-cpu qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+sha-ni,+rdrand,+fsgsbase,+x2apic
-accel tcg,tb-size=256
-smp 1
-m 1024
-object {"qom-type": "memory-backend-file", "id": "ram", "size": 1073741824, "mem-path": "/proc/self/fd/7", "share": true}
-kernel /c/image/vmlinuz
-initrd /c/image/initrd.img
-append console=ttyS0 ro flotilla.datasource=nocloud no_timer_check
-blockdev {"driver": "raw", "node-name": "root", "read-only": true, "discard": "unmap", "cache": {"no-flush": true}, \
"file": {"driver": "file", "filename": "/c/image/root.img", "cache": {"no-flush": true}, "discard": "unmap"}}
-device virtio-blk-pci,drive=root,serial=root
-blockdev {"driver": "raw", "node-name": "state", "read-only": false, "discard": "unmap", "cache": {"no-flush": true}, \
"file": {"driver": "file", "filename": "/c/node-2/state.img", "cache": {"no-flush": true}, "discard": "unmap"}}
-device virtio-blk-pci,drive=state,serial=state
-blockdev {"driver": "raw", "node-name": "cidata", "read-only": true, "discard": "unmap", "cache": {"no-flush": true}, \
"file": {"driver": "file", "filename": "/c/node-2/cidata.iso", "cache": {"no-flush": true}, "discard": "unmap"}}
-device virtio-blk-pci,drive=cidata,serial=cidata
-netdev {"type": "user", "id": "management", "restrict": true, "hostfwd": [{"str": "tcp:127.0.0.1:22002-:22"}], \
"guestfwd": [{"str": "tcp:10.0.2.100:8087-cmd:/usr/bin/python3 -I -S '/my code/forward.py' 127.0.0.1 22004"}]}
-device virtio-net-pci,netdev=management,mac=52:54:00:4d:00:02
-netdev {"type": "stream", "id": "cluster", "server": false, "addr": {"type": "unix", "path": "/run/c/net-2"}}
-device virtio-net-pci,netdev=cluster,mac=52:54:00:43:00:02
-object rng-random,id=rng,filename=/dev/urandom
-device virtio-rng-pci,rng=rng
-chardev file,id=console,path=/c/node-2/console.log,append=on
-serial chardev:console
-chardev socket,id=shell,path=/run/c/shell-2,server=on,wait=off
-device virtio-serial-pci
-device virtserialport,chardev=shell,name=flotilla.shell
-qmp unix:/run/c/qmp-2,server=on,wait=off"""


def one_option_a_line(words: list[str]) -> str:
    text = words[0]
    for word in words[1:]:
        text += ("\n" if word.startswith("-") else " ") + word
    return text


def test_the_command_line_of_an_emulated_node() -> None:
    assert one_option_a_line(argv(Path("/usr/bin/qemu"), MACHINE, 7)) == GOLDEN


def test_hardware_differs_in_the_accelerator_and_a_check_only() -> None:
    emulated = argv(Path("/usr/bin/qemu"), MACHINE, 7)
    hardware = argv(Path("/usr/bin/qemu"), dataclasses.replace(MACHINE, accelerator="kvm"), 7)
    assert [pair for pair in zip(emulated, hardware, strict=True) if pair[0] != pair[1]] == [
        (EMULATED_PROCESSOR, "max"),
        ("tcg,tb-size=256", "kvm"),
        ("console=ttyS0 ro flotilla.datasource=nocloud no_timer_check", "console=ttyS0 ro flotilla.datasource=nocloud"),
    ]


def test_another_architecture_differs_in_board_processor_and_a_check_only() -> None:
    ours = argv(Path("/usr/bin/qemu"), MACHINE, 7)
    theirs = argv(Path("/usr/bin/qemu"), dataclasses.replace(MACHINE, architecture="arm64"), 7)
    assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == [
        ("q35,memory-backend=ram", "virt,memory-backend=ram"),
        (EMULATED_PROCESSOR, "max,pauth-impdef=on"),
        ("console=ttyS0 ro flotilla.datasource=nocloud no_timer_check", "console=ttyS0 ro flotilla.datasource=nocloud"),
    ]


def test_a_restored_node_differs_in_its_memory_and_waits() -> None:
    booted = argv(Path("/usr/bin/qemu"), MACHINE, 7)
    restored = argv(Path("/usr/bin/qemu"), dataclasses.replace(MACHINE, incoming=Path("/s/node-2")), 7, shared=False)
    assert restored[-2:] == ["-incoming", "defer"]
    ((shared, private),) = [pair for pair in zip(booted, restored[:-2], strict=True) if pair[0] != pair[1]]
    assert shared.replace('"share": true', '"share": false') == private


def test_a_comma_in_a_path_does_not_start_an_option() -> None:
    words = argv(Path("/usr/bin/qemu"), dataclasses.replace(MACHINE, console=Path("/a,server=on/console.log")), 7)
    assert "file,id=console,path=/a,,server=on/console.log,append=on" in words


@pytest.mark.parametrize("number", [1, 16, 99])
def test_addresses_and_cards_of_a_node_carry_its_number(number: int) -> None:
    assert cluster_address(number) == f"10.77.0.{10 + number}"
    assert cluster_mac(number) == f"52:54:00:43:00:{number:02x}"
    assert management_mac(number) == f"52:54:00:4d:00:{number:02x}"
