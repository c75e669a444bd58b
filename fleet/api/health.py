"""``/healthz``, ``/readyz`` and ``/metrics``: they answer at once, whatever the state of etcd."""

from __future__ import annotations

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from etcd.errors import EtcdError
from fleet.api.seen import is_global
from fleet.model.entities import Desired
from fleet.model.live import Live
from fleet.model.overview import Overview
from fleet.model.registry import Registry
from terminal.version import VERSION
from webserver.message import Response

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = resource.getpagesize()
Found = dict[str, Mapping[tuple[str, ...], float]]


def healthz(registry: Registry) -> Response:
    """200 if all loops of this fleetd turn, 503 if one hangs, which systemd will end."""
    checks = [
        _check(f"loop of {name}", "it stands still; systemd restarts fleetd, which stops no unit" if each.hangs else "")
        for name, each in sorted(registry.vitals.loops().items())
    ]
    return _answer(registry, checks)


def readyz(registry: Registry, live: Live) -> Response:
    """200 if this fleetd reaches etcd, its machine is registered, and its engine has the view that its role needs."""
    vitals = registry.vitals
    try:
        registry.revision()
        etcd = _check("etcd", "")
    except EtcdError as error:
        hint = error.hint or "see: systemctl status etcd, journalctl -u etcd on the nodes"
        etcd = _check("etcd", error.on_one_line, hint)
    view = ""
    if vitals.role in ("leader", "standby") and not live.has_view:
        view = f"this engine is the {vitals.role}, and reads the cluster"
    machine = "the agent has not begun" if vitals.trouble is None else vitals.trouble
    checks = [etcd, _check("machine", machine.replace("\n", "; ")), _check("view", view)]
    return _answer(registry, checks)


def metrics(registry: Registry, live: Live) -> Response:
    """All metrics. Those of the cluster are there if this fleetd has a view of it: nothing is read for them."""
    with live.glance() as view:
        more: Found = {} if view is None else _of_cluster(view)
        more["fleet_view"] = {(): float(view is not None)}
    vitals = registry.vitals
    for name, role in (("fleet_engine_leading", "leader"), ("fleet_engine_standing_by", "standby")):
        more[name] = {(): float(vitals.role == role)}
    more["fleet_agent_registered"] = {(): float(vitals.trouble == "")}
    text = vitals.text({**more, **_of_process()})
    return Response(HTTPStatus.OK, text.encode(), "text/plain; version=0.0.4")


def _of_cluster(view: Overview) -> Found:
    desired = Counter(each.desired.value for each in view.units.values())
    active = Counter(each.active or "unknown" for each in view.states.values())
    waiting = [name for name in view.reasons if name in view.units and not is_global(view.units[name])]
    return {
        "fleet_units": {(each.value,): desired[each.value] for each in Desired},
        "fleet_unit_states": {("failed",): 0.0, **{(name,): count for name, count in active.items()}},
        "fleet_units_waiting": {(): len(waiting)},
        "fleet_machines": {(): len(view.machines)},
        "fleet_machines_away": {(): len({machine for machine, _ in view.placements} - view.alive.keys())},
    }


def _of_process(root: Path = Path("/proc")) -> Found:
    """Of this process, by proc(5); the names are those that all Prometheus clients use."""
    fields = (root / "self/stat").read_bytes().rpartition(b") ")[2].split()
    began_s = int(fields[19]) / _TICKS
    uptime_s = float((root / "uptime").read_text().split()[0])
    return {
        "process_cpu_seconds_total": {(): (int(fields[11]) + int(fields[12])) / _TICKS},
        "process_open_fds": {(): sum(1 for _ in (root / "self/fd").iterdir())},
        "process_resident_memory_bytes": {(): int(fields[21]) * _PAGE},
        "process_start_time_seconds": {(): round(time.time() - uptime_s + began_s)},
    }


def _check(name: str, trouble: str, hint: str = "") -> dict[str, object]:
    """One thing that was looked at, with what is wrong, if something is."""
    found: dict[str, object] = {"name": name, "ok": not trouble}
    if trouble:
        found["message"] = trouble
    if trouble and hint:
        found["hint"] = hint
    return found


def _answer(registry: Registry, checks: list[dict[str, object]]) -> Response:
    is_ok = all(each["ok"] for each in checks)
    body = {"ok": is_ok, "version": VERSION, "role": registry.vitals.role, "checks": checks}
    status = HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status, (json.dumps(body) + "\n").encode(), "application/json")
