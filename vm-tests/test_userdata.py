"""User-data in all its breadth on real nodes: what a host validates is what a node has.

The first half is one text with most keys on one node, in namespaces where those can run. The second half is what takes
a machine: disks, swap, the card, and what a reboot changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec

import pytest

from builder.debian.tools import Tools
from cloudconfig.check import validate
from cloudconfig.host import seed
from cloudconfig.text import finding
from cluster.client.node import Node
from cluster.lifecycle.up import Options
from cluster.model.machine import cluster_mac
from cluster.testing.plugin import clusters_of

from .conftest import SETTLED_S, prepared, remove, settle, until
from .firmware import MAC, Machine, direct, drive

Fixtures = ParamSpec("Fixtures")

NAME: Final = "vm-tests-userdata"
HASH: Final = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
"""Of a password, by yescrypt."""

# --- most keys on one node -------------------------------------------------------------------------------------------

WIDE: Final = """\
## template: jinja
#cloud-config
hostname: {{ v1.local_hostname }}
fqdn: {{ ds.meta_data['local-hostname'] }}.example.org
manage_etc_hosts: true
ssh_authorized_keys: ["KEY"]
groups: [crew, {staff-of-ops: [ops]}]
users:
  - default
  - name: core
    groups: [wheel]
    ssh_authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl second"]
  - name: ops
    groups: [ops, docker]
    sudo: ALL=(ALL) NOPASSWD:/usr/bin/id
    expiredate: '2037-01-01'
    ssh_authorized_keys: ["KEY"]
  - name: operator
    lock_passwd: true
chpasswd:
  expire: false
  users: [{name: ops, password: HASH}]
timezone: Etc/UTC
locale: C.UTF-8
ntp: {servers: [10.77.0.1]}
mounts: [[tmpfs, /var/scratch, tmpfs, "size=16M"]]
bootcmd:
  - echo boot >>/var/lib/booted
  - [cloud-init-per, once, first, sh, -c, "echo once >>/var/lib/booted"]
runcmd:
  - [sh, -c, "echo ran >>/var/lib/ran"]
phone_home: {url: "http://127.0.0.1:8099/", tries: 30, post: [hostname, instance_id]}
final_message: all is up after $uptime s
docker:
  registry_mirrors: ["https://mirror.example.org"]
  credentials: [{registry: registry.example.org, username: u, password: p}]
write_files:
  - path: /etc/addresses
    content: '$private_ipv4 \\$private_ipv4 $public_ipv4'
  - {path: /home/core/.ssh/authorized_keys, content: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl file\\n"}
  - {path: /home/ops/note, owner: "ops:ops", defer: true, content: x}
coreos:
  etcd2:
    name: "%H"
    advertise_client_urls: http://$private_ipv4:2379
  units:
    - name: 10-card.network
      content: |
        [Match]
        MACAddress=CARD

        [Network]
        Address=$private_ipv4/24
    - name: catcher.service
      command: start
      content: |
        [Service]
        ExecStart=/usr/bin/python3 -I -S -c "import http.server as h\\nclass C(h.BaseHTTPRequestHandler):\\n def do_POST(s):\\n  open('/var/lib/called','wb').write(s.rfile.read(int(s.headers['Content-Length']))); s.send_response(200); s.end_headers()\\nh.HTTPServer(('127.0.0.1',8099),C).serve_forever()"
    - name: environment.service
      command: start
      content: |
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        EnvironmentFile=/etc/environment
        ExecStart=/bin/sh -c 'echo $COREOS_PRIVATE_IPV4 %m >/run/environment'
"""


@pytest.fixture(scope="module")
def node(image: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """The one with that text, which validates for this image, and with its address in the meta-data."""
    remove(NAME)
    try:
        options = Options(size=1, name=NAME, image=image, driver=clusters_of(request.config).driver(request.node))
        cluster = prepared(options)
        (node,) = cluster.nodes
        key = cluster.layout.key.with_suffix(".pub").read_text().strip()
        text = WIDE.replace("KEY", key).replace("HASH", HASH).replace("CARD", cluster_mac(node.number))
        assert not finding.errors(validate.validate(text.encode()))
        meta = f"instance-id: wide-1\nlocal-hostname: wide\nlocal-ipv4: {node.address}\n"
        seed.make(node.folder / "cidata.iso", text, meta)
        node.start()
        settle(node)
        yield node
    finally:
        remove(NAME)


def lines(node: Node, command: str) -> list[str]:
    """What ``command`` prints as root; it must succeed."""
    return node.ask(command).splitlines()


wide = pytest.mark.needs()


@wide
def test_all_of_it_is_applied(node: Node) -> None:
    status = json.loads(node.ask("cat /run/cloudconfig/status.json"))
    assert (status["result"], status["errors"], status["instance_id"]) == ("done", [], "wide-1")
    assert lines(node, "systemctl --failed --no-legend --plain") == []


@wide
def test_names_come_from_the_template(node: Node) -> None:
    assert lines(node, "hostname") == ["wide"]
    assert "127.0.1.1 wide.example.org wide" in [" ".join(line.split()) for line in lines(node, "cat /etc/hosts")]


@wide
def test_accounts_groups_and_keys(node: Node) -> None:
    assert {"core", "wheel"} <= set(node.ask("id -nG core").split())
    assert {"ops", "docker", "staff-of-ops"} <= set(node.ask("id -nG ops").split())
    node.ask("getent group crew operator && id operator")
    keys = [line for line in lines(node, "cat /home/core/.ssh/authorized_keys") if line.startswith("ssh-ed25519")]
    assert len(keys) == 3, "of the text, of its users, and of the file that it writes there"
    assert {key.split()[2] for key in keys} >= {"second", "file"}
    assert lines(node, "stat -c '%U %a' /home/ops/.ssh/authorized_keys /home/ops/note") == ["ops 600", "ops 644"]
    hash_, *_, expires, _ = node.ask("getent shadow ops").strip().split(":")[1:]
    assert hash_ == HASH
    assert expires == "24472", "days from 1970 to 2037"
    assert node.ask("getent shadow operator").split(":")[1].startswith("!")
    assert node.root("sudo -u ops sudo -n id -u").out.strip() == "0"
    assert node.root("sudo -u ops sudo -n true").rc != 0


@wide
def test_addresses_are_the_nodes(node: Node) -> None:
    assert node.ask("cat /etc/addresses") == f"{node.address} $private_ipv4 {node.address}"
    machine = node.ask("cat /etc/machine-id").strip()
    assert lines(node, "cat /run/environment") == [f"{node.address} {machine}"]
    etcd = node.ask("systemctl show etcd.service -p Environment")
    assert "ETCD_NAME=wide" in etcd
    assert f"ETCD_ADVERTISE_CLIENT_URLS=http://{node.address}:2379" in etcd


@wide
def test_services_are_set_up(node: Node) -> None:
    daemon = json.loads(node.ask("cat /etc/docker/daemon.json"))
    assert daemon["registry-mirrors"] == ["https://mirror.example.org"]
    assert daemon["storage-driver"] == "overlay2", "what the image says is still there"
    for home, owner in (("/root", "root"), ("/home/core", "core")):
        assert lines(node, f"stat -c '%U %a' {home}/.docker/config.json") == [f"{owner} 600"]
    assert "10.77.0.1" in node.ask("cat /etc/systemd/timesyncd.conf.d/*.conf")
    assert lines(node, "readlink /etc/localtime") == ["/usr/share/zoneinfo/Etc/UTC"]
    assert lines(node, "findmnt -no FSTYPE /var/scratch") == ["tmpfs"]


@wide
def test_what_runs_ran_and_a_caller_heard_of_it(node: Node) -> None:
    assert lines(node, "cat /var/lib/booted") == ["boot", "once"]
    until("the last step is over", lambda: node.root("test -s /var/lib/called").rc == 0, SETTLED_S)
    assert node.ask("cat /var/lib/called") == "hostname=wide&instance_id=wide-1"
    assert lines(node, "cat /var/lib/ran") == ["ran"]
    said = "journalctl -b -u cloudconfig-final -o cat"
    until("the last words are said", lambda: "all is up after" in node.root(said).out, SETTLED_S)


@wide
def test_a_second_boot_runs_what_is_for_each_boot_and_nothing_else(node: Node) -> None:
    keys = node.ask("cat /home/core/.ssh/authorized_keys")
    node.reboot()
    settle(node)
    assert json.loads(node.ask("cat /run/cloudconfig/status.json"))["result"] == "done"
    assert lines(node, "cat /var/lib/booted") == ["boot", "once", "boot"]
    assert lines(node, "cat /var/lib/ran") == ["ran"]
    assert node.ask("cat /home/core/.ssh/authorized_keys") == keys


# --- what takes a machine --------------------------------------------------------------------------------------------

DISKS: Final = """\
#cloud-config
hostname: disks
ssh_authorized_keys: ["KEY"]
disk_setup:
  /dev/disk/by-id/virtio-data:
    table_type: gpt
    layout: [60, [40, 82]]
  /dev/disk/by-id/virtio-precious: {table_type: gpt, layout: true}
fs_setup:
  - {device: /dev/disk/by-id/virtio-data, partition: 1, filesystem: ext4, label: data}
  - {device: /dev/disk/by-id/virtio-precious, filesystem: ext4, label: lost}
mounts: [[LABEL=data, /var/data, ext4, "defaults,nofail"]]
swap: {filename: /var/swapfile, size: 64M}
bootcmd: ["echo boot >>/var/lib/booted"]
runcmd: ["echo ran >>/var/lib/ran", "cp /etc/address /var/data/kept"]
power_state: {mode: reboot}
write_files:
  - {path: /etc/address, content: "$private_ipv4"}
coreos:
  units:
    - {name: docker.service, command: start}
"""
NETWORK: Final = f"""\
version: 2
ethernets:
  lan:
    match: {{macaddress: "{MAC}"}}
    addresses: [10.0.2.15/24, "fd00:77::15/64"]
    routes: [{{to: 0.0.0.0/0, via: 10.0.2.2}}]
    nameservers: {{addresses: [10.0.2.3], search: [example.org]}}
    mtu: 1400
"""
DISK_BYTES: Final = 512 << 20


@dataclass(frozen=True)
class Rebooted:
    """The machine in its second boot, and what its first one said."""

    machine: Machine
    first: str


def seed_of(folder: Path, text: str, key: Path, network: str = "") -> list[str]:
    """Words for QEMU: a disk with the seed."""
    text = text.replace("KEY", key.with_suffix(".pub").read_text().strip())
    assert not finding.errors(validate.validate(text.encode()))
    files: dict[str, bytes | str] = {"user-data": text, "meta-data": seed.meta_data("disks-1", "disks")}
    (folder / "cidata").write_bytes(seed.volume(files | ({"network-config": network} if network else {})))
    return drive("seed", folder / "cidata", "virtio-blk-pci,serial=cidata", writable=False)


@pytest.fixture(scope="module")
def rebooted(image: Path, folder: Path, key: Path) -> Iterator[Rebooted]:
    """Disks set up, switched off by ``power_state``, switched on again."""
    for name in ("data", "precious"):
        with (folder / name).open("wb") as file:
            file.truncate(DISK_BYTES)
    Tools.ours().run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "precious", str(folder / "precious"))
    devices = [
        *seed_of(folder, DISKS, key),
        *(
            word
            for name in ("data", "precious")
            for word in drive(name, folder / name, f"virtio-blk-pci,serial={name}")
        ),
    ]
    line = f"{(image / 'cmdline').read_text().strip()} flotilla.datasource=nocloud"
    with direct(image, image / "root.img", line, folder, key, devices, "first") as running:
        first = running.wait_until_off()
    with direct(image, image / "root.img", line, folder, key, devices, "second") as running:
        running.wait_for("disks login:")
        yield Rebooted(running, first)


def on_a_machine(test: Callable[Fixtures, None]) -> Callable[Fixtures, None]:
    """A test that only ``--full`` has time for."""
    return pytest.mark.full(pytest.mark.needs("disk", "machine")(test))


@on_a_machine
def test_an_empty_disk_is_partitioned_and_a_full_one_is_left_alone(rebooted: Rebooted) -> None:
    node = rebooted.machine
    found = json.loads(node.check("lsblk -bJo NAME,SERIAL,FSTYPE,LABEL,PARTTYPENAME,SIZE"))["blockdevices"]
    disks = {disk["serial"]: disk for disk in found if disk["serial"]}
    one, two = disks["data"]["children"]
    assert (one["fstype"], one["label"]) == ("ext4", "data")
    assert "swap" in two["parttypename"].lower()
    assert 0.55 < one["size"] / DISK_BYTES < 0.65
    assert (disks["precious"]["fstype"], disks["precious"]["label"]) == ("ext4", "precious")
    assert "children" not in disks["precious"]


@on_a_machine
def test_it_is_mounted_and_there_is_swap(rebooted: Rebooted) -> None:
    node = rebooted.machine
    assert node.check("findmnt -no SOURCE,FSTYPE /var/data").split()[1] == "ext4"
    assert "/var/swapfile" in node.check("cat /proc/swaps")
    assert node.check("sudo stat -c %a /var/swapfile").strip() == "600"


@on_a_machine
def test_its_address_came_by_dhcp_and_the_first_boot_knew_it(rebooted: Rebooted) -> None:
    node = rebooted.machine
    status = json.loads(node.check("cloudconfig status --wait --json"))
    assert (status["result"], status["errors"]) == ("done", [])
    assert node.check("cat /etc/address /var/data/kept") == "10.0.2.15" * 2


@on_a_machine
def test_power_state_acts_once_for_an_instance(rebooted: Rebooted) -> None:
    assert "login:" in rebooted.first
    node = rebooted.machine
    assert node.check("sudo cat /var/lib/booted /var/lib/ran").split() == ["boot", "boot", "ran"]
    assert node.check("systemctl --failed --no-legend --plain").strip() == ""


@on_a_machine
def test_network_config_comes_before_our_default(image: Path, tmp_path: Path, key: Path) -> None:
    text = '#cloud-config\nhostname: net\nssh_authorized_keys: ["KEY"]\n'
    devices = seed_of(tmp_path, text, key, NETWORK)
    line = f"{(image / 'cmdline').read_text().strip()} flotilla.datasource=nocloud"
    with direct(image, image / "root.img", line, tmp_path, key, devices) as running:
        running.wait_for("net login:")
        said = running.check("networkctl status --no-pager --lines=0 $(basename /sys/class/net/e*)")
        assert "Network File: /run/systemd/network/10-netcfg-lan.network" in said
        addresses = running.check("ip -br address; cat /sys/class/net/e*/mtu; ip route; resolvectl --no-pager")
        for word in ("10.0.2.15/24", "fd00:77::15/64", "1400", "default via 10.0.2.2", "10.0.2.3", "example.org"):
            assert word in addresses
        assert running.check("systemctl --failed --no-legend --plain").strip() == ""
