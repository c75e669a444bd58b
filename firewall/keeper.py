"""Keeps the sets of a node's neighbours in step with the kernel.

It reads them once, and again whenever a link, an address or a route has changed.

It is the program of firewall-neighbours.service. It never polls, and it reads once for a burst of changes (such as the
start of a container).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from firewall.neighbours import commands, neighbours

NFT = "/usr/sbin/nft"
SETTLE_S = 0.1
"""Changes come in bursts: a reading waits until none has come for so long."""
BURST_MAX = 1000
"""Changes without a pause, after which it reads nevertheless."""
_BUFFER = 1 << 16
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE."""
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE, _INTERRUPTED = 2, 3, 0x10


class ChangedError(Exception):
    """The kernel's lists changed while they were read: what was read fits together no more."""


def main() -> int:
    """Run for ever. Raises OSError: systemd starts it again."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    events.bind((0, _GROUPS))
    loaded = ""
    while True:
        try:
            wanted = commands(neighbours(dump()))
        except ChangedError:
            settle(events)
            continue
        if wanted != loaded:
            load(wanted)
            loaded = wanted
        wait(events)
        settle(events)


def dump() -> bytes:
    """All links, addresses and routes. Raises ChangedError, OSError."""
    whole = b""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.bind((0, 0))
        for number, kind in enumerate((_GETLINK, _GETADDR, _GETROUTE), 1):
            # A struct ifinfomsg is long enough for all three, and zeros mean all.
            asking.send(struct.pack("=IHHII16x", 32, kind, _REQUEST | _DUMP, number, 0))
            is_done = False
            while not is_done:
                data = asking.recv(_BUFFER)
                is_done = _ends(data)
                whole += data
    return whole


def _ends(data: bytes) -> bool:
    """Whether a piece of a dump is its last. Raises ChangedError, OSError."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if flags & _INTERRUPTED:
            raise ChangedError
        if kind == _ERROR:
            raise OSError(-struct.unpack_from("=i", data, offset + 16)[0], "the kernel does not return its routes")
        if kind == _DONE:
            return True
        offset += max((length + 3) & ~3, 16)
    return False


def wait(events: socket.socket) -> None:
    """Return when something changed, also when the kernel dropped notifications (netlink(7), ENOBUFS)."""
    events.settimeout(None)
    try:
        events.recv(_BUFFER)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise


def settle(events: socket.socket) -> None:
    """Pass over the rest of a burst."""
    events.settimeout(SETTLE_S)
    for _ in range(BURST_MAX):
        try:
            events.recv(_BUFFER)
        except TimeoutError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def load(text: str) -> None:
    """Have nft do it. Raises OSError."""
    # Neither subprocess nor tempfile: on an emulated node an import costs more than all that this does.
    file = os.memfd_create("neighbours")
    try:
        os.write(file, text.encode())
        os.lseek(file, 0, os.SEEK_SET)
        child = os.posix_spawn(NFT, [NFT, "-f", "-"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, file, 0)])
    finally:
        os.close(file)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise OSError(f"{NFT} failed with {os.waitstatus_to_exitcode(status)}: what it says is above")
