"""The node as it is released: small enough, with nothing in it that a node has no use for, everything that it has, and
it boots.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from builder.cli import run
from builder.core import data
from builder.debian.tools import Tools
from builder.definition import definition
from builder.finish.modules import canonical
from builder.pipeline.build import build_image
from builder.pipeline.order import Settings
from cluster.lifecycle.up import Options, up
from terminal import Phases

pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

NAME = "vm-tests-release"

ABSENT = (
    # package managers, perl and what is written in it
    *(
        "*bin/perl*",
        "*bin/dpkg*",
        "*bin/apt*",
        "*/adduser",
        "*/deluser",
        "*/debconf*",
        "*/perl5",
        "etc/apt",
        "var/lib/dpkg",
    ),
    # what people read elsewhere
    *("usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/i18n", "usr/lib/locale/[!C]*"),
    *("*/changelog*", "*/README*", "*/examples", "usr/share/bash-completion", "usr/share/zoneinfo/*"),
    # what builds programs, and kernels' ways to build initrds
    *("usr/include", "*.a", "*.la", "*.h", "usr/share/initramfs-tools", "boot/*"),
    *("*/idlelib", "*/ensurepip", "*/tkinter", "*/lib2to3", "*/turtledemo", "*/pydoc_data", "*/python3*/test"),
    # containerd's extras, and etcd's second tool
    *("*/ctr", "*/containerd-stress", "*/containerd-shim", "*/containerd-shim-runc-v1", "*/etcdutl"),
    # modules: none packed, none of desks, laboratories, and of the other end of a storage protocol
    *(
        "*.ko.xz",
        "*/drivers/gpu",
        "*/sound",
        "*/drivers/media",
        "*/drivers/comedi",
        "*/drivers/target",
        "*/net/wireless",
    ),
    *("usr/lib/firmware", "usr/lib/udev/hwdb.d"),
)
"""Shell patterns that no path of the root matches."""

PRESENT = (
    *("usr/sbin/dockerd", "usr/bin/docker", "usr/bin/docker-init", "usr/sbin/docker-proxy", "usr/bin/containerd"),
    *("usr/bin/containerd-shim-runc-v2", "usr/sbin/runc", "usr/bin/etcd", "usr/bin/etcdctl", "usr/bin/fleetctl"),
    *("usr/bin/bash", "usr/bin/python3.13", "usr/bin/openssl", "usr/bin/busybox", "usr/sbin/nft", "usr/bin/ssh"),
    *(
        "usr/lib/python3.13/unittest/case.py",
        "usr/lib/python3.13/asyncio/runners.py",
        "etc/ssl/certs/ca-certificates.crt",
    ),
    *("usr/share/doc/docker.io/copyright", "usr/lib/locale/C.utf8/LC_CTYPE", "usr/share/terminfo/x/xterm-256color"),
)

UNPACKED = ("usr/lib/python3", "usr/share/doc/")
"""Below these, names such as README are data of a program, or licences."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release build. It held its budget: there would be none otherwise.

    What waits in the archive today is not looked up here.
    """
    output = tmp_path_factory.mktemp("release") / "node"
    return build_image(
        Settings(output=output, release=True, outdated="ignore", phases=Phases(sys.__stderr__))
    ).directory


@pytest.fixture(scope="module")
def paths(release: Path) -> frozenset[str]:
    """Every path of its root."""
    tools = Tools.ours()
    command = [*tools.command("unsquashfs"), "-l", "-d", "", str(release / "root.img")]
    done = subprocess.run(command, env=tools.environment("unsquashfs"), capture_output=True, text=True, check=True)
    return frozenset(line.removeprefix("/") for line in done.stdout.splitlines() if line.startswith("/"))


def test_root_kernel_and_initrd_hold_their_budget(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {path.name: path.stat().st_size for path in release.iterdir()}
    assert sizes["root.img"] < 121_000_000
    assert sizes["vmlinuz"] + sizes["initrd.img"] < 18_000_000
    assert run(["budget", "--json", str(release)]) == 0
    parts = {part["part"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts["root"]["limit"] <= 121_000_000
    assert parts["boot"]["limit"] <= 18_000_000
    # So that a fresh clone can say which package grew.
    assert all(part["grown"] is not None for part in parts.values()), "osbuild budget --accept DIR, and commit"


def test_what_no_program_on_a_node_uses_is_not_there(paths: frozenset[str]) -> None:
    found = [path for path in paths if not path.startswith(UNPACKED) and any(fnmatch(path, each) for each in ABSENT)]
    assert sorted(found) == []
    assert {path.rpartition("/")[2] for path in paths if re.match(r"usr/share/doc/[^/]+/", path)} == {"copyright"}


def test_what_a_node_is_for_is_there(paths: frozenset[str]) -> None:
    assert sorted(set(PRESENT) - paths) == []


def test_every_group_of_modules_is_there(paths: frozenset[str]) -> None:
    node = definition.load(data.image() / "node.yaml")
    assert node.kernel is not None
    modules = {path for path in paths if path.startswith("usr/lib/modules/")}
    names = {canonical(path.rpartition("/")[2]) for path in modules if path.endswith(".ko")}
    for group in ("virtual machines", "disks", "network cards", "device mapper", "file systems", "docker's netfilter"):
        wanted = {canonical(name) for name in node.kernel.modules[group] if not set("*/") & set(name)}
        # The build fails for a name that is neither a module nor built in; so what is not a file here is built in.
        assert len(wanted & names) > len(wanted) / 2, group
    assert {
        "virtio_blk",
        "virtio_net",
        "nvme",
        "ahci",
        "e1000e",
        "dm_verity",
        "overlay",
        "nf_conntrack",
        "veth",
    } <= names
    assert len(names) < 600, "a pattern in kernel.modules has become greedy"


def test_it_boots_to_a_healthy_node(release: Path) -> None:
    cluster = up(Options(size=1, name=NAME, image=release), Phases(sys.__stderr__)).cluster
    try:
        node = cluster.nodes[0]
        assert node.check("systemctl --failed --no-legend --plain").strip() == ""
        assert node.check("docker info --format '{{.Driver}}'").strip().startswith("overlay")
        assert "is healthy" in node.run("etcdctl endpoint health 2>&1").out
        # What etcdutl would do, etcdctl does.
        node.check("etcdctl snapshot save /tmp/s && etcdctl snapshot restore /tmp/s --data-dir /tmp/restored")
    finally:
        cluster.remove()
