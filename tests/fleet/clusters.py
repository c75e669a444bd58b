"""Clusters to plan for: hypothesis strategies, and a dumb validator that shares no code with the scheduler's rules."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

from hypothesis import strategies as st

from fleet.model.entities import Desired, Machine, Placement, Unit
from fleet.model.requirements import Requirements, RequirementsError
from fleet.scheduler.schedule import ClusterView, Plan
from unitfile.name import UnitName
from unitfile.text import UnitFile

MACHINES = ("a", "b", "c", "d", "e")
NAMES = ("app@1.service", "app@2.service", "app@3.service", "db.service", "log.service", "web.service", "x.service")


def unit(name: str, fleet: str = "", desired: Desired = Desired.LAUNCHED, run: str = "/bin/true") -> Unit:
    """A unit with this ``[X-Fleet]`` section."""
    return Unit.of(name, UnitFile.parse(f"[Service]\nExecStart={run}\n[X-Fleet]\n{fleet}"), desired)


def placement(unit: Unit, machine: str, reason: str = "test") -> Placement:
    """The order that the scheduler would write for a unit."""
    wanted = Requirements.parse(UnitName.parse(unit.name), unit.unitfile)
    text = unit.unitfile.serialize()
    return Placement(unit.name, machine, unit.desired, text, unit.unitfile.hash(), wanted.global_, reason)


machines = st.builds(
    Machine,
    id=st.sampled_from(MACHINES),
    metadata=st.dictionaries(st.sampled_from(["disk", "zone"]), st.sampled_from(["ssd", "hdd"]), max_size=2),
)

_globs = st.sampled_from(["app@*.service", "db.service", "*.service", "web.*", "log.service"])
_fleets = st.one_of(
    st.just(""),
    st.just("Global=true"),
    st.sampled_from(["MachineID=a", "MachineID=b", "MachineID=nowhere"]),
    st.sampled_from(
        [
            "MachineMetadata=disk=ssd",
            "MachineMetadata=disk=ssd\nMachineMetadata=zone=hdd",
            'MachineMetadata="disk=ssd" "disk=hdd"',
        ]
    ),
    st.builds("Conflicts={}".format, _globs),
    st.builds("MachineOf={}".format, st.sampled_from(NAMES)),
    st.builds("Replaces={}".format, _globs),
    st.builds("Global=true\nConflicts={}".format, _globs),
    st.builds("Conflicts={}\nMachineMetadata=zone=ssd".format, _globs),
)


# Any unit of a small world, also ones whose [X-Fleet] fleet would not have let in.
units = st.builds(
    unit,
    st.sampled_from(NAMES),
    _fleets,
    st.sampled_from([Desired.LAUNCHED, Desired.LAUNCHED, Desired.LOADED, Desired.INACTIVE]),
    st.sampled_from(["/bin/true", "/bin/false"]),
)

# Made once: making a strategy costs more than drawing from it.
_alive = st.lists(machines, max_size=5)
_known = st.lists(units, max_size=7)
_orders = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(MACHINES), st.booleans()), max_size=8)
_gone = st.sets(st.sampled_from(MACHINES), max_size=2)
_unreadable = st.one_of(st.just(()), st.tuples(st.sampled_from(NAMES)))
_present = st.frozensets(st.tuples(st.sampled_from(MACHINES), st.sampled_from(NAMES)), max_size=4)
_explanations = st.dictionaries(st.sampled_from(NAMES), st.just("old words"), max_size=2)


@st.composite
def clusters(draw: st.DrawFn) -> ClusterView:
    """A cluster with any placements, sensible or not."""
    alive = {each.id: each for each in draw(_alive)}
    known = {each.name: each for each in draw(_known)}
    orders = {}
    for name, machine, stale in draw(_orders):
        if name not in known or requirements(known[name]) is not None:
            made = placement(known.get(name, unit(name)), machine)
            orders[machine, name] = replace(made, hash="old", text="") if stale else made
    return ClusterView(
        machines=alive,
        evicted=frozenset(draw(_gone) - alive.keys()),
        units=known,
        unreadable=frozenset(draw(_unreadable)),
        placements=orders,
        present=draw(_present),
        explanations=draw(_explanations),
    )


def requirements(each: Unit) -> Requirements | None:
    """The unit's demands, ``None`` when they contradict themselves."""
    try:
        return Requirements.parse(UnitName.parse(each.name), each.unitfile)
    except RequirementsError:
        return None


def applied(cluster: ClusterView, plan: Plan) -> ClusterView:
    """The cluster once a plan is written and its orders are carried out by those machines that live."""
    orders = dict(cluster.placements)
    words = dict(cluster.explanations)
    for decision in plan.decisions:
        if decision.placement is None:
            del orders[decision.machine, decision.unit]
        else:
            orders[decision.machine, decision.unit] = decision.placement
    for name, text in plan.explanations:
        if text is None:
            del words[name]
        else:
            words[name] = text
    return replace(cluster, placements=orders, explanations=words)


def on(cluster: ClusterView, machine: str) -> list[str]:
    """Units placed on a machine."""
    return [name for where, name in cluster.placements if where == machine]


def refusal(cluster: ClusterView, each: Unit, machine: str) -> str:
    """Why this machine may not have this unit, from the words of the documentation and nothing else; "" when it may."""
    wanted = requirements(each)
    assert wanted is not None
    if wanted.machine_id and wanted.machine_id not in (machine, machine[:8]):
        return "machine"
    for key, values in wanted.metadata.items():
        if cluster.machines[machine].metadata.get(key) not in values:
            return "metadata"
    here = [name for name in on(cluster, machine) if name != each.name]
    if any(peer not in here for peer in wanted.machine_of):
        return "peer"
    for name in here:
        theirs = requirements(cluster.units[name]) if name in cluster.units else None
        if any(fnmatch.fnmatchcase(name, glob) for glob in wanted.conflicts):
            return "conflict"
        if theirs is not None and any(fnmatch.fnmatchcase(each.name, glob) for glob in theirs.conflicts):
            return "conflict"
    return ""


def untouchable(cluster: ClusterView, name: str) -> bool:
    """Whether nothing may be decided about a unit."""
    return name in cluster.unreadable or (name in cluster.units and requirements(cluster.units[name]) is None)
