"""Console scripts: one place that maps an outcome to an exit code and a text on stderr."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from terminal.failure import Failure, render


def command(prog: str, run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run ``run(arguments)`` as the command ``prog`` and return its exit code.

    0 done, 1 failed, 2 wrong usage (argparse exits with 2 itself), 130 interrupted. A :class:`Failure` is rendered without
    a traceback; ``--debug`` anywhere in the arguments, or ``FLOTILLA_DEBUG=1``, shows it. Any other exception is a bug of ours
    and keeps its traceback. SIGTERM becomes ``KeyboardInterrupt``, so that one clean-up path serves both.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("FLOTILLA_DEBUG") == "1"
    if "--debug" in arguments:
        arguments.remove("--debug")
        debug = True
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(arguments)
    except Failure as failure:
        if debug:
            raise
        print(render(failure, prog), file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) went away: no error, but Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
