"""Contexts: global options of fleetctl under a name, kept in a file, so that several clusters are a word apart.

    {"v": 1, "current": "lab", "contexts": {"lab": {"endpoint": "https://10.0.0.1:2378,https://10.0.0.2:2378",
     "ca-file": "/home/kim/lab/fleet-ca.crt", "cert-file": "/home/kim/lab/fleet-client.crt",
     "key-file": "/home/kim/lab/fleet-client.key"}}}

A context has paths of keys, and no key.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from terminal import Failure, UsageFailure, did_you_mean, record

VERSION: Final = 1
WAY: Final = ("endpoint", "tunnel", "ca-file", "cert-file", "key-file")
"""Options that lead to a cluster. They are never of two origins: a tunnel to one cluster, a certificate of another."""
OTHERS: Final = (
    *("ssh-username", "ssh-identity-file", "ssh-timeout", "strict-host-key-checking", "known-hosts-file"),
    "request-timeout",
)
FILES: Final = ("ca-file", "cert-file", "key-file", "ssh-identity-file", "known-hosts-file")
"""Options that are paths: a context has them from the root on."""
ISSUED: Final = {"ca-file": "fleet-ca.crt", "cert-file": "fleet-client.crt", "key-file": "fleet-client.key"}
"""Where ``trust issue --user`` puts them in its folder."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")

Options = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Contexts:
    """All of them, and the name of the one in use ("": none)."""

    v: int = VERSION
    current: str = ""
    contexts: dict[str, dict[str, str]] = field(default_factory=dict)

    def named(self, name: str) -> dict[str, str]:
        """One of them. Raises :class:`Failure` if there is none of that name."""
        if name in self.contexts:
            return self.contexts[name]
        hint = did_you_mean(name, self.contexts, "fleetctl context list shows them, fleetctl context add makes one")
        raise Failure("there is no context of this name", where=name, hint=hint)

    def used(self, name: str) -> Contexts:
        """With this one in use; "" for none. Raises :class:`Failure`."""
        if name:
            self.named(name)
        return Contexts(self.v, name, self.contexts)

    def with_one(self, name: str, options: Options) -> Contexts:
        """With this context, new or instead of the one of that name. Raises :class:`UsageFailure`."""
        if not _NAME.match(name):
            hint = "up to 64 of a-z, A-Z, 0-9 and _ . @ -, of which the last four do not begin it"
            raise UsageFailure("no name of a context", where=repr(name[:80]), hint=hint)
        return Contexts(self.v, self.current, {**self.contexts, name: dict(options)})

    def without(self, name: str) -> Contexts:
        """Without this one. Raises :class:`Failure`."""
        self.named(name)
        left = {each: options for each, options in self.contexts.items() if each != name}
        return Contexts(self.v, "" if self.current == name else self.current, left)


def file(environment: Mapping[str, str]) -> Path | None:
    """Where they are kept: in ``$XDG_CONFIG_HOME``, else ``~/.config``. None for a user without a home."""
    base = environment.get("XDG_CONFIG_HOME", "")
    try:
        # A relative path there is to be ignored (XDG base directory specification).
        folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    except RuntimeError:
        return None
    return folder / "flotilla/contexts.json"


def load(path: Path | None) -> Contexts:
    """Those of the file; none without it. Raises :class:`Failure`."""
    if path is None:
        return Contexts()
    hint = "correct it, or remove it and add the contexts again"
    try:
        found = record.build(Contexts, record.parse(path.read_bytes()))
        if found.v != VERSION:
            raise ValueError(f"v is {found.v}, and this program knows {VERSION}")
        for name, options in found.contexts.items():
            if not _NAME.match(name):
                raise ValueError(f"{name[:64]!r} is no name of a context")
            if unknown := options.keys() - {*WAY, *OTHERS}:
                raise ValueError(f"context {name} has {min(unknown)[:64]!r}, which is no option of one")
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except OSError as error:
        raise Failure(f"the contexts cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise Failure(f"this is no file of contexts: {error}", where=str(path), hint=hint) from None
    return found


@contextmanager
def changing(path: Path | None) -> Iterator[list[Contexts]]:
    """The contexts of the file, as the only item of a list; what is in its place afterwards is written, in one step.

    Others that change them wait. Raises :class:`Failure`."""
    if path is None:
        raise Failure("there is no place for contexts", hint="set HOME, or XDG_CONFIG_HOME")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = [load(path)]
            before = found[0]
            yield found
            if found[0] != before:
                part = path.with_suffix(".part")
                part.touch(mode=0o600)
                text = {"v": VERSION, "current": found[0].current, "contexts": found[0].contexts}
                part.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
                part.replace(path)
    except OSError as error:
        raise Failure(f"the contexts cannot be written: {error.strerror}", where=str(path)) from error


def settled(given: Options, environment: Mapping[str, str], defaults: Options) -> tuple[dict[str, str], str]:
    """All global options, of which ``given`` are those on the command line; and the name of the context, or "".

    A context on the command line goes before what the environment says, and so does the one of FLEETCTL_CONTEXT. The
    one in use counts only if neither command line nor environment says where to go. Raises :class:`Failure`.
    """
    outside = {name: value for name in (*WAY, *OTHERS) if (value := environment.get(variable(name))) is not None}
    says_where = any(source.get(name) for source in (given, outside) for name in ("endpoint", "tunnel"))
    named = given.get("context") or environment.get(variable("context"), "")
    if not named and says_where:
        return {**defaults, **outside, **given}, ""
    known = load(file(environment))
    chosen = named or known.current
    if not chosen:
        return {**defaults, **outside, **given}, ""
    context = known.named(chosen)
    # Of the environment, only what says nothing about the way.
    outside = {name: value for name, value in outside.items() if name in OTHERS}
    if any(given.get(name) for name in ("endpoint", "tunnel")):
        context = {name: value for name, value in context.items() if name not in ("endpoint", "tunnel")}
    return {**defaults, **outside, **context, **given}, chosen


def variable(option: str) -> str:
    """The variable of the environment for a global option."""
    return "FLEETCTL_" + option.upper().replace("-", "_")


def absolute(options: Options, folder: Path | None = None) -> dict[str, str]:
    """``options`` with paths from the root on; with the files of ``folder``, as ``trust issue --user`` makes it.

    Raises :class:`Failure` if one of the files is not there."""
    found = dict(options)
    if folder is not None:
        found = {name: str(folder / file_name) for name, file_name in ISSUED.items()} | found
    for name in FILES:
        if not found.get(name):
            continue
        path = Path(os.path.abspath(Path(found[name]).expanduser()))  # noqa: PTH100 - a link stays one
        if name != "known-hosts-file" and not path.is_file():
            hint = "the folder of 'trust issue --user' has them" if name in ISSUED else "check the path"
            raise Failure("there is no such file", where=f"--{name} {path}", hint=hint)
        found[name] = str(path)
    return found
