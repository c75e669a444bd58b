"""User-data of every kind on real nodes, from the first boot to the second: rows 19, 20 and 28 of the suite.

Four nodes that are no cluster, each with user-data of another kind, booted together once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from cloudconfig.host import seed
from cluster.client.node import Node
from cluster.lifecycle.up import Options
from terminal import Failure

from .conftest import SETTLED_S, prepared, remove, settle, until

pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

NAME: Final = "vm-tests-cloudinit"
BASIC: Final = """\
#cloud-config
hostname: "basic"
ssh_authorized_keys:
  - KEY
write_files:
  - path: /etc/flotilla/written
    permissions: "0640"
    content: |
      at ADDRESS
users:
  - name: elroy
    groups: [docker]
    ssh_authorized_keys:
      - KEY
coreos:
  units:
    - name: counted.service
      command: start
      content: |
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        StateDirectory=counted
        ExecStart=/bin/sh -c 'echo run >> /var/lib/counted/boots'
    - name: docker.service
      drop-ins:
        - name: 50-limit.conf
          content: |
            [Service]
            TasksMax=4321
"""
SCRIPT: Final = """\
#!/bin/bash
mkdir -p /var/lib/script
echo "run as $(id -un)" >> /var/lib/script/said
"""
MULTIPART: Final = """\
Content-Type: multipart/mixed; boundary="==part=="
MIME-Version: 1.0

--==part==
Content-Type: text/cloud-config; charset="utf-8"

#cloud-config
hostname: "multipart"

--==part==
Content-Type: text/x-shellscript; charset="utf-8"

#!/bin/sh
echo second > /run/multipart-said
--==part==--
"""
BROKEN: Final = """\
#cloud-config
hostname: "broken"
ssh_authorized_keys:
  - KEY
write_files:
  - path: [this, is, no, path
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """basic, script, multipart, broken."""
    remove(NAME)
    try:
        cluster = prepared(Options(size=4, name=NAME, memory_mib=768))
        key = cluster.layout.key.with_suffix(".pub").read_text().strip()
        for node, text in zip(cluster.nodes, (BASIC, SCRIPT, MULTIPART, BROKEN), strict=True):
            # Not by the template: what renders it would not let the broken one through.
            user_data = text.replace("KEY", key).replace("ADDRESS", node.address)
            seed.make(node.folder / "cidata.iso", user_data, seed.meta_data(f"{NAME}-{node.number}", node.name))
        for node in cluster.nodes:
            node.start()
        settle(*cluster.nodes)
        yield cluster.nodes
    finally:
        remove(NAME)


def status(node: Node) -> dict[str, object]:
    """What became of the user-data."""
    found: dict[str, object] = json.loads(node.root("cat /run/cloudconfig/status.json").out)
    return found


def test_cl_cloudinit_basic(nodes: list[Node]) -> None:
    """cl.cloudinit.basic: hostname, keys, files, users, units and drop-ins."""
    basic = nodes[0]
    assert status(basic)["result"] == "done"
    assert basic.root("hostname").out.strip() == "basic"
    assert basic.root("cat /etc/flotilla/written").out == f"at {basic.address}\n"
    assert basic.root("stat -c %a /etc/flotilla/written").out.strip() == "640"
    assert "docker" in basic.root("id -nG elroy").out.split()
    assert basic.root("stat -c '%U %a' /home/elroy/.ssh/authorized_keys").out.strip() == "elroy 600"
    assert basic.root("systemctl is-active counted.service").out.strip() == "active"
    assert basic.root("systemctl show -P TasksMax docker.service").out.strip() == "4321"
    assert basic.root("systemctl --failed --no-legend --plain").out == ""


def test_cl_cloudinit_script(nodes: list[Node]) -> None:
    """cl.cloudinit.script."""
    until("the script has run", lambda: nodes[1].root("cat /var/lib/script/said").out == "run as root\n", 60)


def test_cl_cloudinit_multipart_mime(nodes: list[Node]) -> None:
    """cl.cloudinit.multipart-mime: both parts."""
    assert nodes[2].root("hostname").out.strip() == "multipart"
    until("the script has run", lambda: nodes[2].root("cat /run/multipart-said").out == "second\n", 60)


def test_user_data_that_is_broken_harms_nothing(nodes: list[Node]) -> None:
    """Nothing of it is applied but the name and the keys, the console and the status say why, and the node is up."""
    broken = nodes[3]
    assert status(broken)["result"] == "degraded"
    assert "line 6" in json.dumps(status(broken)), "where a bracket is opened that is never closed"
    assert broken.root("hostname").out.strip() == "broken"
    assert broken.root("systemctl is-active sshd.service ssh.service ssh.socket | grep -x active").rc == 0
    assert "ssh-ed25519" in broken.root("cat /home/core/.ssh/authorized_keys").out
    assert "cloudconfig" in broken.console_tail(400)


def test_ignition_once(nodes: list[Node]) -> None:
    """coreos.ignition.once, and autopkgtest's reboot marks: the second boot finds what the first made, and the same
    machine.
    """
    basic, script = nodes[:2]
    before = {node.name: facts(node) for node in (basic, script)}
    machines = {node.name: node.root("cat /etc/machine-id").out for node in nodes}
    assert len(set(machines.values())) == 4
    for node in (basic, script):
        node.root("systemctl reboot --no-block")
    for node in (basic, script):
        until(
            f"{node.name} is another boot",
            partial(is_another_boot, node, before[node.name]["boot"]),
            SETTLED_S,
        )
        settle(node)
        assert node.root("cat /etc/machine-id").out == machines[node.name]
    assert basic.root("cat /etc/flotilla/written").out == f"at {basic.address}\n"
    assert basic.root("cat /var/lib/counted/boots").out == "run\nrun\n", "a unit is started on every boot"
    assert script.root("cat /var/lib/script/said").out == "run as root\n", "a script runs once an instance"
    assert basic.root("hostname").out.strip() == "basic"
    assert facts(basic)["keys"] == before["node-1"]["keys"], "its ssh host keys are the same"


def facts(node: Node) -> dict[str, str]:
    """What differs between boots, and what does not; empty while the node is between two."""
    try:
        answer = node.root("cat /proc/sys/kernel/random/boot_id; cat /etc/ssh/ssh_host_*_key.pub")
    except Failure:
        return {}
    boot, _, ssh_keys = answer.out.partition("\n")
    return {"boot": boot, "keys": ssh_keys}


def is_another_boot(node: Node, boot: str) -> bool:
    """Whether the node is up, and not in the boot of this id."""
    return facts(node).get("boot", boot) != boot
