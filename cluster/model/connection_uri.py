"""Where libvirt is to be found: a connection URI (libvirt ``docs/uri.html``) as a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cluster.model.layout import SOCKET_PATH_BYTES_MAX
from terminal import UsageFailure

SESSION = "qemu:///session"
KINDS = "qemu:///session, qemu:///embed?root=/short/folder, qemu+ssh://user@host/session"
EMBED_ROOT_BYTES_MAX = SOCKET_PATH_BYTES_MAX - len("/lib/qemu/domain-999-flotilla-0123456789a/monitor.sock")
"""libvirt makes a socket for each guest below the folder."""


@dataclass(frozen=True, slots=True)
class Place:
    """One connection.

    ``kind`` is "session" (this user's daemon here), "embed" (no daemon, the driver in our process) or "ssh".
    """

    uri: str
    kind: str
    root: Path | None = None
    """Where the embedded driver keeps its files."""
    host: str = ""
    ssh: tuple[str, ...] = ()
    """The program and options that reach :attr:`host`, the same that libvirt uses, without the host."""

    @property
    def is_local(self) -> bool:
        """Whether guests run on this computer."""
        return self.kind != "ssh"


def parse(uri: str) -> Place:
    """What ``uri`` means. Raises :class:`UsageFailure` for one that this driver has no use for."""
    where = f"--connect {uri}"
    try:
        parts = urlsplit(uri)
        options = (
            {key: values[-1] for key, values in parse_qs(parts.query, strict_parsing=True).items()}
            if parts.query
            else {}
        )
        port = parts.port
    except ValueError as error:
        raise UsageFailure(f"this is no libvirt URI: {error}", where=where, hint=f"one of {KINDS}") from None
    match (parts.scheme, parts.netloc, parts.path):
        case ("qemu", "", "/session"):
            return Place(uri, "session")
        case ("qemu", "", "/embed"):
            return Place(uri, "embed", root=_embed_root(options.get("root", ""), where))
        case ("qemu+ssh", netloc, "/session") if netloc and parts.hostname and not parts.hostname.startswith("-"):
            return Place(uri, "ssh", host=parts.hostname, ssh=_ssh(parts.username, port, options))
        case ("qemu" | "qemu+ssh", _, "/system"):
            hint = "the cluster needs no system-wide libvirt: /session instead of /system"
            raise UsageFailure("guests of the system's libvirt belong to root", where=where, hint=hint)
    raise UsageFailure("no such libvirt connection", where=where, hint=f"one of {KINDS}")


def count_here(connect: Sequence[str], numbers: Iterable[int]) -> int:
    """How many of the nodes ``numbers`` run on this computer: they are dealt to the URIs ``connect`` in turn.

    Without a URI, all of them do.
    """
    local = [parse(uri).is_local for uri in connect] or [True]
    return sum(local[(number - 1) % len(local)] for number in numbers)


def _embed_root(text: str, where: str) -> Path:
    root = Path(text)
    if not root.is_absolute():
        raise UsageFailure(
            "the embedded driver needs an absolute folder", where=where, hint="qemu:///embed?root=/run/user/1000/lab"
        )
    if len(text.encode()) > EMBED_ROOT_BYTES_MAX:
        raise UsageFailure(
            f"the folder's path is too long for sockets below it: {EMBED_ROOT_BYTES_MAX} bytes at most", where=where
        )
    return root


def _ssh(user: str | None, port: int | None, options: dict[str, str]) -> tuple[str, ...]:
    argv = [options.get("command", "ssh")]
    argv += ["-l", user] if user else []
    argv += ["-p", str(port)] if port else []
    argv += ["-i", options["keyfile"]] if "keyfile" in options else []
    argv += ["-o", "StrictHostKeyChecking=no"] if options.get("no_verify") == "1" else []
    return tuple(argv)
