#!/usr/bin/env python3
"""How long one node takes to boot, against the same packages installed the conventional way, under the same QEMU.

* **ours**: the image of ``osbuild``, in the machine that ``cluster up 1`` starts.
* **conventional**: mmdebstrap of the same packages in the same versions (bench/rivals.py) with initramfs-tools' initrd,
  cloud-init and an ext4 root, given the same user-data on the same kind of seed; kernel and initrd are handed to QEMU
  as ours are. Its services are what Debian's packages enable.
* **as a cluster's node**: ours with the user-data of ``cluster up 1``, which has etcd and fleet start, too; to that
  there is no peer.

Both: one processor, 1 GiB, two virtio network cards less one, emulated unless KVM runs. Measured from the start of QEMU
to multi-user.target on the console, and to the word that user-data was applied; CPU seconds are QEMU's, which other
programs on the computer stretch less. The critical chain of each is what its own systemd-analyze says (--chain). Needs
root, for mmdebstrap's devices and mke2fs of a tree with owners.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import rivals
from bench.filesystem import cpu_seconds, ended
from bench.report import machine, report, spread
from builder.check import mmdebstrap
from builder.core import data
from builder.core.store import Store
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools
from cloudconfig.host import seed
from cluster.lifecycle.up import Options, built, prepare
from terminal import Phases

NAME = "bench-boot"
PATIENCE_S = 900.0
REACHED, APPLIED = b"multi-user.target", b"user-data applied"
USER_DATA = """\
#cloud-config
hostname: node-1
ssh_authorized_keys:
  - {key}
write_files:
  - path: /etc/flotilla/node.json
    content: |
      {{"v": 1, "name": "node-1"}}
final_message: "user-data applied"
"""
DISK_BYTES = 4 << 30
CHAIN = "systemctl is-system-running --wait; systemd-analyze critical-chain --no-pager multi-user.target"


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="times that each boots (default: 1)")
    parser.add_argument("--chain", action="store_true", help="print our critical chain, too")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="a folder for the conventional image (default: TMPDIR)"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("the conventional image is made by mke2fs of a tree with owners: run this as root", file=sys.stderr)
        return 1
    rivals.install("mmdebstrap")
    facts = machine()
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    nodes: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-boot-", dir=arguments.work) as name:
        work = Path(name)
        command = conventional_machine(work)
        template = work / "user-data.j2"
        template.write_text(USER_DATA.format(key="{{ ssh_authorized_keys[0] }}"))
        for _ in range(arguments.repeat):
            ours.append(our_boot(template, chain=arguments.chain))
            nodes.append(our_boot())
            theirs.append(boot(command(), work / "console.log", [REACHED, APPLIED]))
    rows = [
        [
            what,
            spread([each[what] for each in ours]),
            spread([each[what] for each in theirs]),
            ratio(ours, theirs, what),
            spread([each[what] for each in nodes]),
        ]
        for what in ours[0]
    ]
    names = ["one node", "ours", "conventional", "ours is", "as a cluster's node"]
    report(names, rows, {**facts, "ours": ours, "conventional": theirs, "cluster": nodes})
    return 0


def ratio(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]], what: str) -> str:
    """Our share of their time, over all rounds."""
    return f"{sum(each[what] for each in ours) / sum(each[what] for each in theirs):.2f}"


def our_boot(template: Path | None = None, *, chain: bool = False) -> dict[str, float]:
    """One boot of a cluster of one, given user-data of ``template`` (the packaged one)."""
    down()
    try:
        phases = Phases()
        cluster = prepare(built(Options(size=1, name=NAME, user_data=template), phases), phases)
        node = cluster.nodes[0]
        begin = time.monotonic()
        node.start()
        pid = cluster.status()["nodes"][0]["pid"]
        assert pid is not None
        found = watched(node.folder / "console.log", pid, begin, [REACHED])
        if chain:
            chain_of = node.root(CHAIN)
            print(chain_of.out, chain_of.err, file=sys.stderr)
        # Ours is applied long before that, and says so in its own log: when, by the node's clock.
        words = "systemctl show -P ExecMainExitTimestampMonotonic cloudconfig.service"
        applied = int(node.root(words).out) / 1e6
        return {**found, "user-data applied s": applied}
    finally:
        down()


def conventional_machine(work: Path) -> Callable[[], list[str]]:
    """Make the conventional image in ``work``; returns what makes a command line that boots it, on a fresh copy."""
    store = Store()
    tools = Tools.ours(store)
    image = data.image()
    node = mmdebstrap.together(Lock.load(image / "node.lock"), Lock.load(image / "comparison.lock"))
    whole = mmdebstrap.together(node, rivals.resolved(["cloud-init", "initramfs-tools"], tools, work / "apt"))
    rivals.write_archive(work / "archive", whole, store)
    tree = work / "tree"
    mmdebstrap.run(mmdebstrap.command(work / "archive", whole.packages, tree))
    (tree / "proc/cpuinfo").touch()  # mkinitramfs looks for /proc
    subprocess.run(["chroot", tree, "update-initramfs", "-u", "-k", "all"], check=True, stdout=sys.stderr)
    (tree / "etc/fstab").write_text("/dev/vda / ext4 rw 0 1\n")
    (tree / "etc/machine-id").write_text("")
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (initrd,) = (tree / "boot").glob("initrd.img-*")
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd.img")):
        (work / name).write_bytes(source.read_bytes())
    pristine = work / "pristine.img"
    with pristine.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, pristine], check=True)
    rivals.remove(tree)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "key"], check=True)
    seed.make(
        work / "cidata.iso",
        USER_DATA.format(key=(work / "key.pub").read_text().strip()),
        seed.meta_data("bench", "node-1"),
    )

    def command() -> list[str]:
        subprocess.run(["cp", "--sparse=always", pristine, work / "root.img"], check=True)
        words: list[object] = [
            *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "1024"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{work / 'console.log'}"),
            *("-kernel", work / "vmlinuz", "-initrd", work / "initrd.img"),
            # Its systemd has stopped showing status by then, so it reports as much in the kernel's log.
            *(
                "-append",
                "root=/dev/vda rw console=ttyS0 systemd.show_status=no systemd.log_target=kmsg printk.devkmsg=on",
            ),
            *("-drive", f"if=virtio,file={work / 'root.img'},format=raw,cache=unsafe"),
            *("-drive", f"if=virtio,file={work / 'cidata.iso'},format=raw,readonly=on"),
            *(
                "-netdev",
                "user,id=net,restrict=on",
                "-device",
                "virtio-net-pci,netdev=net",
                "-device",
                "virtio-rng-pci",
            ),
        ]
        return list(map(str, words))

    return command


def boot(command: Sequence[str], console: Path, signs: Sequence[bytes]) -> dict[str, float]:
    """Run a machine until its console has shown all ``signs``."""
    console.unlink(missing_ok=True)
    begin = time.monotonic()
    with ended(subprocess.Popen(command)) as process:
        return watched(console, process.pid, begin, signs)


def watched(console: Path, pid: int, begin: float, signs: Sequence[bytes]) -> dict[str, float]:
    """When each of ``signs`` came, on the wall and in CPU seconds of process ``pid``."""
    found: dict[str, float] = {}
    while True:
        said = console.read_bytes() if console.exists() else b""
        for sign in signs:
            if sign in said and f"{sign.decode()} s" not in found:
                found[f"{sign.decode()} s"] = time.monotonic() - begin
                found[f"{sign.decode()} CPU s"] = cpu_seconds(pid)
        if len(found) == 2 * len(signs):
            return found
        if time.monotonic() - begin > PATIENCE_S:
            sys.stderr.write(said[-3000:].decode("utf-8", "replace"))
            raise SystemExit(f"the console did not show {signs} within {PATIENCE_S:.0f} s")
        time.sleep(0.05)


def down() -> None:
    """As ``cluster-down --name bench-boot``."""
    command = [str(Path(sys.executable).parent / "cluster-down"), "--name", NAME]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
