"""The processes of fleet_scale.py: a real engine with the real HTTP API, and many real agents whose systemd is hollow.

A hollow agent is `fleet.agent.agent.Agent` with its registration, watch, unit files and client of etcd; only what it
asks of systemd is answered at once: a unit that is started runs. Hundreds share a process and a loop, which saves
threads and changes nothing of what they say to etcd.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from etcd import Client
from fleet.agent.agent import Agent, Task
from fleet.agent.sight import Seen
from fleet.agent.steps import Ended, Known, Outcome, SystemdState
from fleet.agent.unitstore import UnitStore
from fleet.api.server import ApiServer
from fleet.daemon import calm_collector
from fleet.engine.leadership import Leadership
from fleet.model.entities import Machine
from fleet.model.live import Live
from fleet.model.registry import Registry
from fleet.model.watch import Delivered, Feed, Inbox, Lost, hand

ZONES = "abcd"


def machine(number: int) -> Machine:
    """The machine of this number; one of four has each zone."""
    return Machine(
        f"{number:032x}", f"10.{number >> 8}.{number & 255}.1", {"zone": ZONES[number % 4]}, f"boot-{number}"
    )


class HollowSystemd:
    """See :class:`fleet.agent.steps.Systemd`."""

    def __init__(self) -> None:
        self._running: set[str] = set()

    def reload(self) -> None:
        """Nothing to read."""

    def known(self, unit: str) -> Known:  # noqa: ARG002
        """No name is taken."""
        return Known()

    def start(self, unit: str) -> str:
        """It runs."""
        self._running.add(unit)
        return unit

    def result(self, job: str) -> str:  # noqa: ARG002
        """It went well."""
        return "done"

    def properties(self, unit: str) -> dict[str, object]:  # noqa: ARG002
        """Nothing is to be explained."""
        return {}

    def journal(self, unit: str, invocation: str, since_us: int) -> list[str]:  # noqa: ARG002
        """Nor was anything said."""
        return []

    def stop(self, unit: str) -> None:
        """It has stopped."""
        self._running.discard(unit)

    def enable(self, unit: str) -> None:
        """Done."""

    def disable(self, unit: str) -> None:
        """Done."""

    def is_ending(self) -> bool:
        """See :class:`fleet.agent.steps.Systemd`."""
        return False

    def forget_failure(self, unit: str) -> None:
        """Nothing fails."""

    def states(self, units: Sequence[str]) -> dict[str, SystemdState]:
        """What runs, and what does not."""
        return {
            each: SystemdState("loaded", *(("active", "running") if each in self._running else ("inactive", "dead")))
            for each in units
        }

    def observe(self, unit: str, wanted: bool) -> None:
        """Units never change by themselves."""


def run_agents(client: Client, first: int, count: int, ttl_s: int, folder: Path) -> None:
    """The agents of so many machines, in one loop, until the process is killed."""
    registry = Registry(client)
    inbox: Inbox[tuple[int, Delivered | Lost | Outcome | Ended | Seen]] = Inbox()
    agents: list[Agent] = []
    feeds: list[Feed] = []
    for number in range(count):
        store = UnitStore(folder / str(first + number) / "fleet", folder / str(first + number) / "systemd")
        store.prepare()

        def run(task: Task, number: int = number) -> None:
            inbox.post((number, task()))

        agents.append(Agent(registry, machine(first + number), HollowSystemd(), store, run, ttl_s=ttl_s))
        feeds.append(Feed(client, functools.partial(lambda number, message: inbox.post((number, message)), number)))
    # Spread over a third of the TTL, as machines that were not booted at once are.
    begin = time.monotonic()
    due = {number: begin + number * min(0.01, ttl_s / 3 / count) for number in range(count)}
    queue = [(when, number) for number, when in due.items()]
    while True:
        awake: set[int] = set()
        for number, message in inbox.take(queue[0][0]):
            awake.add(number)
            if isinstance(message, Delivered | Lost):
                hand(agents[number], message)
            else:
                agents[number].finished(message, time.monotonic())
        while queue[0][0] <= time.monotonic():
            when, number = heapq.heappop(queue)
            if due[number] == when:  # else it was called since, and is in the queue a second time
                awake.add(number)
            if not queue:
                break
        for number in awake:
            due[number] = agents[number].step(time.monotonic())
            heapq.heappush(queue, (due[number], number))
            feeds[number].follow(agents[number].subscription)


def run_engine(client: Client, name: str, ttl_s: int, agent_ttl_s: int, path: Path) -> None:
    """An engine and the HTTP API at ``path``, until the process is killed."""
    registry = Registry(client)
    live = Live(registry)
    failures: Inbox[BaseException] = Inbox()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen(64)
        ApiServer(registry, live, sockets=[listening.dup()]).start()
    Leadership(registry, name, ttl_s=ttl_s, agent_ttl_s=agent_ttl_s, live=live).start(failures.post)
    for failure in failures.take(time.monotonic() + 1e6):
        raise failure


def main() -> None:
    """One process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--etcd", required=True)
    parser.add_argument("--agent-ttl", type=int, default=30)
    parser.add_argument("--lease", type=int, default=10)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--engine", default="", help="be the engine of this name")
    parser.add_argument("--agents", type=int, nargs=2, metavar=("FIRST", "COUNT"), help="be these agents")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    threading.stack_size(256 << 10)
    calm_collector()
    client = Client([options.etcd])
    if options.engine:
        run_engine(client, options.engine, options.lease, options.agent_ttl, options.folder / options.engine)
    else:
        first, count = options.agents
        run_agents(client, first, count, options.agent_ttl, options.folder)


if __name__ == "__main__":
    main()
