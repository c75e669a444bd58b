"""libvirt's Python binding and connections made with it. Every failure comes with what to do about it."""

from __future__ import annotations

import hashlib
import os
import shlex
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.model.connection_uri import Place
from cluster.model.layout import cache_root
from terminal import Failure

INSTALL_HINT = "./scripts/setup --libvirt installs libvirt and its Python binding"
ROOT_HINT = "run the cluster as an ordinary user, or with --driver qemu"
MARK = "made-by-flotilla"
"""A file in an embedded driver's folder that we made, and so may remove."""
EMULATOR = """\
#!/bin/sh
# Written by Flotilla. libvirt forbids QEMU to start programs; one is needed: it carries the guest's connections to the
# cluster's discovery service (guestfwd), in a session of its own: setsid(2), which QEMU counts among the ways to elevate
# privileges. The rest of the sandbox stays.
for word do
    shift
    case $word in
        on,*spawn=deny*) word=${word%%spawn=deny*}spawn=allow${word#*spawn=deny} ;;
    esac
    case $word in
        on,*elevateprivileges=deny*) word=${word%%elevateprivileges=deny*}elevateprivileges=allow${word#*elevateprivileges=deny} ;;
    esac
    set -- "$@" "$word"
done
"""


@cache
def library() -> ModuleType:
    """The binding, libvirt's event loop running in a thread. Raises :class:`Failure` if it is not installed."""
    try:
        import libvirt
    except ImportError as error:
        raise Failure("libvirt's Python binding is not installed", hint=INSTALL_HINT) from error
    libvirt.registerErrorHandler(_say_nothing, None)
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name="libvirt", daemon=True).start()
    module: ModuleType = libvirt
    return module


def _say_nothing(_context: object, _error: object) -> None:
    """Print nothing: errors are raised, too, and with libvirt's default people would see them twice."""


def connect(place: Place) -> Any:
    """A connection (``virConnect``) to ``place``; blocks. Raises :class:`Failure` with what is missing there."""
    require(place)
    libvirt = library()
    try:
        if place.root is not None and not place.root.exists():
            place.root.mkdir(mode=0o700, parents=True)
            (place.root / MARK).touch()
        return libvirt.open(place.uri)
    except OSError as error:
        raise Failure(f"the embedded driver's folder cannot be made: {error.strerror}", where=place.uri) from error
    except libvirt.libvirtError as error:
        raise Failure(f"no connection to libvirt: {error}", where=place.uri, hint=hint(place, str(error))) from error


def require(place: Place) -> None:
    """Check what can be checked without a connection.

    Raises :class:`Failure` if the binding is missing, or if this user has no such libvirt.
    """
    library()
    if place.is_local and os.geteuid() == 0:
        raise Failure("root has no libvirt of its own, only the system's", where=place.uri, hint=ROOT_HINT)


def hint(place: Place, said: str) -> str:
    """What to do about a connection that failed with the message ``said``."""
    if place.kind == "ssh":
        login = shlex.join([*place.ssh, place.host])
        return f"'{login}' must log in without a question, and find libvirt-daemon there"
    if "user record" in said:
        return "this user is in no /etc/passwd"
    if "pid file" in said:
        return "another cluster uses this folder; give each its own"
    if "Permission denied" in said:
        return "XDG_RUNTIME_DIR may be another user's (after su, say): unset XDG_RUNTIME_DIR"
    return INSTALL_HINT


def emulator_text(qemu: str) -> str:
    """The script that libvirt starts as its emulator: the program ``qemu``, allowed to start ours."""
    return f'{EMULATOR}exec {shlex.quote(qemu)} "$@"\n'


def emulator(qemu: Path) -> Path:
    """:func:`emulator_text` as a file of this computer.

    The file is kept: libvirt queries an emulator's capabilities once (1 s), and caches them by path and date.
    """
    text = emulator_text(str(qemu))
    path = cache_root() / "libvirt" / f"qemu-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(text)
        part.chmod(0o755)
        part.replace(path)
    return path


def pid_file(place: Place, domain: str) -> Path | None:
    """Where libvirt records the process of ``domain``, if it has one on this computer."""
    if place.root is not None:
        return place.root / "run" / "qemu" / f"{domain}.pid"
    if place.is_local:
        cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - see layout
        return Path(os.environ.get("XDG_RUNTIME_DIR") or cache_home) / "libvirt" / "qemu" / "run" / f"{domain}.pid"
    return None


def read_pid(place: Place, domain: str) -> int | None:
    """The process of ``domain``, None if it has none here or has just ended."""
    path = pid_file(place, domain)
    try:
        return None if path is None else int(path.read_text())
    except (OSError, ValueError):
        return None
