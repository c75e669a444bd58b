"""Stands in for the OpenSSH client: understands the few options that fleetctl uses, and obeys the environment.

The port says which host it is: 2201 refuses, 2202 is the node whose machine-id is FAKE_SSH_MACHINE_ID, 2203 never
answers, 2204 has a fleetd without etcd (FAKE_SSH_BROKEN_API), 2205 has a changed host key, 2206 is like 2202, but for
its first FAKE_SSH_LATE_S seconds nothing comes back. A session on a machine prints where it ran, and ends with status
3. Each command line is appended to FAKE_SSH_LOG.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time


def main() -> None:
    with open(os.environ["FAKE_SSH_LOG"], "a") as log:  # noqa: PTH123 - no imports beyond what is needed: it must start fast
        log.write(" ".join(sys.argv[1:]) + "\n")
    parser = argparse.ArgumentParser()
    for flag in "-T", "-M", "-t", "-A":
        parser.add_argument(flag, action="store_true")
    for option in "-S", "-L", "-W", "-l":
        parser.add_argument(option)
    parser.add_argument("-o", action="append")
    parser.add_argument("-p", type=int, default=22)
    parser.add_argument("host")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    where = f"{options.l}@{options.host}:{options.p}"
    if not options.M:
        hop = next((each for each in options.o if each.startswith("ProxyCommand=")), "")
        print(f"{where}{' by a hop' if hop else ''}: {' '.join(options.command)}")
        sys.exit(3)
    if options.p == 2201:
        sys.exit(complain(f"ssh: connect to host {options.host} port 2201: Connection refused"))
    if options.p == 2203:
        time.sleep(600)
    if options.p == 2205:
        sys.exit(complain("@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed."))
    local = options.L.partition(":")[0]
    target = os.environ["FAKE_SSH_BROKEN_API" if options.p == 2204 else "FAKE_SSH_API"]
    late_s = float(os.environ["FAKE_SSH_LATE_S"]) if options.p == 2206 else 0.0
    threading.Thread(target=forward, args=(listen(local), target, late_s), daemon=True).start()
    print("welcome to the node")
    print(os.environ["FAKE_SSH_MACHINE_ID"], flush=True)
    sys.stdin.read()  # what the remote cat does


def complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 255


def listen(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    return listening


def forward(listening: socket.socket, target: str, late_s: float) -> None:
    time.sleep(late_s)
    while True:
        near, _ = listening.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(target)
        except OSError:
            near.close()
            continue
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
