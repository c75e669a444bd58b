"""The command line of ``fleetctl``: global options, the commands, and what connects the two.

Global options may precede or follow the command, and each has an environment variable: ``--ssh-username`` is
``FLEETCTL_SSH_USERNAME``. A context is such options under a name (:mod:`fleet.ctl.contexts`). A command may be shortened as long as it is unambiguous.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fleet.ctl import change, context, contexts, events, forward, listing, remote
from fleet.ctl.endpoint import Credentials, parse_endpoints
from fleet.ctl.reach import Settings
from fleet.ctl.transport import Ssh, parse_tunnel
from terminal import Parser, UsageFailure, command, did_you_mean
from terminal.version import VERSION

PROG = "fleetctl"
DEFAULT_ENDPOINT = "unix:///run/fleet.sock"
DEFAULT_KNOWN_HOSTS = "~/.fleetctl/known_hosts"

_GLOBAL_EXAMPLES = """\
examples:
  fleetctl list-machines
  fleetctl --tunnel 10.77.0.11 start hello.service
  FLEETCTL_TUNNEL=127.0.0.1:2201,127.0.0.1:2202 fleetctl list-units
  fleetctl --context lab why hello.service

Each global option can be set in the environment: --tunnel is FLEETCTL_TUNNEL.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, one line about it, its arguments, what runs it, and examples."""

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Settings, argparse.Namespace], int]
    examples: tuple[str, ...]


def _all(*adders: Callable[[argparse.ArgumentParser], None]) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        for each in adders:
            each(parser)

    return add


def _list_options(fields: Sequence[str], default: str) -> Callable[[argparse.ArgumentParser], None]:
    return lambda parser: listing.add_list_options(parser, fields, default)


def _one_unit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", metavar="UNIT", help="name of a unit")


def _why_options(parser: argparse.ArgumentParser) -> None:
    _one_unit(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object")


def _restart_options(parser: argparse.ArgumentParser) -> None:
    change.add_unit_arguments(parser)
    change.add_attempts_option(parser)


COMMANDS = (
    Command(
        "list-machines",
        "the machines that are alive",
        _list_options(tuple(listing.MACHINE_FIELDS), ",".join(listing.MACHINE_FIELDS)),
        listing.list_machines,
        ("fleetctl list-machines", "fleetctl list-machines --full --no-legend --fields machine"),
    ),
    Command(
        "list-units",
        "what machines say about their units",
        _list_options(tuple(listing.UNIT_FIELDS), listing.UNIT_FIELDS_DEFAULT),
        listing.list_units,
        ("fleetctl list-units", "fleetctl list-units --json"),
    ),
    Command(
        "list-unit-files",
        "the units that the cluster knows, running or not",
        _list_options(tuple(listing.FILE_FIELDS), listing.FILE_FIELDS_DEFAULT),
        listing.list_unit_files,
        ("fleetctl list-unit-files", "fleetctl list-unit-files --fields unit,desc"),
    ),
    Command(
        "submit",
        "store units in the cluster, without running them",
        change.add_create_options,
        change.submit,
        ("fleetctl submit hello.service", "fleetctl submit --replace units/redis@.service"),
    ),
    Command(
        "load",
        "put units on machines, without starting them",
        _all(change.add_create_options, change.add_wait_options),
        change.load,
        ("fleetctl load hello.service",),
    ),
    Command(
        "start",
        "start units, submitting them if needed",
        _all(change.add_create_options, change.add_wait_options),
        change.start,
        (
            "fleetctl start hello.service",
            "fleetctl start --block-attempts 15 'web@1.service' 'web@2.service'",
            "ln -s redis.service polop@redis.service && fleetctl start polop@redis.service",
        ),
    ),
    Command(
        "stop",
        "stop units; they stay on their machines",
        _all(change.add_unit_arguments, change.add_wait_options),
        change.stop,
        ("fleetctl stop hello.service",),
    ),
    Command(
        "unload",
        "stop units and take them off their machines",
        _all(change.add_unit_arguments, change.add_wait_options),
        change.unload,
        ("fleetctl unload hello.service",),
    ),
    Command(
        "restart",
        "stop units and start them again",
        _restart_options,
        change.restart,
        ("fleetctl restart hello.service",),
    ),
    Command(
        "destroy",
        "make the cluster forget units",
        _all(change.add_unit_arguments, change.add_wait_options),
        change.destroy,
        ("fleetctl destroy hello.service",),
    ),
    Command("cat", "the text of a unit", _one_unit, listing.cat, ("fleetctl cat hello.service",)),
    Command(
        "status",
        "what systemctl says about units on their machines",
        remote.add_status_options,
        remote.status,
        ("fleetctl status hello.service",),
    ),
    Command(
        "journal",
        "what a unit wrote",
        remote.add_journal_options,
        remote.journal,
        ("fleetctl journal -n 100 hello.service", "fleetctl journal -f hello.service"),
    ),
    Command(
        "ssh",
        "a shell or a command on a machine",
        remote.add_ssh_options,
        remote.ssh,
        ("fleetctl ssh hello.service", "fleetctl ssh 3f7a uptime", "fleetctl ssh --unit hello.service docker ps"),
    ),
    Command(
        "fd-forward",
        "standard input and output to a unix socket: the original client's tunnel",
        forward.add_forward_options,
        forward.fd_forward,
        ("fleetctl fd-forward /run/fleet.sock",),
    ),
    Command(
        "why",
        "why a unit is where it is, or nowhere",
        _why_options,
        listing.why,
        ("fleetctl why hello.service",),
    ),
    Command(
        "events",
        "what happened in the cluster: who changed what, what was placed and moved, and why",
        events.add_events_options,
        events.events,
        (
            "fleetctl events --since 1h",
            "fleetctl events -f --unit hello.service",
            "fleetctl events --json | jq -r 'select(.kind == \"failed\") | .unit'",
        ),
    ),
)

_BY_NAME = {each.name: each for each in COMMANDS}
_WORDS = (*_BY_NAME, context.NAME, "help", "version")
_GLOBALS = {
    "context": ("", "NAME", "options that were kept under this name: see 'fleetctl help context'"),
    "endpoint": (
        DEFAULT_ENDPOINT,
        "URL,...",
        "where the API listens: unix:///PATH, https://HOST:2378, http://HOST:PORT",
    ),
    "ca-file": ("", "FILE", "https: the authority of the API's certificate (fleet-ca.crt)"),
    "cert-file": ("", "FILE", "https: our certificate (fleet-client.crt)"),
    "key-file": ("", "FILE", "https: its private key (fleet-client.key)"),
    "tunnel": ("", "HOST[:PORT],...", "reach the API through ssh to the first of these nodes that can be reached"),
    "ssh-username": ("core", "NAME", "user on the nodes"),
    "ssh-identity-file": ("", "FILE", "private key to log in with"),
    "ssh-timeout": ("30", "SECONDS", "for one ssh connection to stand"),
    "strict-host-key-checking": ("true", "BOOL", "record the key of an unknown node, refuse one that has changed"),
    "known-hosts-file": (DEFAULT_KNOWN_HOSTS, "FILE", "where keys of nodes are recorded"),
    "request-timeout": ("30", "SECONDS", "for one request to the API"),
}
"""Default, metavar and help of the global options."""


def main() -> int:
    """Entry point of the console script."""
    return command(PROG, run, remote=("ssh",))


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    parser = _parser()
    options = parser.parse_args(_bare_booleans(arguments))
    if options.command is None:
        parser.print_help()
        return 0
    name = _resolve(options.command)
    if name == "version":
        print(f"{PROG} {VERSION}")
        return 0
    if name == "help":
        return _help(parser, options.rest)
    options = _command_parser(name).parse_args(options.rest, namespace=options)
    given = {each: value for each in _GLOBALS if (value := getattr(options, each.replace("-", "_"), None)) is not None}
    if name == context.NAME:
        return context.run(options, given)
    return _BY_NAME[name].run(_settings(given), options)


def _parser() -> argparse.ArgumentParser:
    width = max(len(each) for each in _WORDS)
    summaries = {each.name: each.summary for each in COMMANDS}
    summaries |= {context.NAME: context.SUMMARY, "help": "help for a command", "version": "the version of this program"}
    commands = "\n".join(f"  {name.ljust(width)}  {summaries[name]}" for name in _WORDS)
    parser = Parser(
        PROG,
        description="Run systemd units on a cluster of machines.\n\ncommands:\n" + commands,
        epilog=_GLOBAL_EXAMPLES,
        allow_abbrev=False,
    )
    _add_globals(parser)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one of the above, or the beginning of one")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """One parser with every command, for shell completion."""
    parser = Parser(PROG, description="Run systemd units on a cluster of machines.")
    _add_globals(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for each in COMMANDS:
        each.add(commands.add_parser(each.name, help=each.summary))
    context.add_arguments(commands.add_parser(context.NAME, help=context.SUMMARY))
    return parser


def _command_parser(name: str) -> argparse.ArgumentParser:
    known = _BY_NAME.get(name)
    summary, examples, add = (
        (known.summary, known.examples, known.add)
        if known is not None
        else (context.SUMMARY, context.EXAMPLES, context.add_arguments)
    )
    parser = Parser(
        f"{PROG} {name}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {each}" for each in examples),
        allow_abbrev=False,
    )
    add(parser)
    _add_globals(parser.add_argument_group("global options"))
    return parser


def _add_globals(parser: argparse._ActionsContainer) -> None:
    """The global options. One that is not given is not set, so that an earlier value remains."""
    for name, (default, metavar, text) in _GLOBALS.items():
        shown = f" (default {default})" if default else ""
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=metavar, help=text + shown)


def _bare_booleans(arguments: Sequence[str]) -> list[str]:
    """The original also accepts ``--strict-host-key-checking`` without a value."""
    bare = "--strict-host-key-checking"
    return [f"{bare}=true" if each == bare else each for each in arguments]


def _resolve(word: str) -> str:
    """The command that ``word`` is, or is the beginning of; raises :class:`UsageFailure`."""
    if word in _WORDS:
        return word
    found = [each for each in _WORDS if each.startswith(word)] if word else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageFailure(f"{word} can be {' or '.join(found)}", hint="write more of it")
    raise UsageFailure(f"there is no command {word}", hint=did_you_mean(word, _WORDS, "see them with: fleetctl help"))


def _help(parser: argparse.ArgumentParser, rest: Sequence[str]) -> int:
    name = _resolve(rest[0]) if rest else "help"
    (_command_parser(name) if name in (*_BY_NAME, context.NAME) else parser).print_help()
    return 0


def _settings(given: Mapping[str, str]) -> Settings:
    """What the command line, a context, the environment and defaults come to. Raises :class:`Failure`."""
    defaults = {name: default for name, (default, _, _) in _GLOBALS.items() if name != context.NAME}
    options, _ = contexts.settled(given, os.environ, defaults)
    ssh = Ssh(
        user=_user(options["ssh-username"]),
        timeout_s=_seconds("ssh-timeout", options["ssh-timeout"]),
        known_hosts=Path(options["known-hosts-file"]).expanduser(),
        identity=Path(options["ssh-identity-file"]).expanduser() if options["ssh-identity-file"] else None,
        strict=_truth("strict-host-key-checking", options["strict-host-key-checking"]),
    )
    paths = (options[name] and str(Path(options[name]).expanduser()) for name in contexts.ISSUED)
    credentials = Credentials(*paths)
    return Settings(
        endpoints=parse_endpoints(options["endpoint"], credentials),
        tunnel=tuple(parse_tunnel(options["tunnel"])),
        ssh=ssh,
        request_timeout_s=_seconds("request-timeout", options["request-timeout"]),
        credentials=credentials,
    )


def _user(text: str) -> str:
    if not text or text.startswith("-") or any(each.isspace() for each in text):
        raise UsageFailure(f"{text!r} is no user name", where="--ssh-username")
    return text


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UsageFailure(f"{text!r} is no number of seconds", where=f"--{name}")
    return value


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise UsageFailure(f"{text!r} is neither true nor false", where=f"--{name}")
    return text.lower() in ("true", "1", "yes")
