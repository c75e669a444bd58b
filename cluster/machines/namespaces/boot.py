"""The boot of one node in namespaces: ``python -I -S boot.py FILE DESCRIPTOR``.

It runs as root, with a parent-death signal (:mod:`cluster.machines.parent_death`).

FILE holds a :class:`Boot` as JSON, DESCRIPTOR is our end of a packet socket to the driver, which gets one JSON object a
packet: ``{"pid": N}`` is the node's PID 1 as this computer sees it; ``{"card": NAME}`` comes with two descriptors, of
the node's network card and of its network namespace; ``{"failed": WHAT}`` is the reason why there will be no node. The
socket is closed when systemd runs.

The process stays beside its node, as its parent, and ends as it does: with :data:`REBOOT` if the node wants to boot
again, with 0 if it switched itself off, else by the signal that ended it. If it dies, so does the node: the kernel
kills it (PR_SET_PDEATHSIG), and with PID 1 of a PID namespace all others of it end (pid_namespaces(7)).

The initrd's work on a machine (``image/initrd/init``) is done here: the root is the image's squashfs, read-only; /var
is the node's state, a folder of this computer; /etc is an overlay with its upper layer there. What systemd requires
from a container's manager is described at https://systemd.io/CONTAINER_INTERFACE. This is a script of its own, which
uses the standard library only: it becomes PID 1.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REBOOT = 75
"""Our exit code when the node called reboot(2); in a PID namespace that ends PID 1 by SIGHUP (reboot(2))."""

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x20000000, 0x40000000
"""sched.h"""
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_STRICTATIME = 4096, 16384, 1 << 18, 1 << 24
MNT_DETACH = 2
"""sys/mount.h"""
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
FORBIDDEN_CAPABILITIES = {
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_TIME": 25,
    "CAP_AUDIT_CONTROL": 30,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36,
    "CAP_AUDIT_READ": 37,
}
"""Capabilities that would change this computer, not the node.

They concern modules, hardware, clock, security policy, audit and kernel log.
"""
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFHWADDR = 0x8916, 0x891C, 0x8913, 0x8914, 0x8924
IFF_UP, ARPHRD_ETHER = 0x1, 1
CARD = "eth0"
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
}
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
TTY_GROUP = 5
"""Debian's "tty"."""
READ_ONLY = ("proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/acpi", "proc/fs")
WRITABLE = ("proc/sys/net",)
"""Of /proc: what belongs to this computer, and what of it belongs to the node's own network namespace."""


@dataclass(frozen=True)
class Boot:
    """One boot of one node. Paths are absolute, on this computer."""

    image: str
    """The root file system, squashfs or erofs."""
    root: str
    """An empty folder, where the node's root is mounted, in its own mount namespace only."""
    state: str
    """The folder that is the node's /var; filled if it is empty."""
    seed: str
    """The volume with its user-data."""
    command_line: str
    """What it finds in /proc/cmdline."""
    console: str
    shell: str
    """Terminals of this computer that are its console and the port of its root shell."""
    shell_port: str
    mac: str
    """Of its network card."""
    host_address: str
    """An address that leads to this computer: one of the node's own loopback, where the driver listens."""
    cgroup: str
    """Its control group (version 2), which exists."""


def main(file: str, descriptor: int) -> int:
    """Boot, and stay until that boot is over; returns the exit code."""
    boot = Boot(**json.loads(Path(file).read_text()))
    driver = socket.socket(fileno=descriptor)
    driver.set_inheritable(False)
    try:
        unshare(CLONE_NEWPID)
    except OSError as error:
        return fail(driver, error)
    start_the_clock_at_zero()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            become(boot, driver, parent)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            fail(driver, error)
        finally:
            os._exit(1)
    driver.send(json.dumps({"pid": child}).encode())
    driver.close()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    ended_by = os.WTERMSIG(status)
    if ended_by == signal.SIGHUP:
        return REBOOT
    if ended_by == signal.SIGINT:
        return 0
    if ended_by != signal.SIGKILL:
        signal.signal(ended_by, signal.SIG_DFL)
    os.kill(os.getpid(), ended_by)
    return 128 + ended_by


def become(boot: Boot, driver: socket.socket, parent: int) -> None:
    """Make the other namespaces and the node's root, and go on as its systemd.

    This is PID 1 of the new PID namespace. Raises OSError.
    """
    libc("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not Path(
        f"/proc/{parent}"
    ).exists():  # /proc is this computer's still; getppid(2) is 0 for a parent outside of the namespace
        raise OSError("the process that is to stay beside the node has died")
    Path(boot.cgroup, "cgroup.procs").write_text("0")
    unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP)
    libc("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    card = network(boot)
    with Path("/proc/thread-self/ns/net").open("rb") as namespace:
        socket.send_fds(driver, [json.dumps({"card": CARD}).encode()], [card, namespace.fileno()])
    os.close(card)
    root = Path(boot.root)
    mount_root(boot, root)
    mount_kernel_file_systems(boot, root)
    make_devices(boot, root / "dev")
    make_run(root / "run")
    pivot(root)
    for number in FORBIDDEN_CAPABILITIES.values():
        libc("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
    execute()


def network(boot: Boot) -> int:
    """Set up the new network namespace: a loopback that also leads to this computer, and an Ethernet card.

    Returns the card's descriptor.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        raise_interface(control, "lo")
        interface_call(control, SIOCSIFADDR, "lo:0", address(boot.host_address))
        interface_call(control, SIOCSIFNETMASK, "lo:0", address("255.255.255.255"))
        card = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(card, TUNSETIFF, struct.pack("16sH22x", CARD.encode(), IFF_TAP | IFF_NO_PI))
        mac = bytes.fromhex(boot.mac.replace(":", ""))
        interface_call(control, SIOCSIFHWADDR, CARD, struct.pack("H14s", ARPHRD_ETHER, mac))
    return card


def raise_interface(control: socket.socket, name: str) -> None:
    found = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
    (flags,) = struct.unpack_from("16xH", found)
    interface_call(control, SIOCSIFFLAGS, name, struct.pack("H", flags | IFF_UP))


def interface_call(control: socket.socket, request: int, name: str, value: bytes) -> None:
    """netdevice(7): a request with a ``struct ifreq``."""
    fcntl.ioctl(control, request, struct.pack("16s24s", name.encode(), value))


def address(text: str) -> bytes:
    """A ``struct sockaddr_in``."""
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def mount_root(boot: Boot, root: Path) -> None:
    """The image, with /var and /etc on top, as the initrd of a machine mounts them."""
    for kind in ("squashfs", "erofs"):
        command = ["mount", "-t", kind, "-o", "loop,ro,nodev", boot.image, str(root)]
        done = subprocess.run(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
        if done.returncode == 0:
            break
    else:
        raise OSError(f"{boot.image} cannot be mounted: {done.stderr.decode(errors='replace').strip()}")
    state = Path(boot.state)
    upper, work = state / "lib/flotilla/etc/upper", state / "lib/flotilla/etc/work"
    mark = state / "lib/flotilla/sectors"
    if not mark.exists():
        copy = ["cp", "-a", f"{root}/usr/share/flotilla/var/.", str(state)]
        subprocess.run(copy, check=True, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        mark.write_text("namespaces\n")
    bind(state, root / "var", MS_NODEV)
    layers = f"lowerdir={root}/etc,upperdir={root}/var/lib/flotilla/etc/upper,workdir={root}/var/lib/flotilla/etc/work"
    libc("mount", b"etc", str(root / "etc").encode(), b"overlay", MS_NODEV, layers.encode())


def mount_kernel_file_systems(boot: Boot, root: Path) -> None:
    """proc, sysfs and the control groups, with what would change this computer read-only."""
    safe = MS_NOSUID | MS_NOEXEC | MS_NODEV
    libc("mount", b"proc", str(root / "proc").encode(), b"proc", safe, None)
    for name in WRITABLE:
        bind(root / name, root / name, safe)
    for name in READ_ONLY:
        if (root / name).exists():
            bind(root / name, root / name, safe | MS_RDONLY, recursive=True)
    libc("mount", b"sysfs", str(root / "sys").encode(), b"sysfs", safe | MS_RDONLY, None)
    libc("mount", b"cgroup2", str(root / "sys/fs/cgroup").encode(), b"cgroup2", safe, b"nsdelegate")
    libc(
        "mount",
        b"tmpfs",
        str(root / "run").encode(),
        b"tmpfs",
        MS_NOSUID | MS_NODEV | MS_STRICTATIME,
        b"mode=755,size=20%",
    )
    # One kernel has one boot and one command line; a node has its own.
    own = root / "run/flotilla-kernel"
    own.mkdir(mode=0o755)
    for name, text in (("sys/kernel/random/boot_id", str(uuid.uuid4())), ("cmdline", boot.command_line)):
        file = own / Path(name).name
        file.write_text(text + "\n")
        file.chmod(0o444)
        bind(file, root / "proc" / name, safe | MS_RDONLY)


def make_devices(boot: Boot, dev: Path) -> None:
    """A container's /dev, with the terminals of console and root shell. The seed volume is where udev would show it."""
    libc("mount", b"tmpfs", str(dev).encode(), b"tmpfs", MS_NOSUID | MS_STRICTATIME, b"mode=755,size=4m")
    os.umask(0)
    for folder in ("pts", "shm", "mqueue", "net", "virtio-ports", "disk/by-label"):
        (dev / folder).mkdir(parents=True)
    for name, numbers in DEVICES.items():
        os.mknod(dev / name, 0o666 | 0o020000, os.makedev(*numbers))
    options = f"newinstance,ptmxmode=0666,mode=620,gid={TTY_GROUP}"
    libc("mount", b"devpts", str(dev / "pts").encode(), b"devpts", MS_NOSUID | MS_NOEXEC, options.encode())
    libc("mount", b"tmpfs", str(dev / "shm").encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777")
    libc("mount", b"mqueue", str(dev / "mqueue").encode(), b"mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    for name, source in (
        ("console", boot.console),
        (f"virtio-ports/{boot.shell_port}", boot.shell),
        ("disk/by-label/cidata", boot.seed),
    ):
        (dev / name).touch(0o600)
        bind(Path(source), dev / name, MS_NOSUID | MS_NOEXEC)
    os.umask(0o022)


def make_run(run: Path) -> None:
    """Have systemd start the root shell, for which udev asks on a machine."""
    wants = run / "systemd/system/sysinit.target.wants"
    wants.mkdir(parents=True)
    (wants / "flotilla-shell.service").symlink_to("/usr/lib/systemd/system/flotilla-shell.service")


def pivot(root: Path) -> None:
    """Make ``root`` the root of the mount namespace, and detach this computer's.

    (See pivot_root(2), the idiom with one folder.)
    """
    os.chdir(root)
    libc("syscall", SYS_PIVOT_ROOT[os.uname().machine], b".", b".")
    libc("umount2", b".", MNT_DETACH)
    os.chdir("/")


def execute() -> None:
    """Become systemd, with its arguments and environment only; nothing else is inherited. Raises OSError."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    systemd = "/usr/lib/systemd/systemd"
    os.execve(systemd, [systemd], {"container": "flotilla", "PATH": "/usr/bin:/usr/sbin"})


def bind(source: Path, target: Path, flags: int, *, recursive: bool = False) -> None:
    """Show ``source`` at ``target``, with the mount's own ``flags``."""
    libc("mount", str(source).encode(), str(target).encode(), None, MS_BIND | (MS_REC if recursive else 0), None)
    libc("mount", b"none", str(target).encode(), None, MS_BIND | MS_REMOUNT | flags, None)


def unshare(flags: int) -> None:
    """unshare(2), which Python 3.11 has not."""
    libc("unshare", flags)


def start_the_clock_at_zero() -> None:
    """Have the node's uptime begin with its boot (time_namespaces(7)); a kernel before 5.6 counts this computer's."""
    with suppress(OSError):
        unshare(CLONE_NEWTIME)
        clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
        offsets = "".join(f"{name} -{int(time.clock_gettime(clock))} 0\n" for name, clock in clocks.items())
        Path("/proc/self/timens_offsets").write_text(offsets)


_LIBC = ctypes.CDLL(None, use_errno=True)


def libc(function: str, *arguments: int | bytes | None) -> None:
    """Call ``function`` of the C library. Raises OSError with the function and its arguments."""
    if getattr(_LIBC, function)(*arguments) == -1:
        number = ctypes.get_errno()
        given = " ".join(each.decode(errors="replace") for each in arguments if isinstance(each, bytes))
        raise OSError(number, f"{function} {given}: {os.strerror(number)}")


def fail(driver: socket.socket, error: Exception) -> int:
    """Report to the driver why there is no node; returns the exit code for that."""
    if isinstance(error, subprocess.CalledProcessError):
        why = f"{' '.join(error.cmd)}: {(error.stderr or b'').decode(errors='replace').strip()}"
    else:
        why = str(error)
    with suppress(OSError):
        driver.send(json.dumps({"failed": why}).encode())
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
