"""What a node is, seen from inside a healthy cluster, before any fault."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from builder.about import filelist
from builder.core.tree import Kind
from cluster.client.cluster import Cluster
from cluster.client.node import Node

from .redis import IMAGE, START_S, running

pytestmark = [pytest.mark.fast, pytest.mark.needs("kernel")]

LISTENERS: Final = {
    ("tcp", "22"),  # ssh
    ("tcp", "53"),  # systemd-resolved's stub, on the loopback
    ("udp", "53"),
    ("tcp", "2378"),  # fleet's API, for users with certificates
    ("tcp", "2379"),  # etcd, for clients
    ("tcp", "2380"),  # etcd, for its peers
    ("tcp", "2381"),  # etcd says how it is, on the loopback
    ("udp", "68"),  # the management card's DHCP client
}


REFUSED: Final = frozenset({"EPERM", "EACCES", "EROFS"})
BREAKOUT: Final = Path(__file__).with_name("breakout.py")
UNPRIVILEGED: Final = "--cap-drop ALL --user 65534:65534"


def on_all(cluster: Cluster, command: str) -> list[str]:
    """What ``command`` prints on each node, run on all at once."""
    with ThreadPoolExecutor(len(cluster.nodes)) as pool:
        return list(pool.map(lambda node: node.check(command), cluster.nodes))


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Node:
    """Any node: all are the same bytes."""
    return cluster.nodes[0]


def test_nothing_failed_at_boot(cluster: Cluster) -> None:
    for failed in on_all(cluster, "systemctl --failed --no-legend --plain"):
        assert failed.strip() == ""


def test_user_data_was_applied(cluster: Cluster) -> None:
    for status in on_all(cluster, "cat /run/cloudconfig/status.json"):
        assert json.loads(status)["result"] == "done", status
    assert [name.strip() for name in on_all(cluster, "hostname")] == [node.name for node in cluster.nodes]


def test_three_members_found_each_other_and_have_one_leader(cluster: Cluster) -> None:
    members = json.loads(cluster.nodes[0].check("etcdctl member list --write-out=json"))["members"]
    assert sorted(member["name"] for member in members) == ["node-1", "node-2", "node-3"]
    endpoints = ",".join(f"https://{node.address}:2379" for node in cluster.nodes)
    status = json.loads(cluster.nodes[0].check(f"etcdctl --endpoints={endpoints} endpoint status --write-out=json"))
    assert len({answer["Status"]["leader"] for answer in status}) == 1
    assert all(answer["Status"]["version"] >= "3.5.24" for answer in status)


def test_machine_ids_differ(cluster: Cluster) -> None:
    ids = [text.strip() for text in on_all(cluster, "cat /etc/machine-id")]
    assert len(set(ids)) == 3
    assert all(len(identity) == 32 for identity in ids)


def test_the_root_is_read_only_and_etc_and_var_are_not(node: Node) -> None:
    assert node.run("sudo touch /usr/x").rc != 0
    assert node.run("sudo touch /x").rc != 0
    assert "read-only" in node.run("sudo touch /usr/x").err.lower()
    node.check("sudo touch /etc/x /var/x && sudo rm /etc/x /var/x")
    assert node.check("findmnt -no FSTYPE /").strip() in ("squashfs", "erofs")
    assert node.check("findmnt -no FSTYPE /etc").strip() == "overlay"
    assert node.check("findmnt -no FSTYPE /var").strip() == "ext4"


def test_every_path_of_the_root_is_what_the_build_lists(node: Node, image: Path, tmp_path: Path) -> None:
    """Seen below what is mounted over it: kind, mode, owners, time, size, target of each; and the contents of programs
    and of our code.
    """
    wanted = filelist.load(image)
    (tmp_path / "list").write_text(
        "set -e; mkdir -p /run/root; mount --bind / /run/root; trap 'cd /; umount /run/root' EXIT; cd /run/root\n"
        "find . -mindepth 1 -xdev -printf '%P\\t%y\\t%m\\t%U\\t%G\\t%T@\\t%s\\t%l\\n'\n"
        "echo; find usr/bin usr/lib/flotilla usr/lib/systemd -xdev -type f -exec sha256sum {} +\n"
    )
    node.put(tmp_path / "list", "/tmp/list")
    paths, hashes = node.check("sudo bash /tmp/list").split("\n\n")
    found = {}
    for line in paths.splitlines():
        path, letter, mode, uid, gid, time, size, target = line.split("\t")
        kind = {"f": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.SYMLINK}[letter]
        size = size if kind is Kind.FILE else "0"
        found[f"/{path}"] = (kind, mode.zfill(4), int(uid), int(gid), int(time.partition(".")[0]), int(size), target)
    assert found == {
        path: (each.kind, each.mode, each.uid, each.gid, each.mtime, each.size, each.target)
        for path, each in wanted.items()
    }
    sums = {f"/{path}": digest for digest, path in (line.split("  ", 1) for line in hashes.splitlines())}
    assert len(sums) > 500
    assert sums == {path: wanted[path].sha256 for path in sums}


def test_what_the_design_names_listens_and_nothing_else(cluster: Cluster) -> None:
    for text in on_all(cluster, "sudo ss --no-header -tuln"):
        found = {(line.split()[0], line.split()[4].rpartition(":")[2]) for line in text.splitlines()}
        assert found == LISTENERS


def test_ssh_takes_keys_only_and_never_root(node: Node) -> None:
    settings = node.check("sudo sshd -T")
    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert "permitrootlogin no" in settings
    shadow = node.check("sudo cat /etc/shadow").splitlines()
    assert all(line.split(":")[1] in ("*", "!", "!*") for line in shadow), "an account has a password"


def test_docker_waits_for_its_socket_and_redis_is_there(cluster: Cluster) -> None:
    assert cluster.nodes[0].check("systemctl is-active docker.socket").strip() == "active"
    for images in on_all(cluster, "docker image ls --format '{{.Repository}}'"):
        assert "dockerfile/redis" in images.split()


def test_containers_are_confined(cluster: Cluster) -> None:
    """By docker's own AppArmor profile, which docker loads when it starts: it allows what is needed, and nothing
    that is not.
    """
    node = cluster.nodes[0]
    running(node, "confined")
    assert node.root("cat /sys/kernel/security/apparmor/profiles").out.strip() == "docker-default (enforce)"
    assert node.root("docker inspect --format '{{.AppArmorProfile}}' confined").out.strip() == "docker-default"
    pid = node.root("docker inspect --format '{{.State.Pid}}' confined").out.strip()
    assert node.root(f"cat /proc/{pid}/attr/current").out.strip() == "docker-default (enforce)"
    # Where docker itself hides nothing of /proc, the profile alone says no. The image has a shell and no other program.
    free = "docker run --rm --user 0 --security-opt systempaths=unconfined --entrypoint /bin/sh"
    asks = f"{IMAGE} -c 'read own </proc/self/attr/current; echo $own; echo h >/proc/sysrq-trigger'"
    refused = node.root(f"{free} {asks}", 120)
    assert (refused.out.strip(), refused.rc) == ("docker-default (enforce)", 2), refused.err
    assert "Permission denied" in refused.err
    allowed = node.root(f"{free} --security-opt apparmor=unconfined {asks}", 120)
    assert (allowed.out.strip(), allowed.rc) == ("unconfined", 0), allowed.err


@pytest.fixture(scope="module")
def targets(node: Node) -> tuple[str, ...]:
    """What :data:`BREAKOUT`, which is put onto the node, tries: the node's first process, fleet's, one of the very
    account that tries; its root file system, and the disk that this is on.
    """
    node.put(BREAKOUT, "/tmp/breakout.py")
    node.ask("systemd-run --quiet --unit=victim --uid=65534 --gid=65534 sleep infinity")
    pids = ["1", *(node.ask(f"systemctl show -P MainPID {unit}").strip() for unit in ("fleet", "victim"))]
    disk = node.ask("lsblk -nro MAJ:MIN,RO | awk '$2 == 1 { print $1; exit }'").strip()
    of_processes = (f"{kind}:{pid}" for pid in pids for kind in ("trace", "memory"))
    return (*of_processes, "write:/usr/x", "write:/usr/bin/x", "remount:/usr", f"disk:{disk}")


def tried(node: Node, before: str, targets: Sequence[str]) -> dict[str, str]:
    """What became of each attempt, made by way of the command ``before``."""
    command = f"{before} python3 -I /tmp/breakout.py {shlex.join(targets)}"
    found: dict[str, str] = json.loads(node.ask(command, START_S))
    return found


def test_an_account_reaches_no_other_process_and_no_system_file(node: Node, targets: Sequence[str]) -> None:
    """Not even a process of its own that it has not started. Root does reach them: these are the right ones."""
    allowed = [each for each in targets if each.startswith(("trace", "memory", "disk"))]
    assert set(tried(node, "", ["trace:own", *allowed]).values()) == {"allowed"}
    found = tried(node, "setpriv --reuid 65534 --regid 65534 --clear-groups", ["trace:own", *targets])
    assert found.pop("trace:own") == "allowed"
    assert set(found.values()) <= REFUSED, found


@pytest.mark.parametrize("options", [UNPRIVILEGED, "--user 0:0"])
def test_a_container_reaches_no_process_and_no_system_file(node: Node, targets: Sequence[str], options: str) -> None:
    """Even if it sees all processes and has the node's ``/usr``, and if it is docker's root."""
    mounts = "-v /usr:/usr -v /tmp/breakout.py:/tmp/breakout.py:ro"
    alone = f"docker run --rm {options} {mounts} --entrypoint /usr/bin/env {IMAGE}"
    seeing = alone.replace("--rm", "--rm --pid host")
    found = tried(node, seeing, ["trace:own", *targets])
    assert found.pop("trace:own") == "allowed"
    assert set(found.values()) <= REFUSED, found
    if options != UNPRIVILEGED:
        assert found["write:/usr/x"] == "EROFS", "nothing else stands in its way"
    processes = "import os; print(*[name for name in os.listdir('/proc') if name.isdigit()])"
    assert node.ask(f"{alone} python3 -Ic {shlex.quote(processes)}", START_S).split() == ["1"]


def test_every_setting_of_the_kernel_is_in_force(cluster: Cluster) -> None:
    settings = on_all(
        cluster,
        "grep -h '^[a-z]' /usr/lib/sysctl.d/60-flotilla.conf; echo; grep -ho '^[a-z][^ ]*' /usr/lib/sysctl.d/60-flotilla.conf | sudo xargs sysctl",
    )
    for text in settings:
        wanted, found = ([" ".join(line.split()) for line in part.splitlines()] for part in text.split("\n\n"))
        assert found == wanted
        assert "kernel.kexec_load_disabled = 1" in wanted


def test_fleet_has_next_to_no_capabilities(node: Node) -> None:
    pid = node.check("systemctl show --property MainPID --value fleet.service").strip()
    status = dict(line.split(":\t") for line in node.root(f"cat /proc/{pid}/status").out.splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (1 << 2, 1 << 2)  # CAP_DAC_READ_SEARCH
    assert status["Seccomp"].strip() == "2"
    assert status["NoNewPrivs"].strip() == "1"


def test_no_package_manager_and_no_perl(node: Node) -> None:
    assert node.run("command -v perl dpkg apt-get apt adduser").out == ""


@pytest.mark.needs("memory")
def test_docker_base(cluster: Cluster) -> None:
    """Row 18 of the suite, docker.base: limits reach the kernel's control groups."""
    node = cluster.nodes[0]
    running(node, "limited", "--memory 100m --pids-limit 50 --cpu-shares 512")
    group = (
        node.root("cat /proc/$(docker inspect --format '{{.State.Pid}}' limited)/cgroup").out.strip().partition("::")[2]
    )
    assert node.root(f"cat /sys/fs/cgroup{group}/memory.max").out.strip() == str(100 << 20)
    assert node.root(f"cat /sys/fs/cgroup{group}/pids.max").out.strip() == "50"
    driver = node.root("docker info --format '{{.Driver}} {{.CgroupVersion}} {{.LiveRestoreEnabled}}'").out.split()
    assert driver == ["overlay2", "2", "true"]
