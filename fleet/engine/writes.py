"""Plans as transactions of etcd, and as lines for the journal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from etcd.protocol import Op
from fleet.model import codec
from fleet.model.events import Event
from fleet.model.registry import Registry
from fleet.scheduler.reasons import Why
from fleet.scheduler.schedule import Decision, Plan

OPS_MAX = 100  # etcd refuses more than 128 in one transaction
BYTES_MAX = 1_200_000  # and requests of more than 1.5 MiB, which JSON and base64 do not count towards


def described(decision: Decision) -> str:
    """A decision as a line for the journal."""
    if decision.placement is None:
        because = (
            decision.why.value
            if decision.rejection is None
            else f"{decision.rejection.kind.value} {decision.rejection.detail}"
        )
        return f"{decision.unit} leaves {decision.machine}: {because}"
    if decision.why is Why.CHANGED:
        return f"{decision.unit} changes on {decision.machine}: {decision.placement.desired.value}"
    return f"{decision.unit} goes to {decision.machine}: {decision.why.value}"


@dataclass(slots=True)
class Write:
    """One transaction: ``ops`` on fleet's keys, ``log`` on those of the log of events. ``seen`` is the revision that it
    writes there (0: none), ``has_notes`` whether it has what the chronicle took."""

    ops: list[Op]
    log: list[Op] = field(default_factory=list)
    seen: int = 0
    has_notes: bool = False


def batches(
    registry: Registry, plan: Plan, events: Mapping[str, Sequence[Event]]
) -> Iterator[tuple[list[Op], list[Event]]]:
    """A plan as lists of operations, each small enough for a transaction, with the ``events`` of its units.

    All of one unit is together (a move is one transaction) unless it alone is too much: a global unit on hundreds of
    machines, whose events are with the last of it.
    """
    by_unit: dict[str, list[Op]] = {}
    for decision in plan.decisions:
        key = registry.key_schedule(decision.machine, decision.unit)
        op = Op.delete(key) if decision.placement is None else Op.put(key, codec.placement_bytes(decision.placement))
        by_unit.setdefault(decision.unit, []).append(op)
    for unit, text in plan.explanations:
        key = registry.key_status(unit)
        by_unit.setdefault(unit, []).append(Op.delete(key) if text is None else Op.put(key, codec.status_bytes(text)))
    batch: list[Op] = []
    said: list[Event] = []
    size = 0
    for unit in sorted(by_unit):
        ops = by_unit[unit]
        weight = sum(len(op.key) + len(op.value_bytes) for op in ops)
        if batch and (len(batch) + len(ops) > OPS_MAX or size + weight > BYTES_MAX):
            yield batch, said
            batch, said, size = [], [], 0
        for op in ops:
            weight = len(op.key) + len(op.value_bytes)
            if batch and (len(batch) >= OPS_MAX or size + weight > BYTES_MAX):
                yield batch, said
                batch, said, size = [], [], 0
            batch.append(op)
            size += weight
        said.extend(events.get(unit, ()))
    if batch:
        yield batch, said
