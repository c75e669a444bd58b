"""A computer of the test's own with libvirt's daemons on it: namespaces of Linux, so that nothing of the real one's
network is touched.

It has its own network (a loopback card, what libvirt adds, and no way out), processes, ``/run``, ``/sys``, ``/etc`` and
``/var``; what is written there is in a folder of the test or in memory. Nothing of Debian's packages has to be started
or configured: only their programs are used. It ends with the test, and with the test's process if that is killed: all
processes on it go with its first one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The first process: whoever's standard input it has, lives as long as that. It takes in orphans, as init does (bash
# waits for all its children).
_INIT: Final = """\
set -eu
folder=$1
for part in cache lib log tmp; do
    mkdir -p "$folder/$part"
    mount --bind "$folder/$part" "/var/$part"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t sysfs sysfs /sys
mkdir -p /run/lock /run/etc/new /run/etc/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/new,workdir=/run/etc/work overlay /etc
mkdir -p /etc/libvirt /run/libvirt /var/cache/libvirt /var/lib/libvirt /var/log/libvirt
# The account that the package for a whole machine makes: libvirtd looks it up, whatever its configuration says.
grep -q ^libvirt-qemu: /etc/passwd || echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin >>/etc/passwd
grep -q ^libvirt-qemu: /etc/group || echo libvirt-qemu:x:64055: >>/etc/group
grep -q ^kvm: /etc/group || echo kvm:x:64056: >>/etc/group
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
END
cat >/etc/libvirt/libvirtd.conf <<END
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
END
ip link set lo up
virtlogd --daemon
libvirtd --daemon
echo ready
while read -r _; do :; done
"""


@dataclass(frozen=True)
class Computer:
    """It runs; ``first`` is the real number of its first process."""

    first: int

    def run(
        self, *words: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there, in this process' folder. Standard error comes with the output."""
        enter = ["nsenter", "--target", str(self.first), "--mount", "--net", "--pid", "--ipc"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return subprocess.run(
            [*enter, "env", f"--chdir={Path.cwd()}", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def cards(self) -> list[str]:
        """The names of its network cards, sorted."""
        lines = self.run("ip", "-brief", "link").stdout.splitlines()
        return sorted(line.split()[0].partition("@")[0] for line in lines)

    def processes(self) -> list[str]:
        """The names of the programs that run there, sorted; without the ones that list them."""
        return sorted(set(self.run("ps", "-e", "-o", "comm=").stdout.split()) - {"ps"})


@contextmanager
def computer(folder: Path) -> Iterator[Computer]:
    """Switch it on; ``folder`` takes what is written below ``/var``."""
    folder.mkdir()
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *own, "--mount", "--net", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child"]
    with (folder / "errors").open("w+") as errors:
        process = subprocess.Popen(
            [*unshare, "bash", "-c", _INIT, "init", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            assert said == "ready", (folder / "errors").read_text()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield Computer(int(children))
        finally:
            process.kill()
            process.communicate()
