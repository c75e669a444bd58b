"""Where the secrets of user-data do not turn up: a canary in each place that may hold one, and then a search of all
that others can read.

Two nodes whose user-data comes from the metadata service, so that the second could ask for the first one's. Snapshots
hold secrets, since memory does: tests/cluster/test_snapshot.py.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from cloudconfig.host.render import default_template
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.preflight import IMAGE_FILES
from cluster.lifecycle.up import Options, up
from cluster.testing.plugin import clusters_of
from terminal import Phases

from .conftest import remove, until

pytestmark = pytest.mark.needs()

NAME: Final = "vm-tests-secrets"
TOP: Final = """\
{% if node.index == 1 %}
chpasswd: {expire: false, users: [{name: core, password: CANARY-password, type: text}]}
runcmd: [[sh, -c, "test -n CANARY-command && touch /run/ran"]]
bootcmd: ["test -n CANARY-boot"]
phone_home: {url: "http://127.0.0.1:9/CANARY-home", tries: 1}
docker: {credentials: [{registry: registry.example.org, username: u, password: CANARY-registry}]}
{% endif %}
write_files:
{% if node.index == 1 %}
  - {path: /etc/app/key, permissions: "0600", content: CANARY-file}
{% endif %}
"""
PASSWORD: Final = r"""-%H"$x`\'"""
"""What follows the canary in fleet's password: all that some quoting could change."""
FLEET: Final = f"""\
  fleet:
    etcd_username: fleet
    etcd_password: '{{% if node.index == 1 %}}CANARY{PASSWORD.replace("'", "''")}{{% endif %}}'
"""


METADATA: Final = """\
import http.client, sys
service = http.client.HTTPConnection("169.254.169.254", timeout=3, source_address=(sys.argv[1], 0))
service.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
token = service.getresponse().read().decode()
service.request("GET", "/latest/user-data", headers={"X-aws-ec2-metadata-token": token})
print(service.getresponse().read().decode())
"""


def asking(address: str) -> str:
    """A command that prints the user-data that the metadata service has for who asks from ``address``."""
    return f"python3 -I -S -c {shlex.quote(METADATA)} {address}"


class World(NamedTuple):
    """Two nodes, healthy; ``canary`` is in all secrets of the first, ``token`` is that of their discovery URL.

    ``built``: the files of the image from before they booted it, by name.
    """

    cluster: Cluster
    canary: str
    token: str
    built: dict[str, str]


def hashes(image: Path) -> dict[str, str]:
    """Of the files that a node boots, which are compressed."""
    found = {}
    for name in IMAGE_FILES:
        with (image / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@pytest.fixture(scope="module")
def world(image: Path, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The packaged template, and secrets in it."""
    canary = f"canary{secrets.token_hex(8)}"
    template = folder / "secrets.yaml.j2"
    text = default_template().replace("write_files:\n", TOP, 1).replace("  fleet:\n", FLEET, 1)
    template.write_text(text.replace("CANARY", canary))
    built = hashes(image)
    remove(NAME)
    try:
        driver = clusters_of(request.config).driver(request.node)
        options = Options(size=2, name=NAME, image=image, user_data=template, driver=driver, datasource="ec2")
        cluster = up(options, Phases(sys.__stderr__)).cluster
        until("its own commands ran", lambda: cluster.nodes[0].root("test -e /run/ran").rc == 0, 60, 0.2)
        yield World(cluster, canary, cluster.description.token, built)
    finally:
        remove(NAME)


@pytest.fixture
def node(world: World) -> Node:
    """The one with secrets."""
    return world.cluster.nodes[0]


def outside(node: Node, command: str, *words: str) -> list[str]:
    """Lines with one of ``words`` of what an account without any rights sees by ``command``, which names none of them:
    it is seen, too.
    """
    said = node.root(f"setpriv --reuid=65534 --regid=65534 --clear-groups sh -c {shlex.quote(command)} 2>/dev/null")
    return [line for line in re.split("[\n\0]", said.out) if any(word in line for word in words)]


def test_services_have_them(node: Node, world: World) -> None:
    """Otherwise it would prove nothing that no account finds them."""
    variables = node.ask("tr '\\0' '\\n' </proc/$(systemctl show fleet -P MainPID)/environ").splitlines()
    assert f"FLEET_ETCD_PASSWORD={world.canary}{PASSWORD}" in variables
    assert world.token in node.ask("cat /run/cloudconfig/etcd.env")
    assert node.ask("cat /etc/app/key") == f"{world.canary}-file"


def test_any_account_asks_systemd(node: Node, world: World) -> None:
    command = 'systemctl show "*"; systemctl cat "*"; systemctl show-environment; systemctl status "*"'
    assert outside(node, command, "Id=fleet.service"), "it may ask"
    assert outside(node, command, world.canary, world.token) == []


def test_any_account_looks_at_processes(node: Node, world: World) -> None:
    command = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
    assert outside(node, command, "fleetd"), "it may look"
    assert outside(node, command, world.canary, world.token) == []


def test_any_account_reads_files(node: Node, world: World) -> None:
    command = "find /etc /run /var /tmp /home -type f -size -2048k -exec cat {} +"
    assert outside(node, command, f"{node.name}"), "it may read"
    assert outside(node, command, world.canary, world.token) == []


def test_the_journal_and_the_console(node: Node, world: World) -> None:
    journal = node.ask("journalctl --no-pager -o verbose")
    assert "fleetd" in journal
    assert world.canary not in journal
    assert world.token not in journal
    assert world.canary not in node.console_log.read_text(errors="replace")


def test_etcd(node: Node, world: World) -> None:
    printed = node.ask("etcdctl get '' --from-key")
    assert "machines" in printed
    assert world.canary not in printed
    assert world.token not in printed


def test_the_image(node: Node, world: World, image: Path) -> None:
    """Neither what was built nor the cluster's copy, whose files are the same, has changed; and it holds no canary."""
    assert hashes(image) == hashes(world.cluster.layout.image) == world.built
    assert node.root("grep -rqs 'Flotilla' /usr/lib/os-release", 300).rc == 0, "it can be searched"
    assert node.root(f"grep -rlsF --devices=skip -e {world.canary} -e {world.token} /usr", 300).out == ""


def test_another_node_asks_for_metadata(world: World) -> None:
    """Also when it takes the first one's address: the service knows nodes by their ports of the switch."""
    first, second = world.cluster.nodes
    assert world.canary in first.ask(asking(first.address))
    assert 'hostname: "node-2"' in (printed := second.ask(asking(second.address)))
    assert world.canary not in printed
    second.ask(f"ip address add {first.address}/24 dev $(basename $(ls -d /sys/class/net/e*))")
    assert world.canary not in second.root(asking(first.address)).out


def test_this_computer(world: World) -> None:
    """What the cluster keeps of it is for its owner alone."""
    top = world.cluster.layout.state
    disks = {"image", "state", "state.img"}
    kept = [path for path in top.rglob("*") if path.is_file() and disks.isdisjoint(path.relative_to(top).parts)]
    holding = [path for path in kept if world.canary.encode() in path.read_bytes()]
    assert {path.name for path in holding} <= {"user-data", "cidata.iso", "cluster.json"}
    assert [path for path in (top, *holding) if path.stat().st_mode & 0o077] == []
