"""A condition: a state that a node reaches while it starts, and that is cheap to check.

docs/guest.md lists the kinds."""

from __future__ import annotations

import os
from collections.abc import Callable

from guest import manager
from guest.conversation import Question
from guest.lines import Message

FILE_BYTES_MAX = 1 << 16
SOCKET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
LISTENS = "0A"
"""TCP_LISTEN of the kernel's net/tcp_states.h, as /proc/net/tcp writes it."""


class Condition:
    """``look`` returns whether it holds, at once; if not, ``holds`` may return it for the answer to ``question``."""

    def __init__(
        self,
        look: Callable[[], bool] | None = None,
        question: Question | None = None,
        holds: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.look, self.question, self.holds = look, question, holds


def condition(wanted: Message) -> Condition:
    """The condition that a message describes. Raises KeyError, TypeError, ValueError for an invalid one."""
    match wanted:
        case {"exists": str(path)}:
            return Condition(look=lambda: os.path.lexists(path))
        case {"absent": str(path)}:
            return Condition(look=lambda: not os.path.lexists(path))
        case {"file": str(path), "has": str(text)}:
            return Condition(look=lambda: text in _content(path))
        case {"listens": int(port)}:
            return Condition(look=lambda: is_listening(port, "".join(map(_content, SOCKET_TABLES))))
        case {"http": str() | int() as address, "path": str(path), "has": str(text)}:
            return _http(address, path, text, int(wanted.get("times", 1)))
        case {"any": [*several]} if several:
            return _any([condition(one) for one in several])
        case {"unit": str(unit), "is": str(state)}:
            return Condition(question=manager.active_state(unit), holds=lambda heard: value(heard) == state)
    raise ValueError(f"no such condition: {wanted}")


def _any(several: list[Condition]) -> Condition:
    looks = [one.look for one in several if one.look is not None]
    asking = [one for one in several if one.question is not None]
    if len(asking) > 1:
        raise ValueError("more than one of the conditions asks a server")
    asked = asking[0] if asking else Condition()
    return Condition(lambda: any(look() for look in looks), asked.question, asked.holds)


def value(heard: bytes) -> str | int | None:
    """The manager's answer; None if there is none."""
    try:
        said = manager.answer(heard)
    except ValueError:
        return None
    return said.value if said is not None else None


def is_listening(port: int, table: str) -> bool:
    """Whether a socket listens on the TCP port ``port``, by the kernel's table of them."""
    for line in table.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == LISTENS and words[1].endswith(f":{port:04X}"):
            return True
    return False


def _http(address: str | int, path: str, text: str, times: int) -> Condition:
    if not path.startswith("/") or not path.isprintable() or " " in path:
        raise ValueError(f"no path: {path}")
    words = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    return Condition(
        question=Question(address, words, lambda _: False),
        holds=lambda heard: is_ok(heard) and heard.count(text.encode()) >= times,
    )


def is_ok(heard: bytes) -> bool:
    """Whether an HTTP answer is a 200."""
    return heard.split(b" ", 2)[1:2] == [b"200"]


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(FILE_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
