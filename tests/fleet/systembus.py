"""A system bus with a small systemd behind it, on a unix socket: enough of D-Bus for :mod:`fleet.agent.systemd` to talk
to.

It speaks through jeepney's own parser, so it proves our calls and our handling of answers, signals and broken
connections; that a real systemd takes the same calls is proven in the VM.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, new_error, new_method_return, new_signal

MANAGER = DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")


class SystemBus:
    """Listens at ``address``.

    ``calls`` are (member, body) of the calls; ``errors`` maps a member to an error's name.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus"
        self.address = f"unix:path={self.path}"
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.errors: dict[str, str] = {}
        self.properties: dict[str, tuple[str, object]] = {
            "LoadState": ("s", "not-found"),
            "ActiveState": ("s", "inactive"),
            "FragmentPath": ("s", ""),
            "Perpetual": ("b", False),
        }
        self.finish_jobs = True
        self.reload_gate = threading.Event()
        self.reload_gate.set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen()
        self._connections: list[socket.socket] = []
        self._serial = iter(range(1, 1_000_000))
        threading.Thread(target=self._accept, daemon=True).start()

    def called(self, member: str) -> list[tuple[object, ...]]:
        return [body for name, body in self.calls if name == member]

    def emit(self, message: Message) -> None:
        for connection in self._connections:
            connection.sendall(message.serialise(serial=next(self._serial)))

    def end_job(self, unit: str, result: str = "done") -> None:
        self.emit(new_signal(MANAGER, "JobRemoved", "uoss", (7, "/org/freedesktop/systemd1/job/7", unit, result)))

    def change(self, path: str) -> None:
        emitter = DBusAddress(path, interface="org.freedesktop.DBus.Properties")
        self.emit(new_signal(emitter, "PropertiesChanged", "sa{sv}as", ("org.freedesktop.systemd1.Unit", {}, [])))

    def cut(self) -> None:
        """Break all connections, as a bus that is restarted does."""
        for connection in self._connections:
            with suppress(OSError):  # its peer has ended, and so has its thread
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def close(self) -> None:
        self.cut()
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            while b"BEGIN\r\n" not in received:
                chunk = connection.recv(4096)
                if not chunk:
                    return
                received += chunk
                if b"AUTH" in received and b"\r\n" in received and b"BEGIN" not in received:
                    connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
                    received = b""
            parser = Parser()
            parser.add_data(received.partition(b"BEGIN\r\n")[2])
            self._connections.append(connection)
            try:
                while True:
                    message = parser.get_next_message()
                    if message is not None:
                        self._answer(connection, message)
                        continue
                    data = connection.recv(4096)
                    if not data:
                        return
                    parser.add_data(data)
            except OSError:
                return

    def _answer(self, connection: socket.socket, message: Message) -> None:
        if message.header.message_type is not MessageType.method_call:
            return
        member = message.header.fields[HeaderFields.member]
        self.calls.append((member, tuple(message.body)))
        if member in self.errors:
            answer = new_error(message, self.errors[member], "s", ("no",))
        elif member == "Hello":
            answer = new_method_return(message, "s", (":1.1",))
        elif member in ("StartUnit", "StopUnit"):
            answer = new_method_return(message, "o", ("/org/freedesktop/systemd1/job/7",))
        elif member == "LoadUnit":
            answer = new_method_return(message, "o", ("/org/freedesktop/systemd1/unit/x",))
        elif member == "GetAll":
            answer = new_method_return(message, "a{sv}", (self.properties,))
        elif member == "ListUnitsByNames":
            rows = [
                (name, "", "loaded", "active", "running", "", "/org/freedesktop/systemd1/unit/x", 0, "", "/")
                for name in message.body[0]
            ]
            answer = new_method_return(message, "a(ssssssouso)", (rows,))
        else:
            if member == "Reload":
                self.reload_gate.wait(10)
            answer = new_method_return(message)
        connection.sendall(answer.serialise(serial=next(self._serial)))
        if member == "StopUnit" and member not in self.errors and self.finish_jobs:
            self.end_job(message.body[0])
