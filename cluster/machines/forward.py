"""One TCP connection of a guest, carried to a service of this computer: ``python -I -S forward.py ADDRESS PORT``.

Or ``forward.py SOCKET [CALLER]``: to a unix socket (its path begins with a slash), which first receives the address
that the connection comes from, as in the PROXY protocol's version 1. QEMU's user network runs this for each connection
to a ``guestfwd`` address, with the connection as standard input and output (and error, so nothing may be printed). It
ends with either side, and with the QEMU that started it.
"""

import ctypes
import os
import selectors
import signal
import socket
import sys

CHUNK_BYTES = 65536
CONNECTIONS_MAX = 256
"""Of one QEMU at a time, each with a process: a guest can begin as many as there are ports."""
PR_SET_PDEATHSIG = 1


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
    """Whether our parent has as many children as it may (proc_pid_task(5), ``children``).

    They are processes like this one.
    """
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as file:  # noqa: PTH123 - pathlib loads too slowly
            return len(file.read().split()) > CONNECTIONS_MAX
    except OSError:  # a kernel without that file
        return False


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if is_crowded():
        sys.exit(1)
    try:
        pump(socket.socket(fileno=0), connect(*sys.argv[1:]))
    except OSError:
        sys.exit(1)  # the guest sees its connection end: the same as a refusal
