"""Reads one property from the service manager (systemd, PID 1), in D-Bus, on its private socket.

That needs no bus, and runs no program.

Of the D-Bus Specification ("Message Format", "Authentication Protocol") this is what one call of ``Properties.Get``
needs, little-endian.
"""

from __future__ import annotations

import os

from guest.conversation import Question

SOCKET = "/run/systemd/private"
SERVICE = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
HEADER_BYTES = 16
MESSAGE_BYTES_MAX = 1 << 20
CALL, ANSWER, ERROR = 1, 2, 3
PATH_FIELD, INTERFACE_FIELD, MEMBER_FIELD, DESTINATION_FIELD, SIGNATURE_FIELD = 1, 2, 3, 6, 8


class Answer:
    """The ``value`` of a property; None if the manager refused."""

    def __init__(self, value: str | int | None) -> None:
        self.value = value


def failed_units() -> Question:
    """How many units have failed."""
    return _get(MANAGER_PATH, f"{SERVICE}.Manager", "NFailedUnits")


def active_state(unit: str) -> Question:
    """A unit's state: "active", "failed" ..., "inactive" for one that is not known."""
    return _get(f"{MANAGER_PATH}/unit/{escaped(unit)}", f"{SERVICE}.Unit", "ActiveState")


def escaped(name: str) -> str:
    """A unit's name as the last part of its object path: sd_bus_path_encode(3)."""
    kept = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    text = ""
    for index, byte in enumerate(name.encode()):
        letter = chr(byte)
        text += letter if letter in kept or (letter.isdigit() and byte < 128 and index > 0) else f"_{byte:02x}"
    return text or "_"


def answer(heard: bytes) -> Answer | None:
    """The manager's answer to the one request of this connection.

    None if it is incomplete. Raises ValueError for invalid data."""
    begin, _, messages = heard.partition(b"\r\n")
    if not messages:
        return None
    if not begin.startswith(b"OK "):
        raise ValueError("not let in")
    while len(messages) >= HEADER_BYTES:
        if messages[0] != ord("l"):
            raise ValueError("not in the requested byte order")
        kind = messages[1]
        body_bytes = int.from_bytes(messages[4:8], "little")
        begin_of_body = HEADER_BYTES + _up(int.from_bytes(messages[12:16], "little"), 8)
        end = begin_of_body + body_bytes
        if end > MESSAGE_BYTES_MAX:
            raise ValueError("longer than any answer")
        if len(messages) < end:
            return None
        if kind in (ANSWER, ERROR):
            return Answer(_variant(messages[begin_of_body:end]) if kind == ANSWER else None)
        messages = messages[end:]
    return None


def _get(path: str, interface: str, name: str) -> Question:
    body = _string(interface)
    body += bytes(_up(len(body), 4) - len(body)) + _string(name)
    fields = b""
    for code, kind, value in (
        (PATH_FIELD, b"o", path),
        (INTERFACE_FIELD, b"s", "org.freedesktop.DBus.Properties"),
        (MEMBER_FIELD, b"s", "Get"),
        (DESTINATION_FIELD, b"s", SERVICE),
        (SIGNATURE_FIELD, b"g", "ss"),
    ):
        fields += bytes(_up(len(fields), 8) - len(fields))
        fields += bytes((code, 1)) + kind + b"\0"
        fields += _string(value) if kind != b"g" else bytes((len(value),)) + value.encode() + b"\0"
    header = b"l" + bytes((CALL, 0, 1)) + _number(len(body)) + _number(1) + _number(len(fields)) + fields
    header += bytes(_up(len(header), 8) - len(header))
    identity = str(os.getuid()).encode().hex().encode()
    # systemd does not read what comes in one piece with BEGIN until more comes.
    return Question(SOCKET, header + body, _is_whole, greeting=b"\0AUTH EXTERNAL " + identity + b"\r\nBEGIN\r\n")


def _is_whole(heard: bytes) -> bool:
    try:
        return answer(heard) is not None
    except ValueError:
        return True


def _variant(body: bytes) -> str | int:
    if body[:3] == b"\x01u\0" and len(body) >= 8:
        return int.from_bytes(body[4:8], "little")
    if body[:3] == b"\x01s\0" and len(body) >= 8:
        size = int.from_bytes(body[4:8], "little")
        return body[8 : 8 + size].decode(errors="replace")
    raise ValueError("neither a number nor a text")


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _string(text: str) -> bytes:
    data = text.encode()
    return _number(len(data)) + data + b"\0"


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
