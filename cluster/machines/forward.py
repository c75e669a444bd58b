"""One TCP connection of a guest, carried to a service of this computer: ``python -I -S forward.py ADDRESS PORT``.

Or ``forward.py SOCKET [CALLER]``: to a unix socket (its path begins with a slash), which first receives the address
that the connection comes from, as in the PROXY protocol's version 1. QEMU's user network runs this for each connection
to a ``guestfwd`` address, with the connection as standard input and output (and error, so nothing may be printed). It
ends with either side: also with QEMU, which has the other end of the connection.

It is no child of QEMU's: libslirp forks twice, and the process between them ends at once. So a parent-death signal would
come from that one, whenever it is slower than Python's start.
"""

import os
import selectors
import socket
import sys

CHUNK_BYTES = 65536
CONNECTIONS_MAX = 256
"""To one service for one caller at a time, each with a process: a guest can begin as many as there are ports."""


def pump(guest: socket.socket, service: socket.socket) -> None:
    """Copy both ways until both directions have ended; a half-close is passed on."""
    peer = {guest: service, service: guest}
    with selectors.DefaultSelector() as selector:
        for end in peer:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                end = guest if key.fileobj is guest else service
                data = end.recv(CHUNK_BYTES)
                if data:
                    peer[end].sendall(data)
                else:
                    selector.unregister(end)
                    peer[end].shutdown(socket.SHUT_WR)


def connect(address: str, *words: str) -> socket.socket:
    """The connection to the service that the arguments name."""
    if not address.startswith("/"):
        return socket.create_connection((address, int(words[0])), timeout=None)
    service = socket.socket(socket.AF_UNIX)
    service.connect(address)
    for caller in words:
        service.sendall(f"PROXY TCP4 {caller} 0.0.0.0 0 0\r\n".encode())
    return service


def is_crowded() -> bool:
    """Whether there are as many processes with our arguments as there may be.

    They are children of the process that adopts orphans, as we are (proc_pid_task(5), ``children``).
    """
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as file:  # noqa: PTH123 - pathlib loads too slowly
            siblings = file.read().split()
    except OSError:  # a kernel without that file
        return False
    if len(siblings) <= CONNECTIONS_MAX:
        return False
    ours = b"\0".join(map(os.fsencode, sys.argv)) + b"\0"
    return sum(command_line(each).endswith(ours) for each in siblings) > CONNECTIONS_MAX


def command_line(process: str) -> bytes:
    """Of a process, as in proc_pid_cmdline(5); nothing of one that has ended."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123 - pathlib loads too slowly
            return file.read()
    except OSError:
        return b""


if __name__ == "__main__":
    if is_crowded():
        sys.exit(1)
    try:
        pump(socket.socket(fileno=0), connect(*sys.argv[1:]))
    except OSError:
        sys.exit(1)  # the guest sees its connection end: the same as a refusal
