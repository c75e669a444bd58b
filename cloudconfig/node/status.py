"""The result of the last apply: ``/run/cloudconfig/status.json``, readable by all, written once at its end.

Without it no apply has ended since boot. It has key paths and paths, never values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from terminal import Failure, record

VERSION = 1
PATH = "/run/cloudconfig/status.json"

DONE = "done"  # all is as the user-data says
DEGRADED = "degraded"  # host name and SSH keys are, the rest is not, or not wholly
FAILED = "failed"  # nothing could be done
DEFERRED = "deferred"  # to when there is a network; never in the file
NONE = "none"  # no datasource is named, or none of several exists: there is nothing to do
REPAIR = "hint: 'cloudconfig validate' shows the lines; 'sudo cloudconfig apply --datasource file:PATH' repairs"


class Trouble(NamedTuple):
    """One error or warning: the key path or file it is about (may be empty), and what is wrong."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Status(NamedTuple):
    """The outcome of an apply. ``plan`` is the plan's hash; ``changed`` are paths that were written or removed."""

    result: str
    datasource: str
    instance_id: str = ""
    plan: str = ""
    changed: tuple[str, ...] = ()
    errors: tuple[Trouble, ...] = ()
    seconds: float = 0.0
    warnings: tuple[Trouble, ...] = ()

    @property
    def good(self) -> bool:
        """Whether there is nothing to repair."""
        return self.result in (DONE, NONE, DEFERRED)

    def as_json(self) -> str:
        """The file's content."""
        value = {"v": VERSION, **self._asdict()}
        for name in ("errors", "warnings"):
            value[name] = [trouble._asdict() for trouble in value[name]]
        return json.dumps(value) + "\n"

    def lines(self) -> list[str]:
        """For people: one line for the outcome, one for each error and warning."""
        if self.result == NONE:
            if self.datasource in ("", NONE):
                return ["none: no datasource is named on the kernel command line"]
            return [f"none: no user-data is there; tried {self.datasource.replace(',', ', ')}"]
        if self.result == DEFERRED:
            return [f"{self.datasource}: as soon as there is a network"]
        first = f"{self.result}: {self.datasource}, {len(self.changed)} paths changed, {self.seconds:.1f} s"
        repair = () if self.good else (REPAIR,)
        return [
            first,
            *(f"error: {trouble}" for trouble in self.errors),
            *(f"warning: {trouble}" for trouble in self.warnings),
            *repair,
        ]


def read(path: str | Path = PATH) -> Status | None:
    """The last outcome, None if there is none yet. Raises Failure when the file is broken."""
    try:
        value = record.parse(Path(path).read_text())
        if value["v"] != VERSION:
            raise Failure(f"written by another version ({value['v']})", where=str(path))
        return Status(
            result=str(value["result"]),
            datasource=str(value["datasource"]),
            instance_id=str(value["instance_id"]),
            plan=str(value["plan"]),
            changed=tuple(map(str, value["changed"])),
            errors=_troubles(value["errors"]),
            seconds=float(value["seconds"]),
            warnings=_troubles(value["warnings"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failure("not a status file", where=str(path)) from error


def _troubles(values: list[dict[str, object]]) -> tuple[Trouble, ...]:
    return tuple(Trouble(str(value["path"]), str(value["message"])) for value in values)


def wait(
    path: str | Path = PATH,
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """The outcome, once there is one. Raises Failure after ``timeout_s``."""
    end = clock() + timeout_s
    while True:
        found = read(path)
        if found is not None:
            return found
        if clock() >= end:
            raise Failure(
                f"no apply has ended after {timeout_s:g} s", where=str(path), hint="systemctl status cloudconfig"
            )
        sleep(0.2)
