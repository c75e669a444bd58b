"""The story of the README: a unit moves when its node's plug is pulled, and no other unit is disturbed.

One cluster, one story: the tests run in this order, each a chapter that begins where the last one ended. They run on
the quickest driver that works here and, with ``--full``, on machines, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.core import data
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.testing.plugin import clusters_of

from .conftest import TTL_S, Fleetctl, three_nodes, until

pytestmark = [pytest.mark.story, pytest.mark.needs()]

UNIT = "polop@redis.service"
AS_COREOS_USERS_WROTE_IT = """\
[Unit]
Description=Redis Service
After=docker.service
Requires=docker.service

[Service]
ExecStart=/usr/bin/docker run --name "redis-%p" dockerfile/redis

[Install]
WantedBy=local.target
"""
BYSTANDER = """\
[Unit]
Description=Stays where it is

[Service]
ExecStart=/usr/bin/sleep infinity

[X-Fleet]
Conflicts=bystander@*.service
"""


@dataclass
class Story:
    """What the chapters hand on to each other."""

    folder: Path
    home: Node | None = None
    """The node whose plug is pulled."""
    since: dict[str, str] = field(default_factory=dict)
    """When the survivors' bystanders became active."""


@pytest.fixture(
    scope="module", params=[(), pytest.param(("machine",), marks=pytest.mark.full)], ids=["quickest", "machines"]
)
def cluster(redis_archive: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The three nodes; ``param`` is what they have to have."""
    with three_nodes(redis_archive, clusters_of(request.config).driver(request.node, request.param)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("units")
    shutil.copy(data.units() / "examples" / "redis.service", folder)
    (folder / UNIT).symlink_to("redis.service")
    (folder / "asis@redis.service").write_text(AS_COREOS_USERS_WROTE_IT)
    (folder / "bystander@.service").write_text(BYSTANDER)
    (folder / "everywhere.service").write_text(
        BYSTANDER.replace("Conflicts=bystander@*.service", "Global=true\nMachineMetadata=role=member")
    )
    (folder / "nowhere.service").write_text(
        BYSTANDER.replace("Conflicts=bystander@*.service", "MachineMetadata=disk=ssd")
    )
    return Story(folder)


def node_at(cluster: Cluster, address: str) -> Node:
    """The node with this address of the cluster's segment."""
    return next(node for node in cluster.nodes if node.address == address)


def active_at(fleetctl: Fleetctl, unit: str) -> str:
    """The address of the one machine where ``unit`` is active and running; empty if there is none, or more than one."""
    places = [
        machine for machine, active, sub in fleetctl.units().get(unit, []) if (active, sub) == ("active", "running")
    ]
    return places[0] if len(places) == 1 else ""


def pings(node: Node, container: str) -> bool:
    """Does redis in ``container`` answer?"""
    return node.run(f"docker exec {container} redis-cli ping").out.strip() == "PONG"


def active_since(node: Node, unit: str) -> str:
    """systemd's own time of the start, in microseconds since the node's boot, and the process: both change with any
    restart.
    """
    return node.check(f"systemctl show -P ActiveEnterTimestampMonotonic -P MainPID {unit}")


def test_three_machines(cluster: Cluster, fleetctl: Fleetctl) -> None:
    assert fleetctl.machines() == [node.address for node in cluster.nodes]


def test_start_a_linked_instance(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    fleetctl.check("start", story.folder / UNIT)
    story.home = node_at(cluster, active_at(fleetctl, UNIT))
    until("redis answers", lambda: pings(cluster_home(story), "redis-polop"), 120)


def test_text_and_status_come_back(fleetctl: Fleetctl, story: Story) -> None:
    assert "docker run" in fleetctl.check("cat", UNIT)
    assert "active (running)" in fleetctl.check("status", UNIT)
    assert "redis" in fleetctl.check("journal", "--lines", "50", UNIT).lower()
    assert UNIT in fleetctl.check("list-unit-files")


def test_the_unit_as_coreos_users_wrote_it(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    """No idiom, and an [Install] that wants a target which does not exist."""
    fleetctl.check("start", story.folder / "asis@redis.service")
    node = node_at(cluster, active_at(fleetctl, "asis@redis.service"))
    until("redis answers", lambda: pings(node, "redis-asis"), 120)
    assert node is not story.home, "the least loaded machine was another one"


def test_one_bystander_on_each_machine(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    names = [f"bystander@{number}.service" for number in (1, 2, 3)]
    fleetctl.check("start", *(story.folder / name for name in names))
    places = {name: active_at(fleetctl, name) for name in names}
    assert sorted(places.values()) == [node.address for node in cluster.nodes]
    for name, address in places.items():
        if node_at(cluster, address) is not story.home:
            story.since[name] = active_since(node_at(cluster, address), name)
    assert len(story.since) == 2


def test_a_global_unit_runs_on_every_machine(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    fleetctl.check("start", story.folder / "everywhere.service")
    everywhere = [(node.address, "active", "running") for node in cluster.nodes]
    until("it is everywhere", lambda: sorted(fleetctl.units().get("everywhere.service", [])) == everywhere, 120)


def test_a_unit_that_no_machine_can_take_gets_a_reason(fleetctl: Fleetctl, story: Story) -> None:
    answer = fleetctl("start", "--block-attempts", "3", story.folder / "nowhere.service")
    assert answer.code == 1
    assert "disk=ssd" in answer.out + answer.err
    assert "disk=ssd" in fleetctl.check("why", "nowhere.service")
    fleetctl.check("destroy", "nowhere.service")


# What systemd does with each: exit code of `start`, and what its message has to say. It is the real one's doing.
BEGINNINGS = {
    "missing.service": ("[Service]\nExecStart=/nope\n", 1, ("203/EXEC", "/nope", "fleetctl restart")),
    "words.service": (
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo out of cheese; exit 3'\n",
        1,
        ("exited with 3", "out of cheese"),
    ),
    "asserted.service": (
        "[Unit]\nAssertPathExists=/nope\n[Service]\nExecStart=/bin/true\n",
        1,
        ("AssertPathExists=/nope", "goes on trying"),
    ),
    "alone.timer": ("[Timer]\nOnActiveSec=1h\n", 1, ("refused", "alone.service")),
    "needy.service": (
        (
            "[Unit]\nRequires=words.service\nAfter=words.service\n[Service]\nExecStart=/bin/sleep inf\n"
            "[X-Fleet]\nMachineOf=words.service\n"
        ),
        1,
        ("words.service is failed",),
    ),
    "skipped.service": (
        "[Unit]\nConditionPathExists=/nope\n[Service]\nExecStart=/bin/true\n",
        0,
        ("ConditionPathExists=/nope",),
    ),
    "slow.service": ("[Service]\nType=oneshot\nExecStart=/bin/sleep 3\n", 0, ("finished",)),
}


def test_start_reports_the_outcome(fleetctl: Fleetctl, story: Story) -> None:
    for name, (text, code, words) in BEGINNINGS.items():
        (story.folder / name).write_text(text)
        answer = fleetctl("start", story.folder / name)
        assert answer.code == code, (name, answer)
        said = answer.out + answer.err
        assert [word for word in words if word not in said] == [], (name, answer)
        if code:
            assert words[0] in fleetctl.check("why", name)


def test_what_a_unit_lacked_comes(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    """A refused one is tried again, and one that failed runs after a stop and a start."""
    (story.folder / "alone.service").write_text(
        "[Service]\nExecStart=/bin/sh -c 'test -e /run/ok && exec sleep inf'\n[X-Fleet]\nMachineOf=alone.timer\n"
    )
    assert fleetctl("start", story.folder / "alone.service").code == 1
    fleetctl.check("start", "--block-attempts", "60", "alone.timer")
    for node in cluster.nodes:
        node.root("touch /run/ok")
    fleetctl.check("stop", "alone.service")
    fleetctl.check("start", "alone.service")
    assert active_at(fleetctl, "alone.service")
    fleetctl.check("destroy", "alone.timer", "alone.service", *(name for name in BEGINNINGS if name != "alone.timer"))


def test_fleetd_survives_signals_and_its_end_changes_no_unit(
    cluster: Cluster, fleetctl: Fleetctl, story: Story
) -> None:
    """HUP and USR1 do not end it. When it is stopped, systemd shows what that means, and the units run on."""
    (node,) = [node for node in cluster.nodes if node is story.home]
    before = (node.root("systemctl show -P MainPID fleet").out, active_since(node, UNIT))
    node.root("systemctl reload fleet && systemctl kill -s USR1 fleet")
    until("it prints its state", lambda: '"registered": true' in node.root("journalctl -u fleet -o cat").out, 60)
    assert (node.root("systemctl show -P MainPID fleet").out, active_since(node, UNIT)) == before
    node.root("systemctl stop fleet")
    status = node.root("systemctl show -P StatusText fleet").out
    node.root("systemctl start fleet")
    assert "run on, and" in status
    until("three machines", lambda: len(fleetctl.machines()) == 3, 60)
    assert active_since(node, UNIT) == before[1]


@pytest.mark.parametrize("name", ["../x.service", "x.unknown", "a b.service", f"{'x' * 300}.service"])
def test_a_bad_unit_name_is_refused(fleetctl: Fleetctl, name: str) -> None:
    answer = fleetctl("start", name)
    assert answer.code in (1, 2)
    assert answer.err.strip(), "and it says why"


@pytest.mark.parametrize("name", ["ssh.service", "serial-getty@ttyS0.service", "system.slice"])
def test_the_machines_own_units_are_not_taken_over(
    cluster: Cluster, fleetctl: Fleetctl, story: Story, name: str
) -> None:
    """Destroying one that was taken over would leave the console dead, or hang."""
    shown = f"systemctl show -P FragmentPath -P ActiveState -P MainPID {name}"
    before = [node.check(shown) for node in cluster.nodes]
    path = story.folder / name
    path.write_text("[Slice]\n" if name.endswith(".slice") else BYSTANDER)
    answer = fleetctl("start", "--block-attempts", "3", path)
    assert answer.code == 1, answer
    fleetctl("destroy", name)  # if it came as far as the cluster
    assert name not in fleetctl.check("list-unit-files", "--no-legend")
    assert [node.check(shown) for node in cluster.nodes] == before


def test_pull_the_plug(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    home = cluster_home(story)
    home.check("echo kept > /home/core/note && sync")
    cluster.nodes[0].check("etcdctl put /story before")
    home.kill()

    def elsewhere() -> bool:
        address = active_at(fleetctl, UNIT)
        return address not in ("", home.address)

    # Lease, then the engine's own grace, then a container's start on an emulated machine.
    seconds = until("the unit is active elsewhere", elsewhere, 3 * TTL_S + 120)
    node = node_at(cluster, active_at(fleetctl, UNIT))
    until("redis answers there", lambda: pings(node, "redis-polop"), 120)
    print(f"failover: {seconds:.1f} s from SIGKILL to active elsewhere, with a lease of {TTL_S} s")
    assert len(fleetctl.machines()) == 2


def test_the_survivors_units_did_not_notice(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    units = fleetctl.units()
    for name, since in story.since.items():
        ((address, active, _),) = units[name]
        assert active == "active"
        assert active_since(node_at(cluster, address), name) == since


def test_the_third_bystander_waits_and_says_why(fleetctl: Fleetctl, story: Story) -> None:
    (waiting,) = {f"bystander@{number}.service" for number in (1, 2, 3)} - story.since.keys()
    assert "conflict" in fleetctl.check("why", waiting).lower()


def test_the_node_boots_again_and_rejoins_with_its_data(cluster: Cluster, fleetctl: Fleetctl, story: Story) -> None:
    home = cluster_home(story)
    home.start()
    until("three machines", lambda: len(fleetctl.machines()) == 3, 300)
    assert home.check("cat /home/core/note").strip() == "kept"
    until("its member is healthy", lambda: home.run("etcdctl endpoint health").rc == 0, 120)
    assert home.check("etcdctl get --print-value-only /story").strip() == "before"
    members = home.check("etcdctl member list").splitlines()
    assert len(members) == 3
    assert all("started" in member for member in members)
    (waiting,) = {f"bystander@{number}.service" for number in (1, 2, 3)} - story.since.keys()
    until("the third bystander is back", lambda: active_at(fleetctl, waiting) == home.address, 120)
    until("the global unit is there, too", lambda: len(fleetctl.units()["everywhere.service"]) == 3, 120)
    assert active_at(fleetctl, UNIT) not in ("", home.address), "nothing moves back without a cause"


def test_a_container_name_left_over_from_the_power_cut_is_no_obstacle(
    cluster: Cluster, fleetctl: Fleetctl, story: Story
) -> None:
    home = cluster_home(story)
    assert "redis-polop" in home.check("docker ps --all --format '{{.Names}}'").split(), "the power cut left it"
    fleetctl.check("destroy", UNIT)
    machine = home.check("cat /etc/machine-id").strip()
    text = (story.folder / "redis.service").read_text()
    (story.folder / "redis.service").write_text(f"{text}\n[X-Fleet]\nMachineID={machine}\n")
    fleetctl.check("start", story.folder / UNIT)
    assert active_at(fleetctl, UNIT) == home.address
    until("redis answers", lambda: pings(home, "redis-polop"), 120)


def test_stop_unload_destroy(fleetctl: Fleetctl) -> None:
    fleetctl.check("stop", "bystander@1.service")
    fleetctl.check("unload", "bystander@1.service")
    assert "bystander@1.service" not in fleetctl.units()
    names = [UNIT, "asis@redis.service", "everywhere.service", *(f"bystander@{number}.service" for number in (1, 2, 3))]
    fleetctl.check("destroy", *names)
    until("no unit is left", lambda: fleetctl.units() == {}, 60)


def test_no_console_reports_a_crash(cluster: Cluster) -> None:
    for node in cluster.nodes:
        text = node.console_tail(10_000)
        for word in ("Kernel panic", "Oops", "BUG:", "Out of memory", "ordering cycle", "Traceback"):
            assert word not in text, f"{node.name}: {word}"


def cluster_home(story: Story) -> Node:
    """The node that the unit was first started on."""
    assert story.home is not None, "an earlier chapter failed"
    return story.home
