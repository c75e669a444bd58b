"""Talking to a cluster's supervisor: one JSON line there, one JSON line back, over its unix socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from cluster.model.protocol import LINE_BYTES_MAX
from terminal import Failure, record


def ask(path: Path, do: str, /, *, deadline_s: float = 30, **arguments: Any) -> Any:
    """Ask the supervisor at the socket ``path`` to ``do`` something and return its answer.

    Raises :class:`Failure`, with the supervisor's own words if it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(deadline_s)
            line.connect(str(path))
            line.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            with line.makefile("rb") as answers:
                answer = record.parse(answers.readline(LINE_BYTES_MAX))
                if not isinstance(answer, dict):
                    raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise Failure(f"the cluster's supervisor does not answer to {do!r}", where=str(path)) from error
    if "failure" in answer:
        raise Failure(answer["failure"], where=answer.get("where"), hint=answer.get("hint"))
    return answer["result"]
