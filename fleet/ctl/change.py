"""The commands that change units: submit, load, start, stop, unload, restart and destroy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fleet.ctl.client import Client, UnitRecord
from fleet.ctl.listing import no_such_unit
from fleet.ctl.reach import Settings, open_reach
from fleet.ctl.units import Argument, Text, parse_arguments, read_file
from fleet.ctl.waiting import Look, Outcome, Running, Verdict, judge_state, location, wait
from terminal import Failure, did_you_mean, printable, printable_lines
from unitfile.text import UnitFile

_REPLACEABLE = {
    "inactive": ("inactive",),
    "loaded": ("inactive", "loaded"),
    "launched": ("inactive", "loaded", "launched"),
}
"""From the requested state to the desired states in which ``--replace`` is accepted."""

_VERBS = {"inactive": "submit", "loaded": "load", "launched": "start"}


def add_unit_arguments(parser: argparse.ArgumentParser) -> None:
    """Units of a command that needs no text for them."""
    parser.add_argument("units", nargs="*", metavar="UNIT", help="name of a unit")


def add_create_options(parser: argparse.ArgumentParser) -> None:
    """Units that are made when the cluster does not know them."""
    parser.add_argument("units", nargs="*", metavar="UNIT|FILE", help="name of a unit, or a unit file")
    parser.add_argument("--replace", action="store_true", help="give a unit that exists the text of the file")
    parser.add_argument("--sign", action="store_true", help=argparse.SUPPRESS)  # dead in the original, too


def add_wait_options(parser: argparse.ArgumentParser) -> None:
    """How long to wait for the cluster to do it."""
    parser.add_argument("--no-block", action="store_true", help="do not wait until it is done")
    add_attempts_option(parser)


def add_attempts_option(parser: argparse.ArgumentParser) -> None:
    """How long to wait for the cluster to do it, for a command that always waits."""
    parser.add_argument(
        "--block-attempts",
        type=_count,
        default=0,
        metavar="N",
        help="give up after N attempts of 2 seconds (default 0: never)",
    )


def submit(settings: Settings, options: argparse.Namespace) -> int:
    """Store units in the cluster, without running them."""
    arguments = parse_arguments(options.units)
    with open_reach(settings) as reach:
        for argument, text in _plan(reach.client, arguments, "inactive", replace=options.replace):
            if text is not None:
                reach.client.put(str(argument.name), text, "inactive")
            print(f"Unit {argument.name} inactive")
    return 0


def load(settings: Settings, options: argparse.Namespace) -> int:
    """Put units on machines, without starting them."""
    return _bring(settings, options, "loaded")


def start(settings: Settings, options: argparse.Namespace) -> int:
    """Put units on machines, start them, and wait until systemd reports that they run."""
    return _bring(settings, options, "launched")


def stop(settings: Settings, options: argparse.Namespace) -> int:
    """Stop units; they stay on their machines."""
    with _existing(settings, options) as (client, found):
        idle = [each.name for each in found if each.desired == "inactive"]
        if idle:
            raise Failure(
                f"not running, so it cannot be stopped: {' '.join(idle)}", hint="see: fleetctl list-unit-files"
            )
        _take_down(client, found, "loaded", options)
    return 0


def unload(settings: Settings, options: argparse.Namespace) -> int:
    """Stop units and remove them from their machines."""
    with _existing(settings, options) as (client, found):
        _take_down(client, found, "inactive", options)
    return 0


def restart(settings: Settings, options: argparse.Namespace) -> int:
    """Stop units and start them again, on the machines where they are."""
    with _existing(settings, options) as (client, found):
        for record in found:
            if record.desired == "inactive":
                raise Failure(f"unit {record.name} is on no machine", hint=f"start it: fleetctl start {record.name}")
            _ask(client, record, "loaded")
            if record.is_global:
                _wait({record.name: _look_stopped_everywhere(client, record.name)}, options)
            else:
                _wait({record.name: _look_state(client, record.name, "loaded")}, options)
            client.set_desired(record.name, "launched")
            if record.is_global:
                print(f"Triggered global unit {record.name} restart")
            else:
                _wait({record.name: _look_start(client, record.name)}, options)
    return 0


def destroy(settings: Settings, options: argparse.Namespace) -> int:
    """Make the cluster forget units; they are stopped and taken off their machines."""
    names = [str(each.name) for each in parse_arguments(options.units)]
    with open_reach(settings) as reach:
        missing = [name for name in names if not reach.client.delete(name)]
        gone = [name for name in names if name not in missing]
        if options.no_block:
            for name in gone:
                print(f"Destroyed {name}")
        else:
            looks = {name: _look_gone(reach.client, name) for name in gone}
            wait(looks, attempts=options.block_attempts, tell=_tell, done=lambda name, _: print(f"Destroyed {name}"))
        if missing:
            raise no_such_unit(reach.client, missing)
    return 0


def _bring(settings: Settings, options: argparse.Namespace, wanted: str) -> int:
    """The common part of ``load`` and ``start``."""
    arguments = parse_arguments(options.units)
    for argument in arguments:
        if argument.name.is_template:
            raise Failure(
                f"{argument.name} is a template, which cannot be {wanted}",
                hint=f"{_VERBS[wanted]} an instance of it: {argument.name.prefix}@1.{argument.name.suffix}",
            )
    with open_reach(settings) as reach:
        client = reach.client
        plan = _plan(client, arguments, wanted, replace=options.replace)
        for argument, text in plan:
            if text is not None:
                client.put(str(argument.name), text, wanted)
            else:
                client.set_desired(str(argument.name), wanted)
        looks: dict[str, Look] = {}
        for argument, _ in plan:
            name = str(argument.name)
            record = client.unit(name)
            if record is not None and record.is_global:
                print(f"Triggered global unit {name} {_VERBS[wanted]}")
            elif options.no_block:
                print(f"Triggered unit {name} {_VERBS[wanted]}")
                if record is not None and not record.machine and record.reason:
                    _tell(f"warning: unit {name} is on no machine: {record.reason}")
            else:
                looks[name] = _look_start(client, name) if wanted == "launched" else _look_state(client, name, wanted)
        _wait(looks, options)
    return 0


def _plan(
    client: Client, arguments: Sequence[Argument], wanted: str, *, replace: bool
) -> list[tuple[Argument, UnitFile | None]]:
    """For each unit the text to store, or ``None`` when the cluster has it. Nothing is changed, so a mistake in the
    last argument leaves the first one alone."""
    return [(argument, _text_to_store(client, argument, wanted, replace=replace)) for argument in arguments]


def _text_to_store(client: Client, argument: Argument, wanted: str, *, replace: bool) -> UnitFile | None:
    """In the original's order: the cluster's unit, the file, the cluster's template, the template beside the path."""
    name = str(argument.name)
    record = client.unit(name)
    if record is None:
        return _judged(argument, _new_text(client, argument))
    # The file's text only matters when there is one; a name alone means the unit that the cluster knows.
    text = read_file(argument.path) if replace or not argument.path.is_dir() else None
    if replace and text is None and argument.template_path is not None:
        text = _template_text(client, argument)
    if text is None:
        if replace:
            raise Failure(
                "there is no file to replace the unit with", where=str(argument.path), hint="give the file's path"
            )
        return None
    if text.unit.hash() == record.unitfile.hash():
        if replace:
            _tell(f"unit {name} has this text already")
        return None
    if not replace:
        _tell(f"warning: unit {name} in the cluster differs from {argument.path}; use --replace to store the file")
        return None
    if record.desired not in _REPLACEABLE[wanted]:
        raise Failure(
            f"unit {name} is {record.desired}, so {_VERBS[wanted]} does not replace it",
            hint=f"use: fleetctl {_VERBS[record.desired]} --replace {name}, or unload it first",
        )
    return _judged(argument, text)


def _judged(argument: Argument, text: Text) -> UnitFile:
    """The unit in ``text``, after reporting what is wrong with it.

    Raises :class:`Failure` if systemd would refuse it."""
    findings = text.findings(argument.name)
    for finding in findings:
        _tell(finding.render(str(text.path)))
    if any(finding.severity == "error" for finding in findings):
        raise Failure(
            f"systemd would refuse the unit {argument.name}", where=str(text.path), hint="mend the errors named above"
        )
    return text.unit


def _new_text(client: Client, argument: Argument) -> Text:
    text = read_file(argument.path) or _template_text(client, argument)
    if text is not None:
        return text
    template = argument.name.template
    instead = f", and there is no template {template}" if template else ""
    otherwise = "give the path of a unit file, or a name that fleetctl list-unit-files shows"
    raise Failure(
        f"no such unit: {argument.name} is not in the cluster, and there is no file {argument.path}{instead}",
        hint=did_you_mean(str(argument.name), [each.name for each in client.units()], otherwise),
    )


def _template_text(client: Client, argument: Argument) -> Text | None:
    """The text of the template of an instance, from the cluster or else from beside the path."""
    template, path = argument.name.template, argument.template_path
    if template is None or path is None:
        return None
    record = client.unit(template)
    return Text(record.unitfile) if record is not None else read_file(path)


@contextmanager
def _existing(settings: Settings, options: argparse.Namespace) -> Iterator[tuple[Client, list[UnitRecord]]]:
    """The units of a command that are in the cluster.

    Those that are not fail it, after its work on the others is done."""
    names = [str(each.name) for each in parse_arguments(options.units)]
    with open_reach(settings) as reach:
        records = {name: reach.client.unit(name) for name in names}
        yield reach.client, [record for record in records.values() if record is not None]
        if missing := [name for name, record in records.items() if record is None]:
            raise no_such_unit(reach.client, missing)


def _ask(client: Client, record: UnitRecord, wanted: str) -> None:
    if record.desired != wanted:
        client.set_desired(record.name, wanted)


def _take_down(client: Client, records: Sequence[UnitRecord], wanted: str, options: argparse.Namespace) -> None:
    """The common part of ``stop`` and ``unload``."""
    verb = "stop" if wanted == "loaded" else "unload"
    looks: dict[str, Look] = {}
    for record in records:
        _ask(client, record, wanted)
        if record.is_global:
            print(f"Triggered global unit {record.name} {verb}")
        elif options.no_block:
            print(f"Triggered unit {record.name} {verb}")
        else:
            looks[record.name] = _look_state(client, record.name, wanted)
    _wait(looks, options)


def _wait(looks: dict[str, Look], options: argparse.Namespace) -> None:
    """Wait for units; each prints its result on stdout."""
    wait(
        looks,
        attempts=options.block_attempts,
        tell=_tell,
        done=lambda _, text: print(printable(text), flush=True) if text else None,
    )


def _look_state(client: Client, name: str, wanted: str) -> Look:
    """Checks whether a unit has reached a state, and ends with ``Unit x loaded on ...``."""

    def look(seconds: float) -> Verdict:
        record = client.unit(name)
        verdict = judge_state(name, record, client.states(name), wanted, seconds)
        if verdict.outcome is not Outcome.DONE:
            return verdict
        place = "" if wanted == "inactive" else location(record, client.machines())
        return Verdict(Outcome.DONE, f"Unit {name} {wanted}{place}")

    return look


def _look_start(client: Client, name: str) -> Look:
    """Checks whether a unit is launched, prints where, and then checks whether systemd runs it."""
    running = Running(name)
    launched = _look_state(client, name, "launched")
    since: list[float] = []

    def look(seconds: float) -> Verdict:
        if not since:
            verdict = launched(seconds)
            if verdict.outcome is not Outcome.DONE:
                return verdict
            print(printable_lines(verdict.text), flush=True)
            since.append(seconds)
        return running.judge(client.unit(name), client.states(name), seconds - since[0])

    return look


def _look_stopped_everywhere(client: Client, name: str) -> Look:
    """Looks whether no machine runs a global unit any more."""

    def look(_seconds: float) -> Verdict:
        busy = [each for each in client.states(name) if each.active not in ("inactive", "failed", "")]
        if not busy:
            return Verdict(Outcome.DONE)
        return Verdict(Outcome.PENDING, f"waiting for unit {name} to stop on {len(busy)} machines")

    return look


def _look_gone(client: Client, name: str) -> Look:
    """Looks whether a destroyed unit is off the machines that are alive."""

    def look(_seconds: float) -> Verdict:
        alive = {each.id for each in client.machines()}
        left = [each.machine for each in client.states(name) if each.machine in alive]
        if not left or client.unit(name) is not None:  # another client made it again: what runs now is theirs
            return Verdict(Outcome.DONE)
        return Verdict(Outcome.PENDING, f"waiting for machine {left[0]} to let go of unit {name}")

    return look


def _tell(text: str) -> None:
    print(printable_lines(text), file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of attempts")
    return int(text)
