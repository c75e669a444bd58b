"""Faults at random, from a seed.

A plan is drawn first (pure), then carried out, and in the end all is healed, whatever happens.

    plan = draw(seed=7, nodes=[1, 2, 3], seconds=60)
    print(plan)                                   # what breaks, when, and until when
    with Storm(plan, on_cluster(cluster)) as storm:
        ...                                       # the test's own work
        storm.wait()

Each kind of fault is one entry of :data:`MENU`: it draws its arguments and names its damage (:class:`Damage`), by which
a plan keeps a majority of the nodes whole if requested. Kinds follow what Jepsen's nemeses and etcd's robustness tests
do.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypedDict, Unpack

from cluster.client.fault import Fault
from cluster.network import partition
from cluster.network.impairment import Pair, both_ways
from terminal import Failure, UsageFailure

if TYPE_CHECKING:
    from cluster.client.cluster import Cluster

TRIES = 20
"""For a fault that fits where it may stand; then the time stays quiet."""
BOOT_S = 10.0
"""From a node's power on until it works, with hardware; times the accelerator's factor."""
SLOW_IOPS = 20
"""Of a slow disk: an etcd that syncs some writes a second waits."""
HEAL_TRIES, HEAL_PAUSE_S = 3, 1.0


class Link(TypedDict, total=False):
    """How bad a link is: options of :meth:`cluster.client.net.Net.degrade`, seconds, shares, bits a second."""

    delay: float
    jitter: float
    loss: float
    duplicate: float
    reorder: float
    rate: float


LINKS: Final[Mapping[str, Link]] = {
    "far": {"delay": 0.075, "jitter": 0.05},
    "late": {"delay": 0.5},
    "lossy": {"loss": 0.1},
    "bad": {"loss": 0.5},
    "mixed": {"duplicate": 0.2, "reorder": 0.2, "delay": 0.02},
    "narrow": {"rate": 1e6},
}
"""Bad links by name."""
Argument: TypeAlias = int | float | str | tuple[int, ...]
"""Of a fault: a node, a shift of its clock in seconds, one of :data:`LINKS`, or a group of nodes."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What a fault takes away.

    That is nodes that do not run, and pairs (from, to) between which frames are lost, late or changed.
    """

    down: frozenset[int] = frozenset()
    pairs: frozenset[Pair] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a plan: from ``at`` to ``heal_at``, in seconds since the plan's begin.

    ``arguments`` are what its kind drew.
    """

    at: float
    heal_at: float
    kind: str
    arguments: tuple[Argument, ...]
    damage: Damage
    back_at: float
    """When what was healed works again: a node has to boot."""

    def __str__(self) -> str:
        shown = " ".join(_shown(argument) for argument in self.arguments)
        return f"{self.at:7.1f} s  to {self.heal_at:6.1f} s  {self.kind} {shown}".rstrip()


@dataclass(frozen=True, slots=True)
class Plan:
    """What will break, by time. The same arguments to :func:`draw` give the same plan."""

    seed: int
    nodes: tuple[int, ...]
    seconds: float
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        head = (
            f"chaos with seed {self.seed}: {len(self.steps)} faults on {len(self.nodes)} nodes in {self.seconds:.0f} s"
        )
        return "\n".join([head, *map(str, self.steps)])


Drawn: TypeAlias = tuple[tuple[Argument, ...], Damage]
Kind: TypeAlias = Callable[[random.Random, Sequence[int]], Drawn | None]
"""Draws arguments for these nodes; None if there are too few of them."""


def _one_down(dice: random.Random, nodes: Sequence[int]) -> Drawn:
    node = dice.choice(nodes)
    return (node,), Damage(down=frozenset({node}))


def _all_down(_: random.Random, nodes: Sequence[int]) -> Drawn:
    return (), Damage(down=frozenset(nodes))


def _isolate(dice: random.Random, nodes: Sequence[int]) -> Drawn | None:
    if len(nodes) < 2:
        return None
    node = dice.choice(nodes)
    return (node,), Damage(pairs=partition.isolated(nodes, node))


def _partition(dice: random.Random, nodes: Sequence[int]) -> Drawn | None:
    if len(nodes) < 2:
        return None
    mixed = dice.sample(nodes, len(nodes))
    at = dice.randrange(1, len(nodes))
    groups = (tuple(sorted(mixed[:at])), tuple(sorted(mixed[at:])))
    return groups, Damage(pairs=partition.groups(*groups))


def _bridge(dice: random.Random, nodes: Sequence[int]) -> Drawn | None:
    if len(nodes) < 3:
        return None
    node = dice.choice(nodes)
    return (node,), Damage(pairs=partition.bridge(nodes, node))


def _ring(_: random.Random, nodes: Sequence[int]) -> Drawn | None:
    return ((), Damage(pairs=partition.majority_ring(nodes))) if len(nodes) >= 4 else None


def _cut(dice: random.Random, nodes: Sequence[int]) -> Drawn | None:
    if len(nodes) < 2:
        return None
    source, target = dice.sample(nodes, 2)
    return (source, target), Damage(pairs=partition.one_way(source, target))


def _degrade(dice: random.Random, nodes: Sequence[int]) -> Drawn | None:
    if len(nodes) < 2:
        return None
    one, other = dice.sample(nodes, 2)
    return (one, other, dice.choice([*LINKS])), Damage(pairs=both_ways(one, other))


def _clock(dice: random.Random, nodes: Sequence[int]) -> Drawn:
    """Programs that wait by the wall clock feel it; nothing stops."""
    return (dice.choice(nodes), dice.choice([-120.0, -5.0, 5.0, 120.0])), Damage()


def _slow_disk(dice: random.Random, nodes: Sequence[int]) -> Drawn:
    """A member that waits for its disk does not count."""
    node = dice.choice(nodes)
    return (node,), Damage(down=frozenset({node}))


MENU: Final[Mapping[str, Kind]] = {
    "kill": _one_down,
    "pause": _one_down,
    "blackout": _all_down,
    "isolate": _isolate,
    "partition": _partition,
    "bridge": _bridge,
    "ring": _ring,
    "cut": _cut,
    "degrade": _degrade,
    "clock": _clock,
    "slow-disk": _slow_disk,
}
"""Kinds of faults by name."""
NEEDS_BOOT: Final = ("kill", "blackout")
"""What is healed by switching on, and works a boot later."""


def majorities(nodes: Sequence[int], damages: Iterable[Damage]) -> Iterator[tuple[int, ...]]:
    """Each smallest majority of ``nodes`` that works with all ``damages`` at once.

    Its nodes run and see each other both ways, over links that are not degraded.
    """
    listed = list(damages)
    down = {node for damage in listed for node in damage.down}
    bad = {pair for damage in listed for pair in damage.pairs}
    for group in itertools.combinations([node for node in nodes if node not in down], len(nodes) // 2 + 1):
        if not any(pair in bad for pair in itertools.permutations(group, 2)):
            yield group


def has_majority(nodes: Sequence[int], damages: Iterable[Damage]) -> bool:
    """Whether there is one of :func:`majorities`."""
    return any(True for _ in majorities(nodes, damages))


def draw(
    *,
    seed: int,
    nodes: Iterable[int],
    seconds: float,
    menu: Iterable[str] | None = None,
    keep_majority: bool = True,
    gap_s: float = 3.0,
    length_s: tuple[float, float] = (2.0, 10.0),
    boot_s: float = 0.0,
) -> Plan:
    """A plan of ``seconds`` for ``nodes``, of the kinds in ``menu`` (all).

    Faults come ``gap_s`` apart on average, each holds for a time within ``length_s``, and several may hold at once; one
    node is down for one reason at a time. With ``keep_majority`` more than half of the nodes run and see each other at
    any time; a node that was switched off counts as down for ``boot_s`` after it is switched on. All is healed by the
    end. Raises :class:`UsageFailure`.
    """
    numbers = tuple(sorted(nodes))
    kinds = tuple(MENU if menu is None else menu)
    if unknown := [kind for kind in kinds if kind not in MENU]:
        raise UsageFailure(f"there is no fault {unknown[0]!r}", hint=f"there are: {', '.join(MENU)}")
    if not numbers or not kinds or gap_s <= 0 or not 0 < length_s[0] <= length_s[1]:
        raise UsageFailure("a plan needs nodes, kinds of faults, and times above 0")
    dice = random.Random(seed)  # noqa: S311 - dice, not secrets
    steps: list[Step] = []
    now = dice.expovariate(1 / gap_s)
    while now + length_s[0] <= seconds:
        for _ in range(TRIES):
            kind = dice.choice(kinds)
            length = min(dice.uniform(*length_s), seconds - now)
            drawn = MENU[kind](dice, numbers)
            if drawn is None:
                continue
            arguments, damage = drawn
            heal_at = round(now + length, 1)
            back_at = heal_at + (boot_s if kind in NEEDS_BOOT else 0.0)
            step = Step(round(now, 1), heal_at, kind, arguments, damage, back_at)
            if _fits(step, steps, numbers, keep_majority):
                steps.append(step)
                break
        now += dice.expovariate(1 / gap_s)
    return Plan(seed, numbers, seconds, tuple(steps))


def _fits(step: Step, others: Sequence[Step], nodes: Sequence[int], keep_majority: bool) -> bool:
    """``others`` began before, so at no later time will more of them hold together with ``step`` than at its begin."""
    together = [other for other in others if other.back_at >= step.at]
    if any(other.damage.down & step.damage.down for other in together):
        return False
    if any((other.kind, other.arguments) == (step.kind, step.arguments) for other in together):
        return False
    if step.damage.pairs and any(step.damage.pairs <= other.damage.pairs for other in together):
        return False  # it would have no effect
    if any(_clocks(step) & _clocks(other) for other in together):
        return False  # one heals to a time that the other has made wrong
    if any(_clocks(step) & other.damage.down or _clocks(other) & step.damage.down for other in together):
        return False  # a machine that does not run has no clock, neither to step nor to heal
    return not keep_majority or has_majority(nodes, [step.damage, *(other.damage for other in together)])


def _clocks(step: Step) -> frozenset[int]:
    """The nodes whose clocks it changes."""
    return frozenset(each for each in step.arguments[:1] if isinstance(each, int) and step.kind == "clock")


def estranged(
    nodes: Sequence[int], felt: Mapping[Step, tuple[float, float | None]], after_s: float, end: float
) -> dict[int, list[tuple[float, float]]]:
    """When each node was in none of :func:`majorities`, and ``after_s`` seconds longer each time.

    ``felt`` is what happened (:attr:`Storm.felt`), until ``end``.
    """
    # A node that is switched on has to boot, wherever it was in the plan.
    held = [
        (begin, (end if over is None else over) + step.back_at - step.heal_at, step)
        for step, (begin, over) in felt.items()
    ]
    instants = sorted({time for begin, over, _ in held for time in (begin, over) if time < end})
    found: dict[int, list[tuple[float, float]]] = {node: [] for node in nodes}
    for begin, over in itertools.pairwise([*instants, end]):
        damages = [step.damage for start, stop, step in held if start <= begin < stop]
        whole = {node for group in majorities(nodes, damages) for node in group}
        for node in nodes:
            if node not in whole:
                found[node].append((begin, over + after_s))
    return found


class Storm:
    """A plan being carried out by a thread, from the begin of the ``with`` block until its end, which may come early.

    Faults are applied and healed at their times. Leaving the block heals all that still holds; then what went wrong
    with a fault is raised, unless the block has trouble of its own.
    """

    def __init__(self, plan: Plan, apply: Callable[[Step], Fault]) -> None:
        """``apply`` makes a step's fault happen, and returns it."""
        self.plan = plan
        self.troubles: list[Failure] = []
        """What went wrong with the faults themselves."""
        self.felt: dict[Step, tuple[float, float | None]] = {}
        """When each step that was applied began, and when it was healed (None: not yet), by :func:`time.monotonic`."""
        self._apply = apply
        self._holding: dict[Step, Fault] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storm")

    def wait(self, timeout: float | None = None) -> bool:
        """Return when the plan is through, or after ``timeout`` seconds; whether it is through."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for step in reversed(self._holding):
            self._heal(step)
        if self.troubles and kind is None:
            raise self.troubles[0]

    def _run(self) -> None:
        begin = time.monotonic()
        # What ends is healed before what begins at the same instant.
        deeds = sorted(
            [(step.at, 1, number) for number, step in enumerate(self.plan.steps)]
            + [(step.heal_at, 0, number) for number, step in enumerate(self.plan.steps)]
        )
        for at, is_begin, number in deeds:
            if self._stop.wait(max(0.0, begin + at - time.monotonic())):
                return
            step = self.plan.steps[number]
            if not is_begin:
                self._heal(step)
                continue
            try:
                self.felt[step] = (time.monotonic(), None)  # from before, so that it covers all of the fault
                self._holding[step] = self._apply(step)
            except Failure as trouble:
                self.troubles.append(trouble)

    def _heal(self, step: Step) -> None:
        fault = self._holding.get(step)
        for left in reversed(range(HEAL_TRIES)):
            if fault is None:
                return
            try:
                fault.heal()
                fault = None
                self.felt[step] = (self.felt[step][0], time.monotonic())
            except Failure as trouble:
                if not left:
                    self.troubles.append(trouble)
                    return
                time.sleep(HEAL_PAUSE_S)


class Options(TypedDict, total=False):
    """What :func:`draw` takes besides the seconds."""

    seed: int
    nodes: Iterable[int]
    menu: Iterable[str] | None
    keep_majority: bool
    gap_s: float
    length_s: tuple[float, float]
    boot_s: float


class Chaos:
    """Storms on one cluster, from one seed.

    The first has the seed itself, so that its plan can be printed without a cluster.
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.seed = seed
        self._drawn = 0

    def plan(self, seconds: float, **options: Unpack[Options]) -> Plan:
        """Draw the next plan for the cluster's nodes; ``options`` as for :func:`draw`. Raises :class:`UsageFailure`."""
        seed = self.seed + self._drawn
        self._drawn += 1
        boot_s = BOOT_S * self.cluster.description.accelerator.factor
        numbers = self.cluster.description.numbers
        chosen: Options = {"seed": seed, "nodes": numbers, "boot_s": boot_s, **options}
        return draw(seconds=seconds, **chosen)

    def storm(self, seconds: float, **options: Unpack[Options]) -> Storm:
        """The storm of the next plan, which is printed and put on the timeline."""
        plan = self.plan(seconds, **options)
        print(plan)  # to what pytest shows of a failure
        self.cluster.mark(str(plan).splitlines()[0])
        return Storm(plan, on_cluster(self.cluster))


def on_cluster(cluster: Cluster) -> Callable[[Step], Fault]:
    """How a plan's steps are carried out on ``cluster``."""

    def apply(step: Step) -> Fault:
        match step.kind, step.arguments:
            case "kill", (int(node),):
                return cluster.node(str(node)).kill()
            case "pause", (int(node),):
                return cluster.node(str(node)).pause()
            case "blackout", ():
                return together("blackout", [node.kill() for node in cluster.nodes])
            case "isolate", (int(node),):
                return cluster.net.isolate(node)
            case "bridge", (int(node),):
                return cluster.net.bridge(node)
            case "ring", ():
                return cluster.net.majority_ring()
            case "cut", (int(source), int(target)):
                return cluster.net.cut(source, target)
            case "clock", (int(node), float(seconds)):
                return cluster.node(str(node)).clock.step(seconds)
            case "slow-disk", (int(node),):
                return cluster.node(str(node)).disk.slow(iops=SLOW_IOPS)
            case "degrade", (int(one), int(other), str(link)):
                return cluster.net.degrade(one, other, **LINKS[link])
            case "partition", (tuple(first), tuple(second)):
                return cluster.net.partition(first, second)
        raise ValueError(f"no such fault: {step}")

    return apply


def together(what: str, faults: Sequence[Fault]) -> Fault:
    """``faults`` as one."""

    def heal() -> None:
        for fault in faults:
            fault.heal()

    return Fault(what, heal)


def _shown(argument: Argument) -> str:
    match argument:
        case str():
            return " ".join(f"{name}={value:g}" for name, value in sorted(LINKS[argument].items()))
        case float():
            return f"{argument:+g} s"
        case tuple():
            return "{" + ", ".join(f"node-{number}" for number in argument) + "}"
        case _:
            return f"node-{argument}"
