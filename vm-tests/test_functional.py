"""The 43 functional tests of CoreOS's fleet, each under its ancestor's name, on three nodes with real systemd and etcd.

A docstring says what the ancestor checked and, where ours is another promise, which. ``docs/functional.md`` is the
list, with the other tests of the same. They run on namespaces and, with ``--full``, on machines, too; all of them share
one cluster, which each leaves without units and with all of its machines. ``full`` on namespaces are those that take
long, or that the story or the scheduler's tests cover.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.testing.plugin import clusters_of

from .conftest import TTL_S, three_in_namespaces, three_nodes
from .functional import CORPUS, SOCKET, Fleet, is_active, says, since

pytestmark = pytest.mark.needs()

NAME = "vm-tests-functional"
ANCESTORS_TTL_S = 3
"""Of a machine's lease there, and here, where nothing is emulated; etcd grants none that is shorter at this pace."""
QUICKEST: tuple[str, ...] = ()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(QUICKEST, marks=[pytest.mark.namespaces, pytest.mark.fast]),
        pytest.param(("machine",), marks=pytest.mark.full),
    ],
    ids=["namespaces", "machines"],
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The three nodes; ``param`` is what they have to have."""
    driver = clusters_of(request.config).driver(request.node, request.param)
    if driver != "namespaces":
        with three_nodes(request.getfixturevalue("redis_archive"), driver) as cluster:
            yield cluster
        return
    with three_in_namespaces(NAME, ANCESTORS_TTL_S) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    ttl_s = ANCESTORS_TTL_S if cluster.description.driver == "namespaces" else TTL_S
    made = Fleet(cluster, tmp_path_factory.mktemp("functional"), ttl_s=ttl_s)
    yield made
    made.close()


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    """The cluster, without units."""
    yield shared
    shared.clean()


def listed(fleet: Fleet, prefix: str, state: str) -> list[str]:
    """The units with this prefix whose desired and current state is ``state``."""
    return [unit for unit, states in fleet.files().items() if unit.startswith(prefix) and states == (state, state)]


# --- the client ------------------------------------------------------------------------------------------------------


def test_known_hosts_verification(fleet: Fleet, tmp_path: Path) -> None:
    """The first ssh records the node's key; another key is refused; without the record it works again."""
    known = tmp_path / "known_hosts"
    address = f"127.0.0.1:{fleet.control.ssh_port}"
    command = ("--tunnel", address, "--known-hosts-file", known, "list-machines", "--no-legend")
    assert len(fleet.from_here.check(*command).splitlines()) == 3
    host, _ = known.read_text().split(" ", 1)
    known.write_text(f"{host} {fleet.cluster.layout.key.with_suffix('.pub').read_text()}")
    refused = fleet.from_here(*command)
    assert refused.code == 1
    assert "Host key verification failed" in refused.err
    known.unlink()
    assert len(fleet.from_here.check(*command).splitlines()) == 3


def test_fleetctl_with_env(fleet: Fleet) -> None:
    """FLEETCTL_ENDPOINT does what --endpoint does, which goes before it."""
    elsewhere = "unix:///home/core/other.sock"
    fleet.control.check("ln -sf /run/fleet.sock other.sock")
    plain = fleet.check("list-machines")
    assert fleet.check("--endpoint", elsewhere, "list-machines") == plain
    assert fleet.control.check(f"FLEETCTL_ENDPOINT={elsewhere} fleetctl list-machines") == plain
    nowhere = "FLEETCTL_ENDPOINT=unix:///home/core/none.sock fleetctl"
    assert fleet.control.run(f"{nowhere} list-machines").rc == 1
    assert fleet.control.check(f"{nowhere} --endpoint {SOCKET} list-machines") == plain


def test_client_version_flag(fleet: Fleet) -> None:
    """--version prints the version."""
    assert fleet.check("--version").startswith("fleetctl ")


def test_client_version_help_output(fleet: Fleet) -> None:
    """The command ``version`` says the same as the flag, and needs no cluster."""
    assert fleet.check("--endpoint", "unix:///nowhere", "version") == fleet.check("--version")
    assert "--version" in fleet.check("help")


def test_client_help_flag(fleet: Fleet) -> None:
    """--help prints what ``help`` prints, with all commands."""
    shown = fleet.check("--help")
    assert shown == fleet.check("help") == fleet.check("-h")
    assert [verb for verb in ("list-machines", "submit", "load", "start", "journal") if verb not in shown] == []


# --- machines of the API ---------------------------------------------------------------------------------------------


def test_machines_list(fleet: Fleet) -> None:
    """GET machines is 200, and has each machine's id, address and metadata."""
    status, body = fleet.http("GET", "machines")
    assert status == 200
    found = {machine["id"]: (machine["primaryIP"], machine["metadata"]["name"]) for machine in body["machines"]}
    assert found == {node.ask("cat /etc/machine-id").strip(): (node.address, node.name) for node in fleet.cluster.nodes}


def test_machines_list_bad_next_page_token(fleet: Fleet) -> None:
    """A page token that is none is 400."""
    status, body = fleet.http("GET", "machines?nextPageToken=EwBMLg==")
    assert (status, body["error"]["code"]) == (400, 400)


def metadata(fleet: Fleet) -> dict[str, dict[str, str]]:
    """Machine -> its metadata."""
    return {machine.id: dict(machine.metadata) for machine in fleet.client.machines()}


def patch(fleet: Fleet, *operations: object) -> int:
    """The status of a change of machines."""
    status, _ = fleet.http("PATCH", "machines", list(operations))
    return status


def test_machines_patch_add_modify(fleet: Fleet) -> None:
    """``add`` and ``replace`` set metadata of a machine, and of no other."""
    before = metadata(fleet)
    one, *_ = before
    path = f"/{one}/metadata/foo"
    assert patch(fleet, {"op": "add", "path": path, "value": "bar"}) == 204
    assert metadata(fleet) == {**before, one: {**before[one], "foo": "bar"}}
    assert patch(fleet, {"op": "replace", "path": path, "value": "baz"}) == 204
    assert metadata(fleet) == {**before, one: {**before[one], "foo": "baz"}}
    assert patch(fleet, {"op": "remove", "path": path}) == 204


def test_machines_patch_delete(fleet: Fleet) -> None:
    """``remove`` takes metadata away."""
    before = metadata(fleet)
    *_, one = before
    path = f"/{one}/metadata/foo"
    assert patch(fleet, {"op": "add", "path": path, "value": "bar"}) == 204
    assert metadata(fleet)[one]["foo"] == "bar"
    assert patch(fleet, {"op": "remove", "path": path}) == 204
    assert metadata(fleet) == before


def test_machines_patch_bad(fleet: Fleet) -> None:
    """An operation, a path and a value that there are not are 400 each, and nothing is changed."""
    before = metadata(fleet)
    one, *_ = before
    good = {"op": "add", "path": f"/{one}/metadata/foo", "value": "bar"}
    for wrong in ({"op": "noop"}, {"path": f"/{one}/foo"}, {"path": "/"}, {"value": ""}, {"value": 3}):
        assert patch(fleet, good, {**good, **wrong}) == 400, wrong
    assert metadata(fleet) == before


# --- units -----------------------------------------------------------------------------------------------------------


def test_install_unit(fleet: Fleet) -> None:
    """A sidekick whose [Install] wants it beside its unit follows that unit's start and stop."""
    fleet.check("load", "hello.service", "discovery.service")
    assert fleet.running() == {}
    fleet.check("start", "hello.service")
    fleet.soon(lambda: fleet.home("discovery.service") is fleet.home("hello.service"))
    fleet.check("stop", "hello.service")
    fleet.soon(lambda: fleet.running() == {})


def test_systemd_unit_flow(fleet: Fleet, tmp_path: Path) -> None:
    """The unit manager by itself, against the node's systemd: load, start, stop, unload, each seen in its states."""
    script = tmp_path / "flow.py"
    script.write_text(FLOW.replace("TEXT", repr(CORPUS["hello.service"])))
    done = fleet.control.root("python3 -I -", stdin=script)
    assert done.rc == 0, done
    assert [json.loads(line) for line in done.out.splitlines()] == [
        ["load", "", "loaded", "inactive", "dead"],
        ["start", "done", "loaded", "active", "running"],
        ["stop", "", "loaded", "inactive", "dead"],
        ["unload", "", "not-found", "inactive", "dead"],
    ]


FLOW = """
import json
import sys

sys.path.insert(0, "/usr/lib/flotilla")
from pathlib import Path

from fleet.agent.steps import Here, Step, await_end, perform
from fleet.agent.systemd import SystemdManager
from fleet.agent.unitstore import UnitStore
from fleet.model.entities import Desired, Placement
from unitfile.text import UnitFile

unit = UnitFile.parse(TEXT)
name = "flow.service"
store = UnitStore(Path("/run/flow"), Path("/run/systemd/system"))
store.prepare()
systemd = SystemdManager(lambda units: None)
order = Placement(name, "here", Desired.LAUNCHED, unit.serialize(), unit.hash())
here = Here()
for step in (Step.LOAD, Step.START, Step.STOP, Step.UNLOAD):
    outcome = perform(step, name, order, here, systemd, store)
    assert not outcome.error, outcome
    here = outcome.here
    result = await_end(name, outcome.job, systemd).result if outcome.job else ""
    state = systemd.states([name])[name]
    print(json.dumps([step.value, result, state.load, state.active, state.sub]))
"""


@pytest.mark.full
def test_tunnel_schedule_batch_units(fleet: Fleet, tmp_path: Path) -> None:
    """Units are started through --tunnel, several by one command."""
    names = [f"hello@{number}.service" for number in (1, 2, 3)]
    (tmp_path / "hello@.service").write_text(CORPUS["hello@.service"])
    tunnel = ("--tunnel", f"127.0.0.1:{fleet.control.ssh_port}")
    fleet.from_here.check(*tunnel, "start", *(tmp_path / name for name in names))
    assert sorted(fleet.running()) == names
    assert {fleet.home(name).name for name in names} == {node.name for node in fleet.cluster.nodes}


@pytest.mark.full
def test_unit_runnable(fleet: Fleet) -> None:
    """A unit that is started becomes active, on one machine."""
    fleet.check("start", "hello.service")
    assert is_active(fleet.home("hello.service"), "hello.service")


def test_unit_submit(fleet: Fleet) -> None:
    """Nine are submitted, destroyed and submitted: each time there are as many."""
    names = [f"hello@{number}.service" for number in range(1, 10)]
    for _ in range(2):
        fleet.check("submit", *names)
        assert listed(fleet, "hello@", "inactive") == names
        fleet.check("destroy", *names)
        assert fleet.files() == {}


def test_unit_load(fleet: Fleet) -> None:
    """Six are loaded, unloaded and loaded: each time there are as many, and none runs."""
    names = [f"hello@{number}.service" for number in range(1, 7)]
    for verb, state in (("load", "loaded"), ("unload", "inactive"), ("load", "loaded")):
        fleet.check(verb, *names)
        assert listed(fleet, "hello@", state) == names
    assert sorted((each.name, each.load, each.active) for each in fleet.client.states()) == [
        (name, "loaded", "inactive") for name in names
    ]


def test_unit_start(fleet: Fleet) -> None:
    """Three are started, stopped and started: they stay on their machines."""
    names = [f"hello@{number}.service" for number in (1, 2, 3)]
    fleet.check("start", *names)
    homes = {name: fleet.home(name) for name in names}
    fleet.check("stop", *names)
    assert listed(fleet, "hello@", "loaded") == names
    fleet.soon(lambda: fleet.running() == {})
    fleet.check("start", *names)
    assert {name: fleet.home(name) for name in names} == homes


def replaced(fleet: Fleet, verb: str) -> str:
    """A unit with the text of another, by ``verb`` and its --replace; returns the text that the cluster has then."""
    fleet.write({"again.service": CORPUS["hello.service"]})
    fleet.check(verb, "again.service")
    fleet.write({"again.service": CORPUS["goodbye.service"]})
    fleet.check(verb, "--replace", "again.service")
    return fleet.check("cat", "again.service")


def test_unit_submit_replace(fleet: Fleet) -> None:
    """submit --replace changes the text of a unit; without the option it only says that the texts differ."""
    assert replaced(fleet, "submit") == CORPUS["goodbye.service"]
    fleet.write({"again.service": CORPUS["hello.service"]})
    assert "--replace" in fleet.ctl("submit", "again.service").err
    assert fleet.check("cat", "again.service") == CORPUS["goodbye.service"]
    assert listed(fleet, "again", "inactive")


def test_unit_load_replace(fleet: Fleet) -> None:
    """load --replace changes it, and its machine loads the new one."""
    assert replaced(fleet, "load") == CORPUS["goodbye.service"]
    (state,) = fleet.client.states()
    assert fleet.machines()[state.machine].ask("systemctl show -P Description again.service") == "Goodbye\n"
    assert listed(fleet, "again", "loaded")


def test_unit_start_replace(fleet: Fleet) -> None:
    """start --replace changes it, and the new one runs."""
    assert replaced(fleet, "start") == CORPUS["goodbye.service"]
    home = fleet.home("again.service")
    fleet.soon(lambda: "Goodbye" in home.journal("again.service", lines=2))
    assert is_active(home, "again.service")


def test_unit_restart(fleet: Fleet) -> None:
    """A restarted unit is active: another process, on the same machine."""
    fleet.check("start", "hello.service")
    home = fleet.home("hello.service")
    before = since(home, "hello.service")
    fleet.check("restart", "hello.service")
    assert fleet.home("hello.service") is home
    assert since(home, "hello.service") != before


@pytest.mark.full
def test_unit_ssh_actions(fleet: Fleet) -> None:
    """journal, status and ssh find a unit's machine and end well."""
    fleet.check("start", "hello.service")
    assert "Hello" in fleet.from_here.check("journal", "--lines", "20", "hello.service")
    assert "active (running)" in fleet.from_here.check("status", "hello.service")
    assert fleet.from_here.check("ssh", "hello.service", "hostname").strip() == fleet.home("hello.service").name


def test_unit_cat(fleet: Fleet) -> None:
    """cat prints the text of the file."""
    fleet.check("submit", "hello.service")
    assert fleet.check("cat", "hello.service") == CORPUS["hello.service"]


@pytest.mark.full
def test_unit_status(fleet: Fleet) -> None:
    """status of units that run ends well, and shows all of them."""
    names = ["hello@1.service", "hello@2.service"]
    fleet.check("start", *names)
    assert fleet.from_here.check("status", *names).count("active (running)") == 2


def test_list_unit_files_order(fleet: Fleet) -> None:
    """Twenty are listed by name, in whatever order they came."""
    names = [f"hello@{number}.service" for number in range(1, 21)]
    fleet.check("submit", *random.Random(20).sample(names, 20))
    shown = fleet.check("list-unit-files", "--no-legend", "--full", "--fields", "unit")
    assert shown.split() == sorted(names)


# --- where units run -------------------------------------------------------------------------------------------------


def elsewhere(fleet: Fleet, homes: dict[str, Node]) -> str:
    """One of the units that are not on the node whose ``fleetctl`` is needed."""
    return next(name for name, home in homes.items() if home is not fleet.control)


def test_templates_with_specifiers_in_metadata(fleet: Fleet) -> None:
    """MachineMetadata=name=%i: an instance runs on the machine of that name; one of no machine waits in vain."""
    names = [node.name for node in fleet.cluster.nodes]
    fleet.check("submit", "metadata@.service")
    fleet.check("start", *(f"metadata@{name}.service" for name in names))
    assert [fleet.home(f"metadata@{name}.service").name for name in names] == names
    answer = fleet.ctl("start", "--block-attempts", "1", "metadata@invalid.service")
    assert answer.code == 1
    assert "name=invalid" in answer.err


def test_schedule_machine_of(fleet: Fleet) -> None:
    """Three pairs are on three machines, each together; when one goes down, its pair moves, together."""
    pings = [f"ping.{number}.service" for number in range(3)]
    pongs = [f"pong.{number}.service" for number in range(3)]
    fleet.check("start", *pings, *pongs)
    homes = {name: fleet.home(name) for name in (*pings, *pongs)}
    assert [homes[ping] for ping in pings] == [homes[pong] for pong in pongs]
    assert len({homes[ping].name for ping in pings}) == 3
    down = homes[elsewhere(fleet, homes)]
    pair = [name for name, home in homes.items() if home is down]
    rest = {name: since(home, name) for name, home in homes.items() if home is not down}
    down.stop()
    try:
        fleet.soon(lambda: down not in [fleet.home(name) for name in pair])
        assert len({fleet.home(name).name for name in pair}) == 1
        assert {name: since(homes[name], name) for name in rest} == rest
    finally:
        down.start()


def test_schedule_conflicts(fleet: Fleet) -> None:
    """Of five that conflict with each other three run, one on each machine; the others say why not."""
    names = [f"conflict.{number}.service" for number in range(5)]
    fleet.check("start", "--no-block", *names)
    fleet.soon(lambda: len(fleet.running()) == 3 and all(map(fleet.reason, set(names) - fleet.running().keys())))
    assert {fleet.home(name).name for name in fleet.running()} == {node.name for node in fleet.cluster.nodes}
    assert all("conflict" in fleet.reason(name) for name in set(names) - fleet.running().keys())


@pytest.mark.full
def test_schedule_one_way_conflict(fleet: Fleet) -> None:
    """A unit without Conflicts= waits for one that names it, and runs when that is destroyed."""
    fleet.check("start", "conflicts-with-hello.service")
    fleet.check("start", "--no-block", "hello-here.service")
    fleet.soon(lambda: "conflict" in fleet.reason("hello-here.service"))
    assert fleet.running().keys() == {"conflicts-with-hello.service"}
    fleet.check("destroy", "conflicts-with-hello.service")
    fleet.soon(lambda: fleet.running().keys() == {"hello-here.service"})


@pytest.mark.full
def test_schedule_multiple_conflicts(fleet: Fleet) -> None:
    """Several globs a line, and several lines: of three on one machine one runs, then the next."""
    left = {f"conflict.multiple.{number}.service" for number in range(3)}
    fleet.check("start", "--no-block", *sorted(left))
    for _ in range(3):
        fleet.soon(lambda: len(fleet.running()) == 1 and all(map(fleet.reason, left - fleet.running().keys())))
        (name,) = fleet.running()
        assert all("conflict" in fleet.reason(other) for other in left - {name})
        fleet.check("destroy", name)
        left.remove(name)


@pytest.mark.full
def test_schedule_replace(fleet: Fleet) -> None:
    """A unit that is replaced on its machine moves to another one."""
    fleet.check("start", "replace.0.service")
    home = fleet.home("replace.0.service")
    text = CORPUS["replace.0.service"] + f"\n[X-Fleet]\nReplaces=replace.0.service\nMachineMetadata=name={home.name}\n"
    fleet.write({"replace.1.service": text})
    fleet.check("start", "replace.1.service")
    assert fleet.home("replace.1.service") is home
    fleet.soon(lambda: fleet.home("replace.0.service") is not home)
    assert not is_active(home, "replace.0.service")


@pytest.mark.full
def test_schedule_circular_replace(fleet: Fleet) -> None:
    """Units that replace each other do not chase each other for ever: both ignore it, here and there.

    On the ancestor's one machine, one of the two was left waiting; here each runs once.
    """
    names = ("replace.kick.service", "replace.circle.service")
    fleet.check("start", *names)
    before = {name: since(fleet.home(name), name) for name in names}
    fleet.check("start", "hello.service")  # the engine has planned again
    assert {name: since(fleet.home(name), name) for name in names} == before


def test_schedule_condition_machine_id(fleet: Fleet) -> None:
    """MachineID=: the unit runs on that machine."""
    machines = fleet.machines()
    fleet.check("start", *(f"pin@{machine}.service" for machine in machines))
    assert {machine: fleet.home(f"pin@{machine}.service") for machine in machines} == machines


@pytest.mark.full
def test_schedule_global_units(fleet: Fleet) -> None:
    """Global=true: on each machine; status and restart end well."""
    fleet.check("start", "global.service")
    fleet.soon(lambda: fleet.running() == {"global.service": fleet.cluster.nodes})
    before = [since(node, "global.service") for node in fleet.cluster.nodes]
    assert fleet.from_here.check("status", "global.service").count("active (running)") == 3
    fleet.check("restart", "global.service")
    fleet.soon(lambda: fleet.running() == {"global.service": fleet.cluster.nodes})
    for node, was in zip(fleet.cluster.nodes, before, strict=True):
        assert since(node, "global.service") != was


def test_schedule_global_conflicts(fleet: Fleet) -> None:
    """Of two global units that conflict the first is everywhere, the second nowhere."""
    fleet.check("start", "conflict-global.0.service")
    fleet.soon(lambda: fleet.running() == {"conflict-global.0.service": fleet.cluster.nodes})
    fleet.check("start", "conflict-global.1.service")
    fleet.soon(lambda: "0 of 3" in fleet.reason("conflict-global.1.service"))
    assert fleet.running() == {"conflict-global.0.service": fleet.cluster.nodes}


# --- machines come and go --------------------------------------------------------------------------------------------


@pytest.mark.full
def test_dynamic_cluster_new_member_unit_migration(fleet: Fleet) -> None:
    """One machine more than conflicting units; one fleetd stops: its unit moves to the free machine, and no other.

    Unlike the ancestor's, that fleetd stops no unit when it ends, but when it is back.
    """
    names = ["conflict.0.service", "conflict.1.service"]
    fleet.check("start", *names)
    homes = {name: fleet.home(name) for name in names}
    moving = elsewhere(fleet, homes)
    (staying,) = set(names) - {moving}
    (free,) = [node for node in fleet.cluster.nodes if node not in homes.values()]
    before = since(homes[staying], staying)
    with fleet.without(homes[moving], "fleet"):
        fleet.soon(lambda: fleet.home(moving) is free)
        assert is_active(homes[moving], moving)
    fleet.soon(fleet.all_there)
    fleet.soon(lambda: not is_active(homes[moving], moving))
    assert fleet.home(moving) is free
    assert (fleet.home(staying), since(homes[staying], staying)) == (homes[staying], before)


def test_dynamic_cluster_member_reboot(fleet: Fleet) -> None:
    """Three conflicting units on three machines, of which one reboots: its unit starts again, and no other.

    The ancestor's member came back as another machine. Ours is the same one, which alone has room for the unit.
    """
    names = [f"conflict.{number}.service" for number in range(3)]
    fleet.check("start", *names)
    homes = {name: fleet.home(name) for name in names}
    again = elsewhere(fleet, homes)
    before = {name: since(home, name) for name, home in homes.items()}
    boot = homes[again].ask("cat /proc/sys/kernel/random/boot_id")
    homes[again].reboot()
    fleet.soon(lambda: homes[again].ask("cat /proc/sys/kernel/random/boot_id") != boot)
    fleet.soon(lambda: is_active(homes[again], again), "it is started after the reboot")
    fleet.soon(lambda: {name: fleet.home(name) for name in names} == homes)
    assert {name for name, home in homes.items() if since(home, name) != before[name]} == {again}


@pytest.mark.full
def test_single_node_connectivity_loss(fleet: Fleet) -> None:
    """Without etcd for longer than a lease, no unit changes, and no journal says that one was stopped."""
    names = [f"hello@{number}.service" for number in (1, 2, 3)]
    fleet.check("start", *names)
    homes = {name: fleet.home(name) for name in names}
    before = (fleet.files(), {name: since(home, name) for name, home in homes.items()})
    alone = [says(node, "units run on as they are") for node in fleet.cluster.nodes]
    stopped = {name: says(home, "Stopp", name) for name, home in homes.items()}
    with fleet.cluster.net.partition(*({node} for node in fleet.cluster.nodes)):
        until = time.monotonic() + fleet.ttl_s + 7
        for said in alone:
            fleet.soon(said)
        while time.monotonic() < until:
            assert {name: since(home, name) for name, home in homes.items()} == before[1]
    fleet.soon(fleet.all_there)
    assert (fleet.files(), {name: since(fleet.home(name), name) for name in names}) == before
    assert [name for name, stops in stopped.items() if stops()] == []


@pytest.mark.full
def test_node_shutdown(fleet: Fleet) -> None:
    """A fleetd that is stopped takes its machine and its units' states from the lists, once its lease has run out.

    The ancestor's stopped its units, too. Ours says that they run on, and they do.
    """
    node = fleet.cluster.nodes[1]
    fleet.check("start", f"metadata@{node.name}.service")
    with fleet.without(node, "fleet"):
        fleet.soon(lambda: node not in fleet.machines().values())
        fleet.soon(lambda: not fleet.client.states())
        assert is_active(node, f"metadata@{node.name}.service")
    fleet.soon(lambda: fleet.home(f"metadata@{node.name}.service") is node)


@pytest.mark.full
def test_detect_machine_id(fleet: Fleet) -> None:
    """A second machine with the id of another is refused, until it has its own again.

    The ancestor's answered 503 meanwhile. Ours goes on answering for the cluster, and says who has the id.
    """
    node, other = fleet.cluster.nodes[2], fleet.cluster.nodes[1]
    machines = fleet.machines()
    refused = says(node, f"the machine at {other.address} is registered with this machine's id")
    # In fleetd's eyes only: journalctl finds a node's journal by this id.
    drop_in = "/run/systemd/system/fleet.service.d/machine-id.conf"
    node.ask(f"echo {other.ask('cat /etc/machine-id').strip()} >/run/other-id")
    node.ask(f"printf '[Service]\\nBindReadOnlyPaths=/run/other-id:/etc/machine-id\\n' >{drop_in}")
    try:
        node.ask("systemctl daemon-reload && systemctl restart fleet")
        fleet.soon(refused)
        fleet.soon(lambda: fleet.machines() == {machine: at for machine, at in machines.items() if at is not node})
        names = [f"hello@{number}.service" for number in (1, 2, 3)]
        fleet.check("start", *names)
        assert node not in [fleet.home(name) for name in names]
        assert not any(is_active(node, name) for name in names)
    finally:
        node.ask(f"rm {drop_in} && systemctl daemon-reload && systemctl restart fleet")
    fleet.soon(lambda: fleet.machines() == machines)


# --- the daemon ------------------------------------------------------------------------------------------------------


def test_reconfigure_server(fleet: Fleet) -> None:
    """HUP and USR1 keep the API and its listeners: the same process answers on the same socket."""
    node = fleet.control
    before = [since(node, unit) for unit in ("fleet", "fleet.socket")]
    assert fleet.http("GET", "machines")[0] == 200
    reads, prints = says(node, "the configuration was read again"), says(node, '"registered": true')
    node.ask("systemctl reload fleet && systemctl kill --signal=USR1 fleet")
    fleet.soon(lambda: reads() and prints())
    assert fleet.http("GET", "machines")[0] == 200
    assert [since(node, unit) for unit in ("fleet", "fleet.socket")] == before


def ended_well(node: Node) -> bool:
    """Whether fleetd is off, by its own doing."""
    shown = node.unit("fleet").properties("ActiveState", "Result", "ExecMainStatus", "ExecMainCode")
    return shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0", "ExecMainCode": "1"}


def test_shutdown(fleet: Fleet) -> None:
    """fleetd ends in order when it is stopped, and says so."""
    node = fleet.cluster.nodes[2]
    with fleet.without(node, "fleet"):
        assert ended_well(node)
        assert "stopping: no unit of fleet runs here" in node.journal("fleet", lines=10)


@pytest.mark.full
@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("systemctl stop etcd", "systemctl start etcd"),
        ("systemctl kill --signal=STOP etcd", "systemctl kill --signal=CONT etcd"),
    ],
    ids=["gone", "silent"],
)
def test_shutdown_vs_monitor(fleet: Fleet, away: str, back: str) -> None:
    """So it does while it looks for an etcd that is gone, or does not answer."""
    node = fleet.cluster.nodes[2]
    alone = says(node, "units run on as they are")
    node.ask(away)
    try:
        fleet.soon(alone)
        with fleet.without(node, "fleet"):
            assert ended_well(node)
            node.ask(back)  # or its start would wait for that
    finally:
        node.ask(back)
