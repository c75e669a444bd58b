"""Console scripts: one place that maps an outcome to an exit code and a text on stderr."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

from terminal.failure import Failure, render
from terminal.interrupt import noticed
from terminal.streams import discard, open_closed, say
from terminal.version import VERSION

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def command(
    prog: str,
    run: Callable[[Sequence[str]], int],
    argv: Sequence[str] | None = None,
    *,
    remote: Sequence[str] = (),
) -> int:
    """Run ``run(arguments)`` as the command ``prog`` and return its exit code.

    0 done, 1 failed, 2 wrong usage (argparse exits with 2 itself), 130 interrupted. A :class:`Failure` is rendered
    without a traceback; ``--debug`` anywhere in the arguments, or ``FLOTILLA_DEBUG=1``, shows it. Any other exception
    is a bug of ours and keeps its traceback, except for a full disk, which is no bug. ``--version`` as the first
    argument is answered here. SIGTERM, and SIGHUP unless it is ignored (``nohup``), become ``KeyboardInterrupt``, so
    that one clean-up path serves all.

    Arguments after ``--`` belong to another program and are never parsed, nor are those after a word of ``remote``: the
    subcommands that pass their arguments on to another machine (``("ssh",)``).
    """
    open_closed()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(f"{prog} {VERSION}")
        return 0
    arguments, debug = _take_debug(arguments, remote)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with noticed():
            code = run(arguments)
        sys.stdout.flush()  # here, where a reader that went away is understood, and not at the interpreter's exit
        return code
    except Failure as failure:
        if debug or _debugging():
            raise
        say(render(failure, prog), sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        say(f"{prog}: interrupted", sys.stderr)
        return 130
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # some other pipe or socket: a bug, since the code that opened it should have made it a Failure
        # The reader (head, less) has seen enough: no error, but Python would complain once more at exit.
        discard(sys.stdout)
        return 0
    except OSError as error:
        if debug or _debugging() or error.errno not in _DISK_FULL:
            raise
        full = Failure(
            error.strerror or "the disk is full",
            where=str(error.filename) if error.filename else None,
            hint="free some space, or set XDG_CACHE_HOME, XDG_STATE_HOME or TMPDIR to a folder on a larger disk",
        )
        say(render(full, prog), sys.stderr)
        return full.exit_code
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # settled
                signal.signal(number, handler)


def _debugging() -> bool:
    return os.environ.get("FLOTILLA_DEBUG") == "1"


def _take_debug(arguments: list[str], remote: Sequence[str]) -> tuple[list[str], bool]:
    """``arguments`` without our ``--debug``, and whether it was there.

    Arguments for another program are not changed."""
    end = next((at for at, word in enumerate(arguments) if word == "--" or word in remote), len(arguments))
    ours, theirs = arguments[:end], arguments[end:]
    return [word for word in ours if word != "--debug"] + theirs, "--debug" in ours


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe without a reader."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
