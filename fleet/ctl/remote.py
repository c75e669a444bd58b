"""The commands that run something on a unit's machine: status, journal and ssh.

Their exit code is the remote program's."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from fleet.ctl.client import Client
from fleet.ctl.listing import no_such_unit
from fleet.ctl.reach import Settings, open_reach
from fleet.ctl.units import Argument, parse_arguments
from fleet.ctl.waiting import machine_cell
from fleet.model.entities import Machine
from terminal import Failure, UsageFailure, printable

_PORT_HELP = "port of sshd on the machines (default 22)"


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``status``."""
    parser.add_argument("units", nargs="*", metavar="UNIT", help="name of a unit")
    parser.add_argument("--machine", metavar="ID", help="of a global unit: this machine only")
    _add_port(parser)


def add_journal_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``journal``."""
    parser.add_argument("unit", metavar="UNIT", help="name of a unit")
    parser.add_argument(
        "--lines", "-n", type=_lines, default="10", metavar="N", help="the last N lines, or all (default 10)"
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--output", "-o", default="short", metavar="MODE", help="as journalctl's (default short)")
    parser.add_argument("--sudo", action="store_true", help="run journalctl with sudo")
    parser.add_argument("--machine", metavar="ID", help="of a global unit: the machine")
    _add_port(parser)


def add_ssh_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``ssh``."""
    parser.add_argument("--machine", metavar="ID", help="go to this machine; all arguments are the command")
    parser.add_argument("--unit", metavar="UNIT", help="go to the machine of this unit; all arguments are the command")
    parser.add_argument("--forward-agent", "-A", action="store_true", help="forward your ssh agent")
    _add_port(parser)
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="TARGET [COMMAND...]",  # by which cluster/cli/completion.py completes it
        help="a machine (the beginning of its id, or its address) or a unit; then a command",
    )


def status(settings: Settings, options: argparse.Namespace) -> int:
    """Show systemctl's status of units, on their machines; returns the first exit status that is not 0."""
    arguments = parse_arguments(options.units)
    first_bad = 0
    with open_reach(settings) as reach:
        machines = reach.client.machines()
        places = [(each, _places(reach.client, machines, each, options.machine)) for each in arguments]
        separate = False
        for argument, where in places:
            for machine in where:
                if separate:
                    print()
                if len(where) > 1:
                    print(printable(f"{machine_cell(machine)}:"))
                sys.stdout.flush()
                command = ["systemctl", "status", "--no-pager", "-l", "--", str(argument.name)]
                ended = reach.run(machine, shlex.join(command), options=_port(options))
                first_bad = first_bad or ended
                separate = True
    return first_bad


def journal(settings: Settings, options: argparse.Namespace) -> int:
    """The last lines that a unit wrote, on its machine."""
    argument = parse_arguments([options.unit])[0]
    with open_reach(settings) as reach:
        machines = _places(reach.client, reach.client.machines(), argument, options.machine)
        if len(machines) > 1:
            raise UsageFailure(
                f"{argument.name} is on {len(machines)} machines",
                hint="choose one with --machine: " + " ".join(each.id for each in machines),
            )
        command = [
            "journalctl",
            "--unit",
            str(argument.name),
            "--no-pager",
            "-n",
            options.lines,
            "--output",
            options.output,
        ]
        command = [*(["sudo"] if options.sudo else []), *command, *(["--follow"] if options.follow else [])]
        # With a terminal of its own the remote journalctl ends when ours does.
        terminal = ["-t"] if options.follow and sys.stdout.isatty() else []
        return reach.run(machines[0], shlex.join(command), options=[*_port(options), *terminal])


def ssh(settings: Settings, options: argparse.Namespace) -> int:
    """A shell, or a command, on a machine.

    As with ssh itself, the words of the command are joined for the remote shell."""
    command = list(options.arguments)
    if options.machine and options.unit:
        raise UsageFailure("--machine and --unit exclude each other")
    named = options.machine or options.unit
    if not named:
        if not command:
            raise UsageFailure("no machine and no unit given", hint="as in: fleetctl ssh hello.service")
        named = command.pop(0)
    if command[:1] == ["--"]:
        command.pop(0)
    with open_reach(settings) as reach:
        machines = reach.client.machines()
        found = [] if options.unit else _matching(machines, named)
        if not found and not options.machine:
            found = _places(reach.client, machines, parse_arguments([named])[0], None)
        if not found:
            raise Failure(f"no machine has an id that begins with {named}", hint="see: fleetctl list-machines --full")
        if len(found) > 1:
            raise Failure(
                f"{named} can be {len(found)} machines", hint="choose one: " + " ".join(each.id for each in found)
            )
        flags = [*(["-A"] if options.forward_agent else []), *([] if command else ["-t"])]
        return reach.run(found[0], " ".join(command), options=[*_port(options), *flags])


def _places(client: Client, machines: Sequence[Machine], argument: Argument, wanted: str | None) -> list[Machine]:
    """The machines that a unit is on, of which ``wanted`` chooses; raises :class:`Failure` when there is none."""
    name = str(argument.name)
    record = client.unit(name)
    if record is None:
        raise no_such_unit(client, [name])
    ids = [record.machine] if record.machine else [each.machine for each in client.states(name)]
    found = [each for each in machines if each.id in ids]
    if wanted is not None:
        found = _matching(found, wanted)
        if not found:
            raise Failure(f"unit {name} is not on machine {wanted}", hint="see: fleetctl list-units --full")
    if found:
        return found
    if ids:
        raise Failure(f"the machine of unit {name} is gone: {ids[0]}", hint="see: fleetctl list-machines")
    reason = f": {record.reason}" if record.reason else ""
    raise Failure(f"unit {name} is on no machine{reason}", hint=f"ask: fleetctl why {name}")


def _matching(machines: Sequence[Machine], text: str) -> list[Machine]:
    """Machines whose id begins with ``text``, or whose address it is.

    Dots behind a short id are as the lists print it."""
    begin = text.partition("/")[0].removesuffix("...")
    return [each for each in machines if (begin and each.id.startswith(begin)) or each.ip == text]


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ssh-port", type=_port_number, default=22, metavar="PORT", help=_PORT_HELP)


def _port(options: argparse.Namespace) -> list[str]:
    return [] if options.ssh_port == 22 else ["-p", str(options.ssh_port)]


def _port_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _lines(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return text
