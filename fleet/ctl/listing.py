"""The commands that only show: list-machines, list-units, list-unit-files, cat and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fleet.ctl.client import Client, UnitRecord
from fleet.ctl.reach import Settings, open_reach
from fleet.ctl.units import parse_arguments
from fleet.ctl.waiting import machine_cell
from fleet.model.entities import Machine, UnitState
from terminal import Failure, UsageFailure, did_you_mean, printable, printable_lines, table

SHORT_HASH = 7
"""Characters of a hash in a table without ``--full``."""

Row = TypeVar("Row")
Fields = Mapping[str, Callable[[Row, bool], str]]
"""The columns of a list: from a row and ``--full`` to the cell's text ("" for nothing)."""

MACHINE_FIELDS: Fields[Machine] = {
    "machine": lambda machine, full: machine_cell(Machine(machine.id), full=full),
    "ip": lambda machine, _: machine.ip,
    "metadata": lambda machine, _: ",".join(f"{key}={machine.metadata[key]}" for key in sorted(machine.metadata)),
}

UNIT_FIELDS: Fields[tuple[UnitState, Machine]] = {
    "unit": lambda row, _: row[0].name,
    "machine": lambda row, full: machine_cell(row[1], full=full),
    "load": lambda row, _: row[0].load,
    "active": lambda row, _: row[0].active,
    "sub": lambda row, _: row[0].sub,
    "hash": lambda row, full: row[0].hash if full else row[0].hash[:SHORT_HASH],
}
UNIT_FIELDS_DEFAULT = "unit,machine,active,sub"

FILE_FIELDS: Fields[tuple[UnitRecord, Machine | None]] = {
    "unit": lambda row, _: row[0].name,
    "global": lambda row, _: "true" if row[0].is_global else "false",
    "hash": lambda row, full: row[0].unitfile.hash() if full else row[0].unitfile.hash()[:SHORT_HASH],
    "dstate": lambda row, _: row[0].desired,
    "state": lambda row, _: "" if row[0].is_global else row[0].current,
    "target": lambda row, full: (
        "global" if row[0].is_global else machine_cell(row[1], full=full) if row[1] is not None else ""
    ),
    "desc": lambda row, _: "".join(row[0].unitfile.get("Unit", "Description")[-1:]),
}
FILE_FIELDS_DEFAULT = "unit,hash,dstate,state,target"


def add_list_options(parser: argparse.ArgumentParser, fields: Sequence[str], default: str) -> None:
    """The options that all lists share."""
    parser.add_argument("--full", "-l", action="store_true", help="do not shorten ids and hashes")
    parser.add_argument("--no-legend", action="store_true", help="leave out the header")
    parser.add_argument(
        "--fields", default=default, metavar="LIST", help=f"columns, of {','.join(fields)} (default: {default})"
    )
    parser.add_argument("--json", action="store_true", help="a JSON list with all fields instead of a table")


def list_machines(settings: Settings, options: argparse.Namespace) -> int:
    """The machines that are alive."""
    chosen = _chosen(options.fields, MACHINE_FIELDS)
    with open_reach(settings) as reach:
        machines = reach.client.machines()
    if options.json:
        return _print_json([{"machine": each.id, "ip": each.ip, "metadata": dict(each.metadata)} for each in machines])
    return _print_table(machines, MACHINE_FIELDS, chosen, options)


def list_units(settings: Settings, options: argparse.Namespace) -> int:
    """The machines' reports about their units: one row per unit and machine."""
    chosen = _chosen(options.fields, UNIT_FIELDS)
    with open_reach(settings) as reach:
        states = reach.client.states()
        machines = _by_id(reach.client)
    if options.json:
        return _print_json(
            [
                {
                    "unit": each.name,
                    "machine": each.machine,
                    "ip": machines.get(each.machine, Machine("")).ip,
                    "load": each.load,
                    "active": each.active,
                    "sub": each.sub,
                    "hash": each.hash,
                    "error": each.error,
                    "start": each.start,
                    "note": each.note,
                    "log": list(each.log),
                }
                for each in states
            ]
        )
    rows = [(each, machines.get(each.machine, Machine(each.machine))) for each in states]
    return _print_table(rows, UNIT_FIELDS, chosen, options)


def list_unit_files(settings: Settings, options: argparse.Namespace) -> int:
    """The units that the cluster knows, running or not."""
    chosen = _chosen(options.fields, FILE_FIELDS)
    with open_reach(settings) as reach:
        records = reach.client.units()
        machines = _by_id(reach.client)
    if options.json:
        return _print_json(
            [
                {
                    "unit": each.name,
                    "global": each.is_global,
                    "hash": each.unitfile.hash(),
                    "dstate": each.desired,
                    "state": each.current,
                    "target": each.machine,
                    "desc": "".join(each.unitfile.get("Unit", "Description")[-1:]),
                    "reason": each.reason,
                }
                for each in records
            ]
        )
    rows = [(each, machines.get(each.machine, Machine(each.machine)) if each.machine else None) for each in records]
    return _print_table(rows, FILE_FIELDS, chosen, options)


def cat(settings: Settings, options: argparse.Namespace) -> int:
    """The text of one unit, as the cluster keeps it."""
    name = str(parse_arguments([options.unit])[0].name)
    with open_reach(settings) as reach:
        record = reach.client.unit(name)
        if record is None:
            raise no_such_unit(reach.client, [name])
    text = record.unitfile.serialize()
    print(printable_lines(text) if sys.stdout.isatty() else text, end="")  # a file gets it as it is
    return 0


def why(settings: Settings, options: argparse.Namespace) -> int:
    """Why a unit is where it is, or nowhere."""
    name = str(parse_arguments([options.unit])[0].name)
    with open_reach(settings) as reach:
        found = reach.client.why(name)
        if found is None:
            raise no_such_unit(reach.client, [name])
        states = reach.client.states(name)
        machines = _by_id(reach.client)
    record = found.record
    if options.json:
        reported = [
            {
                "machine": each.machine,
                "active": each.active,
                "sub": each.sub,
                "error": each.error,
                "start": each.start,
                "note": each.note,
                "log": list(each.log),
            }
            for each in states
        ]
        fields = {"desired": record.desired, "current": record.current, "machine": record.machine}
        print(json.dumps({"unit": name, **fields, "reason": found.reason, "states": reported}))
        return 0
    if record.machine:
        place = "on " + machine_cell(machines.get(record.machine, Machine(record.machine)))
    else:
        place = "on each machine that suits it" if not record.current else "on no machine"
    current = f", current {record.current}" if record.current else ""
    print(printable(f"{name}: desired {record.desired}{current}, {place}"))
    print(f"  {printable(found.reason)}")
    for each in states:
        why = each.error or each.note
        trouble = f": {why}" if why else ""
        cell = machine_cell(machines.get(each.machine, Machine(each.machine)))
        print(printable(f"  {cell} says {each.active or 'nothing'} ({each.sub or '-'}){trouble}"))
        for line in each.log:
            print(printable(f"    {line}"))
        if each.error:
            print("    its machine goes on trying")
        elif each.active == "failed":
            print(f"    correct it, then: fleetctl restart {name}")
    return 0


def no_such_unit(client: Client, names: Sequence[str]) -> Failure:
    """The failure for names that the cluster does not know, with similar names."""
    what = "unit" if len(names) == 1 else "units"
    known = [each.name for each in client.units()]
    near = [hint for name in names if (hint := did_you_mean(name, known))]
    return Failure(
        f"no such {what} in the cluster: {' '.join(names)}",
        hint=" ".join(near) or "see the names with: fleetctl list-unit-files",
    )


def _by_id(client: Client) -> dict[str, Machine]:
    return {each.id: each for each in client.machines()}


def _chosen(text: str, fields: Mapping[str, object]) -> list[str]:
    chosen = [each.strip() for each in text.split(",") if each.strip()]
    unknown = [each for each in chosen if each not in fields]
    if unknown or not chosen:
        raise UsageFailure(
            f"no such field: {', '.join(unknown) or '(none given)'}",
            where="--fields",
            hint=f"choose of {','.join(fields)}",
        )
    return chosen


def _print_table(rows: Sequence[Row], fields: Fields[Row], chosen: Sequence[str], options: argparse.Namespace) -> int:
    cells = [[fields[name](row, options.full) or "-" for name in chosen] for row in rows]
    text = table(cells, None if options.no_legend else [name.upper() for name in chosen])
    if text:
        print(text)
    return 0


def _print_json(rows: Sequence[Mapping[str, object]]) -> int:
    print(json.dumps(list(rows), indent=2))
    return 0
