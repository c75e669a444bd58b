"""Checks of a whole unit: the rules by which systemd 257 refuses to load it.

One function for each type of unit; each of systemd's rules is one line, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from unitfile import command, directives, values
from unitfile.name import UnitName
from unitfile.text import Option

# Kernel file systems that systemd mounts itself.
_API_MOUNTS: Final = ("/proc", "/sys", "/dev", "/run")


class Trouble(NamedTuple):
    """Why systemd refuses the unit; ``option`` is the line that it is about, if it is about one."""

    option: Option | None
    message: str
    hint: str


def problems(unit: UnitName, options: Sequence[Option]) -> Iterator[Trouble]:
    """Why systemd would refuse ``unit`` with ``options``; nothing if it would not."""
    settings = _Settings(unit, options)
    check = {
        "automount": _automount,
        "mount": _mount,
        "path": _path,
        "scope": _scope,
        "service": _service,
        "slice": _slice,
        "socket": _socket,
        "swap": _swap,
        "timer": _timer,
    }.get(unit.suffix)
    if check is not None:
        yield from check(unit, settings)


class _Settings:
    """The options that count: systemd reads known directives, and ignores values that it cannot read."""

    def __init__(self, unit: UnitName, options: Sequence[Option]) -> None:
        self._unit = unit
        self._given: dict[str, list[Option]] = {}
        for option in options:
            kind = directives.sections().get(option.section, {}).get(option.name)
            if kind is not None and (option.value == "" or is_command(kind) or not _is_ignored(kind, option)):
                self._given.setdefault(option.section, []).append(option)

    def last(self, section: str, name: str) -> Option | None:
        """The effective assignment of a directive with one value; ``None`` if there is none or it is empty."""
        found = [each for each in self._given.get(section, ()) if each.name == name]
        return found[-1] if found and found[-1].folded else None

    def word(self, section: str, name: str) -> str:
        """Its value, "" if none counts."""
        option = self.last(section, name)
        return "" if option is None else option.folded

    def all(self, section: str, *names: str) -> list[Option]:
        """The assignments of lists that systemd treats as one: an empty one clears all before it."""
        found: list[Option] = []
        for option in self._given.get(section, ()):
            if option.name not in names:
                continue
            if option.folded:
                found.append(option)
            else:
                found.clear()
        return found

    def commands(self, section: str, name: str) -> list[tuple[Option, command.Command]]:
        """The commands of all assignments."""
        return [
            (option, each) for option in self.all(section, name) for each in command.read(option.folded, self._unit)[0]
        ]


def is_command(kind: str) -> bool:
    """Whether values of this kind are command lines."""
    return kind.startswith("PATH [ARG")


def _is_ignored(kind: str, option: Option) -> bool:
    found = values.problem(kind, option.name, option.folded)
    return found is not None and not found.used


def _service(_: UnitName, settings: _Settings) -> Iterator[Trouble]:
    start, stop = settings.commands("Service", "ExecStart"), settings.commands("Service", "ExecStop")
    ends_by_action = settings.word("Unit", "SuccessAction") not in ("", "none")
    given = settings.word("Service", "Type")
    type_ = given or ("dbus" if settings.word("Service", "BusName") else "simple" if start else "oneshot")
    oneshot = settings.last("Service", "Type") if given == "oneshot" else None
    hint = "add ExecStart= with an absolute path to [Service]"
    if not start and not stop and not ends_by_action:
        yield Trouble(None, "the service has no ExecStart=: systemd refuses it", hint)
    elif not start and type_ != "oneshot":
        yield Trouble(None, f"a service of Type={type_} has no ExecStart=: systemd refuses it", hint)
    elif not start and not ends_by_action and not values.is_true(settings.word("Service", "RemainAfterExit")):
        yield Trouble(
            None, "the service has no ExecStart= and no RemainAfterExit=yes: systemd refuses it", "add one of the two"
        )
    if type_ != "oneshot" and len(start) > 1:
        hint = "set Type=oneshot, or use ExecStartPre= for what comes before"
        yield Trouble(start[1][0], "more than one ExecStart= command is for Type=oneshot only", hint)
    restart = settings.last("Service", "Restart")
    if oneshot and restart and restart.folded in ("always", "on-success"):
        yield Trouble(restart, "Restart=always and on-success are not for Type=oneshot", "use Restart=on-failure")
    exit_type = settings.last("Service", "ExitType")
    if oneshot and exit_type and exit_type.folded == "cgroup":
        yield Trouble(exit_type, "ExitType=cgroup is not for Type=oneshot", "remove one of the two")
    if type_ == "dbus" and not settings.word("Service", "BusName"):
        yield Trouble(settings.last("Service", "Type"), "Type=dbus wants a BusName=", "add BusName= to [Service]")
    kill = settings.last("Service", "KillMode")
    if settings.word("Service", "PAMName") and kill and kill.folded not in ("control-group", "mixed"):
        yield Trouble(kill, "with PAMName= the KillMode= is control-group or mixed", "remove KillMode=")


def _mount(unit: UnitName, settings: _Settings) -> Iterator[Trouble]:
    yield from _where(unit, settings, "Mount")
    if settings.last("Mount", "What") is None:
        yield Trouble(None, "the mount has no What=: systemd refuses it", "add What= with the device to [Mount]")


def _automount(unit: UnitName, settings: _Settings) -> Iterator[Trouble]:
    yield from _where(unit, settings, "Automount")


def _where(unit: UnitName, settings: _Settings, section: str) -> Iterator[Trouble]:
    where = settings.last(section, "Where")
    if where is None or "%" in where.folded:
        return
    path = where.folded
    name = f"{path_stem(path)}.{unit.suffix}"
    if str(unit) != name:
        hint = f"a unit for that Where= is named {name[:255]}"
        yield Trouble(where, "the unit's name does not fit its Where=: systemd refuses it", hint)
    elif path.rstrip("/") in _API_MOUNTS:
        yield Trouble(where, "systemd mounts this file system itself and refuses a unit for it", "choose another place")


def _swap(unit: UnitName, settings: _Settings) -> Iterator[Trouble]:
    what = settings.last("Swap", "What")
    if what is None or "%" in what.folded:
        return
    name = f"{path_stem(what.folded)}.swap"
    if str(unit) != name:
        hint = f"a unit for that What= is named {name[:255]}"
        yield Trouble(what, "the unit's name does not fit its What=: systemd refuses it", hint)


def _timer(_: UnitName, settings: _Settings) -> Iterator[Trouble]:
    spans = ("OnActiveSec", "OnBootSec", "OnStartupSec", "OnUnitActiveSec", "OnUnitInactiveSec", "OnCalendar")
    if settings.all("Timer", *spans):
        return
    if not any(values.is_true(settings.word("Timer", name)) for name in ("OnClockChange", "OnTimezoneChange")):
        yield Trouble(None, "the timer never elapses: systemd refuses it", "add OnCalendar= or OnBootSec= to [Timer]")


def _path(_: UnitName, settings: _Settings) -> Iterator[Trouble]:
    names = ("PathExists", "PathExistsGlob", "PathChanged", "PathModified", "DirectoryNotEmpty")
    if not settings.all("Path", *names):
        yield Trouble(None, "the unit watches no path: systemd refuses it", "add PathExists= or its kin to [Path]")


def _socket(_: UnitName, settings: _Settings) -> Iterator[Trouble]:
    listens = settings.all("Socket", *(name for name in directives.sections()["Socket"] if name.startswith("Listen")))
    if not listens:
        yield Trouble(None, "the socket listens nowhere: systemd refuses it", "add ListenStream= to [Socket]")
        return
    links = settings.all("Socket", "Symlinks")
    if links and sum(each.folded.startswith("/") for each in listens) != 1:
        yield Trouble(links[0], "Symlinks= is for a socket that listens at one path", "remove Symlinks=")
    if settings.word("Socket", "MaxConnections") == "0":
        yield Trouble(settings.last("Socket", "MaxConnections"), "MaxConnections= is 1 at least", "remove it")
    accept = settings.last("Socket", "Accept")
    if accept is None or not values.is_true(accept.folded):
        return
    deaf = [each for each in listens if each.name not in ("ListenStream", "ListenSequentialPacket")]
    if deaf:
        yield Trouble(deaf[0], "with Accept=yes a socket is a stream: systemd refuses it", "remove Accept=yes")
    service = settings.last("Socket", "Service")
    if service is not None:
        yield Trouble(service, "Service= and Accept=yes exclude each other", "name the template NAME@.service instead")


def _scope(_: UnitName, __: _Settings) -> Iterator[Trouble]:
    yield Trouble(None, "systemd makes scopes for running programs and reads no file of one", "write a .service")


def _slice(unit: UnitName, _: _Settings) -> Iterator[Trouble]:
    if unit.stem != "-" and "" in unit.stem.split("-"):
        hint = "each - in it leads into the slice before it, as in a-b.slice below a.slice"
        yield Trouble(None, "a slice's name has a - with nothing before or behind it: systemd refuses it", hint)


def path_stem(path: str) -> str:
    r"""The part of a unit's name for ``path`` (systemd-escape --path): ``/srv/my data`` is ``srv-my\x20data``."""
    clean = "/".join(piece for piece in path.split("/") if piece not in ("", "."))
    if not clean:
        return "-"
    made = []
    for index, byte in enumerate(clean.encode()):
        character = chr(byte)
        if character == "/":
            made.append("-")
        elif (byte < 128 and character.isalnum()) or character in ":_" or (character == "." and index > 0):
            made.append(character)
        else:
            made.append(f"\\x{byte:02x}")
    return "".join(made)
