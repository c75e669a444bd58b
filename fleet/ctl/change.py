"""The commands that change units: submit, load, start, stop, unload, restart and destroy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from fleet.ctl.client import UnitRecord
from fleet.ctl.listing import no_such_unit
from fleet.ctl.reach import Settings, open_reach
from fleet.ctl.session import PATIENCE_S, Session, Trouble
from fleet.ctl.units import Argument, Text, parse_arguments, read_file
from fleet.ctl.waiting import ATTEMPT_S, Look, Outcome, Running, Verdict, judge_state, machine_cell, wait
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
    with _open(settings) as session:
        plan = _plan(session, arguments, "inactive", replace=options.replace)
        session.want({str(argument.name): text for argument, text in plan if text is not None}, "inactive")
        for argument, _ in plan:
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
    with _existing(settings, options) as (session, found):
        idle = [each.name for each in found if each.desired == "inactive"]
        if idle:
            raise Failure(
                f"not running, so it cannot be stopped: {' '.join(idle)}", hint="see: fleetctl list-unit-files"
            )
        _take_down(session, found, "loaded", options)
    return 0


def unload(settings: Settings, options: argparse.Namespace) -> int:
    """Stop units and remove them from their machines."""
    with _existing(settings, options) as (session, found):
        _take_down(session, found, "inactive", options)
    return 0


def restart(settings: Settings, options: argparse.Namespace) -> int:
    """Stop units and start them again, on the machines where they are."""
    with _existing(settings, options) as (session, found):
        done: list[str] = []
        with session.reporting([each.name for each in found], done):
            for record in found:
                if record.desired == "inactive":
                    raise Failure(
                        f"unit {record.name} is on no machine", hint=f"start it: fleetctl start {record.name}"
                    )
                _restart(session, record, options)
                done.append(record.name)
    return 0


def _restart(session: Session, record: UnitRecord, options: argparse.Namespace) -> None:
    name = record.name
    if record.desired != "loaded":
        session.want({name: None}, "loaded")
    stopped = _look_stopped_everywhere(session, name) if record.is_global else _look_state(session, name, "loaded")
    try:
        _wait(session, {name: stopped}, options)
    except Failure as failure:
        raise Failure(
            f"{failure}\n  unit {name} was stopped, and not started again",
            hint=f"start it: fleetctl start {name}",
        ) from None
    session.want({name: None}, "launched")
    if record.is_global:
        print(f"Triggered global unit {name} restart", flush=True)
    else:
        _wait(session, {name: _look_start(session, name)}, options)


def destroy(settings: Settings, options: argparse.Namespace) -> int:
    """Make the cluster forget units; they are stopped and taken off their machines."""
    with _existing(settings, options) as (session, found):
        names = [each.name for each in found]
        done: list[str] = []
        with session.reporting(names, done):
            for name in names:
                session.delete(name)
                done.append(name)
                if options.no_block:
                    print(f"Destroyed {name}", flush=True)
        if not options.no_block:
            looks = {name: _look_gone(session, name) for name in names}
            _wait(session, looks, options, done=lambda name, _: print(f"Destroyed {name}", flush=True))
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
    names = [str(each.name) for each in arguments]
    with _open(settings, options) as session:
        plan = _plan(session, arguments, wanted, replace=options.replace)
        session.want({str(argument.name): text for argument, text in plan}, wanted)
        session.read(names)
        looks: dict[str, Look] = {}
        for name in names:
            record = session.record(name)
            if record is not None and record.is_global:
                print(f"Triggered global unit {name} {_VERBS[wanted]}")
            elif options.no_block:
                print(f"Triggered unit {name} {_VERBS[wanted]}")
                if record is not None and not record.machine and record.reason:
                    _report(f"warning: unit {name} is on no machine: {record.reason}")
            else:
                looks[name] = _look_start(session, name) if wanted == "launched" else _look_state(session, name, wanted)
        _wait(session, looks, options)
    return 0


def _plan(
    session: Session, arguments: Sequence[Argument], wanted: str, *, replace: bool
) -> list[tuple[Argument, UnitFile | None]]:
    """For each unit the text to store, or ``None`` when the cluster has it. Nothing is changed, so a mistake in the
    last argument leaves the first one alone."""
    templates = {each.name.template for each in arguments if each.name.template is not None}
    session.read(list(dict.fromkeys([*(str(each.name) for each in arguments), *sorted(templates)])))
    return [(argument, _text_to_store(session, argument, wanted, replace=replace)) for argument in arguments]


def _text_to_store(session: Session, argument: Argument, wanted: str, *, replace: bool) -> UnitFile | None:
    """In the original's order: the cluster's unit, the file, the cluster's template, the template beside the path."""
    name = str(argument.name)
    record = session.record(name)
    if record is None:
        return _judged(argument, _new_text(session, argument))
    # The file's text only matters when there is one; a name alone means the unit that the cluster knows.
    text = read_file(argument.path) if replace or not argument.path.is_dir() else None
    if replace and text is None and argument.template_path is not None:
        text = _template_text(session, argument)
    if text is None:
        if replace:
            raise Failure(
                "there is no file to replace the unit with", where=str(argument.path), hint="give the file's path"
            )
        return None
    if text.unit.hash() == record.unitfile.hash():
        if replace:
            _report(f"unit {name} has this text already")
        return None
    if not replace:
        _report(f"warning: unit {name} in the cluster differs from {argument.path}; use --replace to store the file")
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
        _report(finding.render(str(text.path)))
    if any(finding.severity == "error" for finding in findings):
        raise Failure(
            f"systemd would refuse the unit {argument.name}", where=str(text.path), hint="correct the errors above"
        )
    return text.unit


def _new_text(session: Session, argument: Argument) -> Text:
    text = read_file(argument.path) or _template_text(session, argument)
    if text is not None:
        return text
    template = argument.name.template
    instead = f", and there is no template {template}" if template else ""
    otherwise = "give the path of a unit file, or a name that fleetctl list-unit-files shows"
    raise Failure(
        f"no such unit: {argument.name} is not in the cluster, and there is no file {argument.path}{instead}",
        hint=did_you_mean(str(argument.name), [each.name for each in session.ask(session.client.units)], otherwise),
    )


def _template_text(session: Session, argument: Argument) -> Text | None:
    """The text of the template of an instance, from the cluster or else from beside the path."""
    template, path = argument.name.template, argument.template_path
    if template is None or path is None:
        return None
    record = session.record(template)
    return Text(record.unitfile) if record is not None else read_file(path)


@contextmanager
def _open(settings: Settings, options: argparse.Namespace | None = None) -> Iterator[Session]:
    """The cluster, for a command with the ``options`` of how long to wait."""
    patience_s: float | None = PATIENCE_S
    if options is not None and not getattr(options, "no_block", False):
        patience_s = options.block_attempts * ATTEMPT_S or None
    with open_reach(settings) as reach:
        yield Session(reach, _report, patience_s)


@contextmanager
def _existing(settings: Settings, options: argparse.Namespace) -> Iterator[tuple[Session, list[UnitRecord]]]:
    """The units of a command that are in the cluster.

    Those that are not fail it, after its work on the others is done."""
    names = [str(each.name) for each in parse_arguments(options.units)]
    with _open(settings, options) as session:
        session.read(names)
        records = {name: session.record(name) for name in names}
        yield session, [record for record in records.values() if record is not None]
        if missing := [name for name, record in records.items() if record is None]:
            raise no_such_unit(session.client, missing)


def _take_down(session: Session, records: Sequence[UnitRecord], wanted: str, options: argparse.Namespace) -> None:
    """The common part of ``stop`` and ``unload``."""
    verb = "stop" if wanted == "loaded" else "unload"
    session.want({each.name: None for each in records if each.desired != wanted}, wanted)
    looks: dict[str, Look] = {}
    for record in records:
        if record.is_global:
            print(f"Triggered global unit {record.name} {verb}")
        elif options.no_block:
            print(f"Triggered unit {record.name} {verb}")
        else:
            looks[record.name] = _look_state(session, record.name, wanted)
    _wait(session, looks, options)


def _wait(
    session: Session,
    looks: dict[str, Look],
    options: argparse.Namespace,
    done: Callable[[str, str], None] | None = None,
) -> None:
    """Wait for units; each prints its result on stdout."""
    waited = set(looks)

    def refresh(names: Collection[str]) -> str:
        waited.intersection_update(names)
        try:
            session.refresh(names)
        except Trouble as trouble:
            return trouble.message
        return ""

    def show(_: str, text: str) -> None:
        if text:
            print(printable(text), flush=True)

    try:
        wait(looks, refresh=refresh, attempts=options.block_attempts, report=_report, done=done or show)
    except KeyboardInterrupt:
        _report(f"no longer waiting for {' '.join(sorted(waited))}; the cluster goes on with them")
        raise


def _look_state(session: Session, name: str, wanted: str) -> Look:
    """Checks whether a unit has reached a state, and ends with ``Unit x loaded on ...``."""

    def look(seconds: float) -> Verdict:
        record = session.record(name)
        verdict = judge_state(name, record, session.states(name), wanted, seconds)
        if verdict.outcome is not Outcome.DONE:
            return verdict
        place = ""
        if record is not None and record.machine and wanted != "inactive":
            place = f" on {machine_cell(session.machine(record.machine))}"
        return Verdict(Outcome.DONE, f"Unit {name} {wanted}{place}")

    return look


def _look_start(session: Session, name: str) -> Look:
    """Checks whether a unit is launched, prints where, and then checks whether systemd runs it."""
    running = Running(name)
    launched = _look_state(session, name, "launched")
    since: list[float] = []

    def look(seconds: float) -> Verdict:
        if not since:
            verdict = launched(seconds)
            if verdict.outcome is not Outcome.DONE:
                return verdict
            print(printable_lines(verdict.text), flush=True)
            since.append(seconds)
        return running.judge(session.record(name), session.states(name), seconds - since[0])

    return look


def _look_stopped_everywhere(session: Session, name: str) -> Look:
    """Looks whether no machine runs a global unit any more."""

    def look(_seconds: float) -> Verdict:
        busy = [each for each in session.states(name) if each.active not in ("inactive", "failed", "")]
        if not busy:
            return Verdict(Outcome.DONE)
        return Verdict(Outcome.PENDING, f"waiting for unit {name} to stop on {len(busy)} machines")

    return look


def _look_gone(session: Session, name: str) -> Look:
    """Looks whether a destroyed unit is off the machines that are alive."""

    def look(_seconds: float) -> Verdict:
        left = session.states(name)
        if not left or session.record(name) is not None:  # another client made it again: what runs now is theirs
            return Verdict(Outcome.DONE)
        return Verdict(Outcome.PENDING, f"waiting for machine {left[0].machine} to let go of unit {name}")

    return look


def _report(text: str) -> None:
    print(printable_lines(text), file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of attempts")
    return int(text)
