"""A stand-in for QEMU, run as a program by the tests: everything of a node that ``cluster`` sees from outside, and no
machine.

As a node it writes to the console, listens as monitor, plugs into the switch, and serves ssh on the forwarded port,
where ``true``, ``etcdctl endpoint health``, ``fleetctl list-machines`` and ``docker load`` answer;
``STANDIN_DEAF`` in the environment means no ssh, ``STANDIN_ETCD`` a file that remembers etcd's members,
``STANDIN_MUTE`` no root shell, ``STANDIN_UNIT`` is the state of etcd's unit, which then is not healthy. Questions about
version and accelerator are answered by the shell script that runs this, see conftest.py.
"""

import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

HOST_KEY = paramiko.ECDSAKey.generate()
KEY = f"{HOST_KEY.get_name()} {HOST_KEY.get_base64()}\n"


def main() -> None:
    argv = sys.argv[1:]
    options = dict(itertools.pairwise(argv))
    netdevs = [json.loads(value) for option, value in itertools.pairwise(argv) if option == "-netdev"]
    management = next(net for net in netdevs if net["type"] == "user")
    cluster = next(net for net in netdevs if net["type"] == "stream")
    chardevs = "\n".join(value for option, value in itertools.pairwise(argv) if option == "-chardev")
    console = re.search(r"id=console,path=(.*),append=on", chardevs)
    shell = re.search(r"id=shell,path=(.*),server=on", chardevs)
    assert console
    assert shell
    with Path(console[1]).open("a") as file:
        file.write("\x1b[32m[  OK  ]\x1b[0m Stand-in reached target\n")
    port = re.fullmatch(r"tcp:127\.0\.0\.1:(\d+)-:22", management["hostfwd"][0]["str"])
    assert port
    if "STANDIN_MUTE" not in os.environ:
        root_shell(shell[1])
    monitor(re.sub(r"^unix:|,server=on.*", "", options["-qmp"]))
    wire = socket.socket(socket.AF_UNIX)
    wire.connect(cluster["addr"]["path"])
    if "STANDIN_DEAF" not in os.environ:
        serve_ssh(int(port[1]))
    while wire.recv(65536):
        pass
    signal.pause()


def monitor(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            line, _ = listener.accept()
            with line, line.makefile("rwb") as file:
                file.write(b'{"QMP": {}}\n')
                file.flush()
                for request in file:
                    message = json.loads(request)
                    command = message["execute"]
                    if command == "system_powerdown":
                        os.kill(os.getpid(), signal.SIGTERM)
                    refused = command not in ("qmp_capabilities", "query-status", "stop", "cont")
                    answer = {"error": {"desc": f"no {command}"}} if refused else {"return": {}}
                    file.write(
                        b'{"event": "SOMETHING"}\n' + json.dumps({**answer, "id": message["id"]}).encode() + b"\n"
                    )
                    file.flush()

    threading.Thread(target=serve, daemon=True).start()


def root_shell(path: str) -> None:
    """What guest.agent says, of a node on which all is as it should be from the start (but see STANDIN_UNIT,
    STANDIN_DEAF).
    """
    Path(path).unlink(missing_ok=True)  # as QEMU does
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        match request:
            case {"do": "reset", "nonce": nonce}:
                yield {"hello": 1, "nonce": nonce, "boot": "5ca1ab1e-0000-4000-8000-000000000000", "uptime": 1.5}
            case {"do": "watch", "id": number, "conditions": conditions}:
                state = os.environ.get("STANDIN_UNIT")
                deaf = "STANDIN_DEAF" in os.environ
                for index in range(1 if deaf else 3 if state else len(conditions)):
                    yield {"id": number, "held": index}
                if state == "failed":
                    yield {"id": number, "failed": ["etcd.service"]}
            case {"do": "run", "id": number, "argv": [*_, command]}:
                said, rc = f"root did {command}\n", 0
                if command.startswith("cat /etc/ssh/"):
                    said = KEY
                elif command.startswith("cat /run/flotilla-room/") and "STANDIN_ROOM" in os.environ:
                    said = Path(os.environ["STANDIN_ROOM"]).read_text()
                elif command.startswith("etcdctl ") and "STANDIN_ETCD" in os.environ:
                    said, rc = etcdctl(Path(os.environ["STANDIN_ETCD"]), command.split())
                yield {"id": number, "out": b64encode(said.encode()).decode()}
                yield {"id": number, "exit": rc}

    def serve() -> None:
        while True:
            line, _ = listener.accept()
            with line, line.makefile("rwb") as file:
                for words in file:
                    if words.strip():
                        for answer in answers(json.loads(words)):
                            file.write(json.dumps(answer).encode() + b"\n")
                            file.flush()

    threading.Thread(target=serve, daemon=True).start()


def etcdctl(state: Path, words: list[str]) -> tuple[str, int]:
    """What etcdctl says about members, which the file ``state`` remembers for all nodes: a JSON list of them, as
    etcdctl prints it.
    """
    members = json.loads(state.read_text())
    match [word for word in words if not word.startswith("--")][1:]:
        case ["member", "list"]:
            return json.dumps({"members": members}), 0
        case ["member", "add", name]:
            url = next(word for word in words if word.startswith("--peer-urls=")).removeprefix("--peer-urls=")
            known = ",".join([*(f"{each['name']}={each['peerURLs'][0]}" for each in members), f"{name}={url}"])
            members.append({"ID": len(members) + 100, "name": name, "peerURLs": [url], "isLearner": True})
            state.write_text(json.dumps(members))
            return f'Member added\n\nETCD_NAME="{name}"\nETCD_INITIAL_CLUSTER="{known}"\n', 0
        case ["member", "promote", identity]:
            for each in members:
                if each["ID"] == int(identity, 16):
                    each.pop("isLearner", None)
        case ["member", "remove", identity]:
            members = [each for each in members if each["ID"] != int(identity, 16)]
    state.write_text(json.dumps(members))
    return "done\n", 0


class Node(paramiko.ServerInterface):
    """Lets every client in, for what is at stake; the real node's sshd does not."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL if username == "core" else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Timer(0.05, execute, (channel, command.decode())).start()  # after the reply to this request
        return True


def execute(channel: paramiko.Channel, command: str) -> None:
    rc = 0
    if command.startswith("systemctl is-failed"):
        channel.sendall((f"active\n{os.environ.get('STANDIN_UNIT', 'active')}\n").encode())
    elif command == "etcdctl endpoint health":
        rc = 1 if "STANDIN_UNIT" in os.environ else 0
    elif command.startswith("fleetctl list-machines"):
        for number in range(1, int(os.environ["STANDIN_NODES"]) + 1):
            channel.sendall(f"machine{number}\t10.77.0.{10 + number}\t-\n".encode())
    elif command == "docker load":
        size = 0
        while chunk := channel.recv(65536):
            size += len(chunk)
        channel.sendall(f"Loaded {size} bytes\n".encode())
    elif command.startswith("sleep"):
        channel.sendall(b"still sleeping\n")
        time.sleep(30)  # longer than the caller waits
    elif command.startswith("fail"):
        channel.sendall_stderr(b"no such thing\n")
        rc = 3
    channel.send_exit_status(rc)
    channel.close()


def serve_ssh(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))

    def connection(line: socket.socket) -> None:
        transport = paramiko.Transport(line)
        transport.add_server_key(HOST_KEY)
        try:
            transport.start_server(server=Node())
        except (paramiko.SSHException, EOFError):
            return
        channels = []  # each is closed with the last reference to it
        while transport.is_active():
            channels.append(transport.accept(1))

    def serve() -> None:
        while True:
            line, _ = listener.accept()
            threading.Thread(target=connection, args=(line,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


if __name__ == "__main__":
    main()
