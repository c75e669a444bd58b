"""Steps whose errors must not prevent others.

A node whose apply ended with a traceback has no host name, no keys and no status: no user could log in to read the
traceback. So every exception is caught here, as only the web server does besides, for one request; one that is no
Failure is a bug of ours and is reported as such, with its kind and place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cloudconfig.node.status import Trouble
from terminal import Failure

T = TypeVar("T")


def attempt(step: Callable[[], T], note: Callable[[Trouble], None]) -> T | None:
    """The result of ``step``; None if it raised, and then ``note`` gets the error."""
    try:
        return step()
    except Exception as error:
        note(trouble(error))
        return None


def trouble(error: Exception) -> Trouble:
    """An exception as data. Never the text of one that is no Failure: it may contain a value of user-data."""
    if isinstance(error, Failure):
        cause = error.__cause__
        detail = f": {cause.message}" if isinstance(cause, Failure) and cause.message != error.message else ""
        return Trouble(error.where or "", error.message + detail)
    place, frame = "", error.__traceback__
    while frame is not None:
        place = f" at {frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}"
        frame = frame.tb_next
    return Trouble("", f"an error of cloudconfig itself: {type(error).__name__}{place}; please report it")
