"""``fleetctl fd-forward``: standard input and output, to a unix socket and back.

The original's client runs it on a node, through ssh, when it has a ``--tunnel`` and a unix socket for an endpoint: it is
all that its tunnel is made of. Ours forwards the socket itself (``fleet/ctl/transport.py``).
"""

from __future__ import annotations

import argparse
import os
import socket
import threading

from fleet.ctl.reach import Settings
from terminal import Failure

_CHUNK = 65536


def add_forward_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``fd-forward``."""
    parser.add_argument("socket", metavar="SOCKET", help="path of the unix socket")


def fd_forward(_: Settings, options: argparse.Namespace) -> int:
    """Forward until the other end of the socket closes it, or our output is no longer read."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(options.socket)
        except OSError as error:
            raise Failure(
                f"cannot connect to the socket: {error.strerror or error}",
                where=options.socket,
                hint="is fleet.service running?",
            ) from None
        # Beside: what comes back is forwarded whether or not there is anything more to send.
        threading.Thread(target=_send, args=(connection,), name="stdin", daemon=True).start()
        return _receive(connection)


def _send(connection: socket.socket) -> None:
    try:
        while chunk := os.read(0, _CHUNK):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the other end has closed it, and that ends the command


def _receive(connection: socket.socket) -> int:
    try:
        while chunk := connection.recv(_CHUNK):
            while chunk:
                chunk = chunk[os.write(1, chunk) :]
    except (BrokenPipeError, ConnectionResetError):
        return 0  # whoever used the tunnel has ended
    return 0
