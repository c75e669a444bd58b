"""Nodes that join a running cluster and leave it, with stand-ins; etcd's members are compared with expected ones."""

import dataclasses
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.lifecycle import membership, preflight, scale
from cluster.lifecycle.membership import Member
from cluster.lifecycle.up import Options, up
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.protocol import Status
from terminal import Failure, Phases, UsageFailure
from tests.cluster.conftest import processes_that_mention
from tests.cluster.test_sweep import CLUSTER, begin, next_command
from tests.eventually import eventually

pytestmark = pytest.mark.slow

QUIET = Phases(quiet=True)


@pytest.fixture
def etcd(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The members that the stand-ins' etcd has: node-1."""
    state = home / "members.json"
    state.write_text(json.dumps([{"ID": 1, "name": "node-1", "peerURLs": ["https://10.77.0.11:2380"]}]))
    monkeypatch.setenv("STANDIN_ETCD", str(state))
    return state


@pytest.fixture
def cluster(standin: Path, image: Path, etcd: Path) -> Iterator[Cluster]:
    """One node, up."""
    made = up(Options(size=1, image=image), QUIET).cluster
    yield made
    made.close()
    Cluster.open().remove()


def names(etcd: Path) -> list[str]:
    """The members that vote."""
    return [member["name"] for member in json.loads(etcd.read_text()) if not member.get("isLearner")]


def user_data(cluster: Cluster, number: int) -> str:
    return (cluster.layout.node(number) / "user-data").read_text()


def test_a_cluster_grows_to_three_members_and_further_nodes_are_proxies(cluster: Cluster, etcd: Path) -> None:
    joined = scale.add("default", 3, QUIET)
    assert [node.name for node in joined] == ["node-2", "node-3", "node-4"]
    assert names(etcd) == ["node-1", "node-2", "node-3"]
    grown = Cluster.open()
    status = grown.status()["nodes"]
    assert [(node["name"], node["state"], node["role"]) for node in status] == [
        ("node-1", "running", "member"),
        ("node-2", "running", "member"),
        ("node-3", "running", "member"),
        ("node-4", "running", "proxy"),
    ]
    assert len({node["ssh_port"] for node in status}) == 4
    initial = "node-1=https://10.77.0.11:2380,node-2=https://10.77.0.12:2380,node-3=https://10.77.0.13:2380"
    assert f'initial_cluster: "{initial}"' in user_data(grown, 3)
    assert "initial_cluster_state: existing" in user_data(grown, 3)
    assert "discovery:" not in user_data(grown, 3)
    (discovery,) = [line for line in user_data(grown, 1).splitlines() if "discovery:" in line]
    assert discovery in user_data(grown, 4)
    assert grown.nodes[3].root("hostname").out == "root did hostname\n"
    assert "node-4 " in grown.layout.known_hosts.read_text()


def test_a_node_that_leaves_leaves_nothing_and_its_number_is_not_used_again(cluster: Cluster, etcd: Path) -> None:
    scale.add("default", 2, QUIET)
    assert scale.remove("default", "node-2", QUIET).name == "node-2"
    after = Cluster.open()
    assert [node.name for node in after.nodes] == ["node-1", "node-3"]
    assert names(etcd) == ["node-1", "node-3"]
    assert not after.layout.node(2).exists()
    assert "node-2 " not in after.layout.known_hosts.read_text()
    assert not after.layout.net_socket(2).exists()
    assert not processes_that_mention(str(after.layout.net_socket(2)))
    with pytest.raises(UsageFailure, match="no node 'node-2'"):
        after.node("node-2")
    assert [node.name for node in scale.add("default", 1, QUIET)] == ["node-4"]
    assert names(etcd) == ["node-1", "node-3", "node-4"]

    after = Cluster.open()
    after.stop()
    assert not after.is_running
    again = up(Options(size=3), QUIET).cluster
    assert [node["name"] for node in again.status()["nodes"] if node["state"] == "running"] == [
        "node-1",
        "node-3",
        "node-4",
    ]
    again.close()


def test_etcd_must_be_well_without_who_leaves(cluster: Cluster, etcd: Path) -> None:
    scale.add("default", 2, QUIET)
    grown = Cluster.open()
    grown.nodes[1].kill()
    with pytest.raises(
        Failure, match=r"without node-3, etcd has 2 members and needs 2 that are well; 1 are \(not: node-2\)"
    ):
        scale.remove("default", "3", QUIET)
    with pytest.raises(Failure, match="node-2 is off: a node can join only while all others run"):
        scale.add("default", 1, QUIET)
    scale.remove("default", "2", QUIET)  # it is lost for good
    assert names(etcd) == ["node-1", "node-3"]
    grown.close()


def test_the_last_node_does_not_leave(cluster: Cluster) -> None:
    with pytest.raises(Failure, match="node-1 is the last node"):
        scale.remove("default", "1", QUIET)


def test_room_is_looked_for_before_a_node_joins(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "free_memory_mib", lambda: 1400)
        with pytest.raises(Failure, match=r"2 nodes need 2748 MiB of memory \(1374 each\), 1400 MiB are free"):
            scale.add("default", 2, QUIET)
    with pytest.raises(UsageFailure, match="99 more nodes"):
        scale.add("default", 99, QUIET)
    assert len(Cluster.open().nodes) == 1


def test_an_add_that_is_killed_at_any_moment_is_cleaned_up_by_the_next_command(
    cluster: Cluster, etcd: Path, seed: int
) -> None:
    dice = random.Random(seed)
    for moment in [dice.uniform(0.3, 3) for _ in range(4)]:
        size = len(Cluster.open().nodes)
        with begin(CLUSTER, "add") as process:
            time.sleep(moment)  # any moment: that is what is tested
            process.send_signal(signal.SIGKILL)
        next_command()
        now = Cluster.open()
        assert len(now.nodes) in (size, size + 1)
        assert now.strays == []
        live = now.ask(Status()).nodes
        assert [node.node for node in live if node.state == "running"] == list(now.description.numbers)
        machines = f"{now.layout.runtime}/net-"
        assert eventually(lambda: len(processes_that_mention(machines)) == len(now.nodes))  # noqa: B023 - called at once
    assert scale.add("default", 1, QUIET)  # removes members of nodes that never came
    known = set(names(etcd)) | {"node-1"}
    assert known <= {node.name for node in Cluster.open().nodes}
    assert all(not member.get("isLearner") for member in json.loads(etcd.read_text()))


DESCRIPTION = Description(
    name="lab",
    runtime="/run/x",
    qemu="/usr/bin/qemu",
    accelerator=Accelerator("tcg", 8.0, "a test"),
    memory_mib=1024,
    ssh_ports=(1001, 1002, 1003),
    discovery_port=1000,
    agent_ttl="30s",
)


def test_numbers_ports_and_roles_stay_with_their_nodes() -> None:
    one = DESCRIPTION.left(2)
    assert (one.numbers, one.ssh_ports, one.member_numbers) == ((1, 3), (1001, 1003), (1, 3))
    two = one.joined(1009, member=False)
    assert (two.numbers, two.ssh_port(4), two.role(3), two.role(4)) == ((1, 3, 4), 1009, "member", "proxy")
    three = two.left(4).joined(1010, member=True)
    assert (three.numbers, three.role(5), three.members) == ((1, 3, 5), "member", 3)
    assert dataclasses.replace(DESCRIPTION).numbers == (1, 2, 3)


def test_a_description_is_read_back(tmp_path: Path) -> None:
    changed = DESCRIPTION.left(1).joined(1009, member=True)
    changed.save(tmp_path / "cluster.json")
    assert Description.load(tmp_path / "cluster.json") == changed


def test_members_are_read_from_what_etcdctl_prints() -> None:
    text = '{"members":[{"ID":9372538179322589801,"name":"node-1","peerURLs":["http://10.77.0.11:2380"]},{"ID":7,"peerURLs":["http://x"],"isLearner":true}]}'
    assert membership.parse(text) == [
        Member(9372538179322589801, "node-1", ("http://10.77.0.11:2380",)),
        Member(7, "", ("http://x",), learner=True),
    ]
    for wrong in ("", "[]", '{"members": [{}]}', "x"):
        with pytest.raises(Failure, match="makes no sense"):
            membership.parse(wrong)
