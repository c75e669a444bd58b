"""The identity of the system, and its name services.

Replaces the work of: systemd (systemd-machine-id-setup), base-files (os-release, issue), netbase (hosts, networks),
libc-bin and libnss-systemd, libnss-resolve, libnss-myhostname (nsswitch.conf), systemd-resolved (resolv.conf), tzdata
(localtime), systemd (locale.conf).
"""

from __future__ import annotations

from builder.core.tree import Entry, Patch, Tree, file, symlink
from terminal import Failure

HOSTS = "127.0.0.1\tlocalhost\n::1\t\tlocalhost ip6-localhost ip6-loopback\nff02::1\t\tip6-allnodes\nff02::2\t\tip6-allrouters\n\n"
NETWORKS = "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n\n"

SERVICES = (
    ("passwd", ("files", "systemd")),
    ("group", ("files", "systemd")),
    ("shadow", ("files", "systemd")),
    ("gshadow", ("files", "systemd")),
    ("hosts", ("files", "myhostname", "resolve [!UNAVAIL=return]", "dns")),
    ("networks", ("files",)),
    ("protocols", ("files",)),
    ("services", ("files",)),
    ("ethers", ("files",)),
    ("rpc", ("files",)),
)
"""Name services in the order Debian gives them when all of systemd's modules are installed."""


def identity(tree: Tree, version: str, name: str = "Flotilla", hostname: str = "flotilla") -> Patch:
    """os-release, an empty machine-id, host name, hosts, issue, nsswitch.conf, resolv.conf, UTC, C.UTF-8.

    ``version`` is the image's, for os-release.

    The machine-id is empty, not missing: systemd then generates one and keeps it, but does not treat the boot as a
    "first boot", which would ask for passwords and apply presets again. As a consequence ``ConditionFirstBoot=`` never
    holds on a node. Raises :class:`Failure` if the tree has no os-release to start from.
    """
    return Patch(
        (
            *_release(tree, version, name),
            file("etc/machine-id", "", 0o444),
            file("etc/hostname", hostname + "\n"),
            file("etc/hosts", HOSTS),
            file("etc/networks", NETWORKS),
            file("etc/issue", f"{name} {version} \\n \\l\n\n"),
            file("etc/issue.net", f"{name} {version}\n"),
            file("etc/nsswitch.conf", _nsswitch(tree)),
            symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
            symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
            file("etc/locale.conf", "LANG=C.UTF-8\n"),
            symlink("etc/default/locale", "../locale.conf"),
        )
    )


def parse_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file (os-release(5)), quotes taken off."""
    pairs = (line.partition("=")[::2] for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def _release(tree: Tree, version: str, name: str) -> tuple[Entry, Entry]:
    path = "usr/lib/os-release"
    if path not in tree:
        raise Failure("there is no os-release", where="/" + path, hint="add the package base-files")
    debian = parse_release(tree.read(path).decode())
    fields = {
        "PRETTY_NAME": f"{name} {version}",
        "NAME": name,
        "ID": name.lower(),
        "ID_LIKE": debian.get("ID", "debian"),
        "VERSION_ID": version,
        "VERSION": version,
        "IMAGE_ID": name.lower(),
        "IMAGE_VERSION": version,
        # The base distribution, for scanners that use its advisories.
        "VERSION_CODENAME": debian.get("VERSION_CODENAME", ""),
        "DEBIAN_VERSION_FULL": debian.get("DEBIAN_VERSION_FULL", debian.get("VERSION_ID", "")),
    }
    text = "".join(f'{key}="{value}"\n' for key, value in fields.items() if value)
    return file(path, text), symlink("etc/os-release", "../usr/lib/os-release")


def _nsswitch(tree: Tree) -> str:
    present = {
        entry.path.rpartition("/libnss_")[2].partition(".so")[0] for entry in tree.glob("usr/lib/*/libnss_*.so*")
    }
    lines = []
    for service, sources in SERVICES:
        # glibc has files and dns built in since 2.34, so these need no module
        usable = [source for source in sources if source in ("files", "dns") or source.split()[0] in present]
        lines.append(f"{service}:".ljust(16) + " ".join(usable) + "\n")
    return "".join(lines)
