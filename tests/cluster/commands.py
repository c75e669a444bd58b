"""The commands of ``cluster``, called as a person would, in the tests' own process."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from terminal.interrupt import SIGNALS


def call(entry: Callable[[], int], *argv: str) -> int:
    """Call a console script's entry point with arguments; returns its exit code."""
    before, sys.argv = sys.argv, ["test", *argv]
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return entry()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
        for number, handler in handlers.items():  # the command has ended, but not its process
            signal.signal(number, handler)


def nothing_is_left(home: Path) -> bool:
    clusters = home / "state/flotilla/clusters"
    sockets = Path(os.environ["XDG_RUNTIME_DIR"], "flotilla")
    return not sockets.exists() and not (clusters.exists() and any(clusters.iterdir()))
