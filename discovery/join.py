"""What a node's etcd becomes: a member that starts again, a new member, or a proxy of a cluster that is full.

This is the ExecStart of etcd.service. It receives etcd's own settings (``ETCD_...`` in the environment), decides, and
*becomes* the program that it chose (exec, same process), so that systemd's notification, signals and exit codes are
etcd's. :func:`decide` is pure; :class:`Join` carries it out. Standard library only, and lean: it runs at boot, on
emulated processors.

Why ``etcd --discovery`` alone is not enough: once a cluster runs, the service must not be needed any more; an extra
machine becomes a proxy instead of exiting; and a machine that was rebooted while it waited for the others holds a slot,
for which etcd, which does not know that, would report "duplicate ID" for ever.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

from discovery.client import Roster, Unreachable, hidden, read, request
from discovery.settings import (
    CLIENT_PORT,
    CLUSTER,
    DATA,
    DISCOVERY,
    FALLBACK,
    LISTEN,
    NAME,
    PEER_URLS,
    PROXY,
    STATE,
    TOKEN,
    WAL,
    Misconfigured,
    plain,
    whole,
)
from etcd import credentials
from terminal import Failure, record

if TYPE_CHECKING:
    import ssl

ETCD = "/usr/bin/etcd"
_DELAYS_S = (1, 2, 4, 8, 15)  # between attempts; the last one repeats
_PEERS_ROUNDS = 10  # of asking a complete cluster's members where clients connect, before guessing
_PEER_TIMEOUT_S = 2.0
_WARNING = "<4>"  # sd-daemon(3): the journal's priority of the line
_NOTIFY_TIMEOUT_S = 30.0  # it blocks only if systemd has not read the last few hundred messages


class Remembered(NamedTuple):
    """What an earlier run left beside the data directory."""

    has_wal: bool = False
    joining: str = ""  # the discovery URL with which etcd was started, before it had data
    proxied: str = ""  # the discovery URL of the cluster that this node is a proxy of
    endpoints: tuple[str, ...] = ()  # of that cluster


class Listed(NamedTuple):
    """A member as the running cluster lists it; without a ``name`` it was added and has never started."""

    name: str
    urls: tuple[str, ...]


class Decision(NamedTuple):
    """``member``: etcd with ``environment``; ``proxy``: of the ``roster``'s members; ``ask``: read the token first, or
    with a ``roster`` its members' list; ``wait``: for more to register.

    ``reason`` is a sentence for the journal.
    """

    kind: Literal["member", "proxy", "ask", "wait"]
    reason: str
    environment: Mapping[str, str] = {}
    roster: Roster | None = None


def member_id(peer_urls: str, discovery_url: str) -> str:
    """The id under which etcd registers: hexadecimal, no leading zeros. ``peer_urls`` are separated by commas.

    Source: computeMemberId in etcd's server/etcdserver/api/membership/member.go.
    """
    import hashlib  # loads OpenSSL, which a member that has data does not need

    urls = "".join(sorted(url.strip() for url in peer_urls.split(",")))
    digest = hashlib.sha1((urls + discovery_url).encode(), usedforsecurity=False).digest()
    return format(int.from_bytes(digest[:8], "big"), "x")


def decide(
    environment: Mapping[str, str],
    remembered: Remembered,
    roster: Roster | None,
    listed: Sequence[Listed] | None = None,
) -> Decision:
    """What to become.

    That depends on etcd's settings, the files of an earlier run, the token, and the members that the cluster lists
    (None: not read yet).

    Raises Misconfigured for settings that cannot work, Failure for a slot whose data is lost.
    """
    discovery, peers = environment.get(DISCOVERY, ""), environment.get(PEER_URLS, "")
    static = {key: value for key, value in environment.items() if key not in (DISCOVERY, FALLBACK, PROXY)}
    if remembered.has_wal:
        if peers and CLUSTER not in static:
            # etcd compares its default for this with the peer URLs, though it has no other use for it any more.
            static[CLUSTER] = ",".join(f"{environment[NAME]}={url.strip()}" for url in peers.split(","))
        return Decision("member", "has data: starts as the member that it was", static)
    if not discovery:
        return Decision("member", "no discovery: starts as it is configured", static)
    if environment.get(CLUSTER):
        raise Misconfigured(
            "both discovery and a static cluster are configured",
            where=f"{DISCOVERY}, {CLUSTER}",
            hint="keep one of discovery and initial-cluster",
        )
    if not peers:
        raise Misconfigured(
            "discovery needs an address at which the other members reach this one",
            where=PEER_URLS,
            hint="set initial-advertise-peer-urls, such as http://10.77.0.11:2380",
        )
    if roster is None:
        return Decision("ask", "looks for its cluster")

    mine = member_id(peers, discovery)
    if any(member.id == mine for member in roster.members):
        if remembered.joining != discovery:
            return _wiped(static, discovery, roster, listed)
        return _registered(static, discovery, roster)
    if not roster.complete:
        found = {**environment, FALLBACK: "exit"}
        return Decision("member", f"{roster.state}; registers", found, roster)
    if environment.get(FALLBACK) == "exit":
        raise Failure(
            f"the cluster is full ({roster.state})",
            where=hidden(discovery),
            hint="discovery-fallback is 'exit'; without it this node would be a proxy",
        )
    return Decision("proxy", f"the cluster is full ({roster.state}); is a proxy", {}, roster)


def _wiped(static: Mapping[str, str], discovery: str, roster: Roster, listed: Sequence[Listed] | None) -> Decision:
    """An empty memory must not vote under its old name.

    It may vote as a new member, if an administrator has added that one in its place."""
    if listed is None:
        return Decision("ask", "its data is gone: asks the others whether it was added again", {}, roster)
    mine = {url.strip() for url in static[PEER_URLS].split(",")}
    if any(not member.name and set(member.urls) == mine for member in listed):
        cluster = ",".join(f"{member.name or static[NAME]}={url}" for member in listed for url in member.urls)
        found = {**static, CLUSTER: cluster, STATE: "existing"}
        return Decision("member", "its data is gone, and it was added again: joins as that new member", found, roster)
    raise Failure(
        "this node is registered as a member, but its data is gone",
        where=hidden(discovery),
        hint="with an empty memory it must not vote under its old name. On another node: 'etcdctl member list', "
        "'etcdctl member remove ID',"
        f" 'etcdctl member add {static[NAME]} --peer-urls={static[PEER_URLS]}'; then it joins by itself",
    )


def _registered(static: Mapping[str, str], discovery: str, roster: Roster) -> Decision:
    if not roster.complete:
        return Decision("wait", f"waiting for {roster.state}", {}, roster)
    # The same cluster that etcd makes of a token: its ids are hashes over peer URLs and this very text.
    found = {**static, CLUSTER: roster.initial_cluster, STATE: "new", TOKEN: discovery}
    return Decision("member", f"was interrupted while it waited; goes on with {roster.state}", found, roster)


class Join:
    """Carries out decisions. ``say`` reports to the user, ``become`` replaces this process."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        certificates: Path = credentials.FOLDER,
        etcd: str = ETCD,
        say: Callable[[str], None],
        become: Callable[[Sequence[str], Mapping[str, str]], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environment = whole(environment, socket.gethostname(), certificates)
        self._certificates = certificates
        self._etcd = etcd
        self._say = say
        self._become = become
        self._sleep = sleep
        data = Path(self._environment[DATA])
        self._joining = data.with_name(data.name + ".joining")
        self._proxied = data.with_name(data.name + ".proxy")

    def remembered(self) -> Remembered:
        """What is on disk. Raises Failure if it cannot be read: a guess could lose a member's memory."""
        wal = Path(self._environment.get(WAL, "") or Path(self._environment[DATA], "member", "wal"))
        proxied = ""
        endpoints: tuple[str, ...] = ()
        try:
            has_wal = _has_wal(wal)
            joining = self._joining.read_text().strip() if self._joining.exists() else ""
            saved = record.parse(self._proxied.read_text()) if self._proxied.exists() else None
        except OSError as error:
            raise Failure("cannot read what this node's etcd was", where=str(wal)) from error
        except ValueError:
            saved = None  # written whole or not at all, so it was edited; the service knows as well
        if isinstance(saved, dict) and isinstance(saved.get("endpoints"), list):
            proxied, endpoints = str(saved.get("discovery", "")), tuple(map(str, saved["endpoints"]))
        return Remembered(has_wal, joining, proxied, endpoints)

    def decision(self) -> Decision:
        """What to become by the service's current answer. Raises Unreachable, Failure."""
        remembered = self.remembered()
        decided = decide(self._environment, remembered, None)
        if decided.kind == "ask":
            decided = decide(self._environment, remembered, self._read())
        if decided.kind == "ask" and decided.roster is not None:
            decided = decide(self._environment, remembered, decided.roster, self._listed(decided.roster))
        return decided

    def run(self) -> None:
        """Decide, waiting as long as it takes, and become it. Raises Failure."""
        if warning := plain(self._environment):
            self._say(f"{_WARNING}{warning}")
        attempt = 0
        while True:
            try:
                decided = self.decision()
            except Unreachable as trouble:
                remembered = self.remembered()
                if remembered.endpoints and remembered.proxied == self._environment[DISCOVERY]:
                    self._say(f"{trouble}; is a proxy of the members it had")
                    self._become_proxy(remembered.endpoints)
                    return
                self._status(f"{trouble} ({trouble.__cause__ or 'no reason given'}); tries again")
            else:
                self._status(decided.reason)
                if decided.kind == "member":
                    self._become_member(decided)
                    return
                if decided.roster is not None and decided.kind == "proxy":
                    self._become_proxy(self._client_endpoints(decided.roster))
                    return
            self._sleep(_DELAYS_S[min(attempt, len(_DELAYS_S) - 1)])
            attempt += 1

    def _become_member(self, decided: Decision) -> None:
        if DISCOVERY in decided.environment:
            # Before etcd registers: after a crash it distinguishes "interrupted" from "wiped".
            self._write(self._joining, decided.environment[DISCOVERY] + "\n")
        elif self.remembered().has_wal:
            self._joining.unlink(missing_ok=True)
        self._proxied.unlink(missing_ok=True)
        self._become([self._etcd], decided.environment)

    def _become_proxy(self, endpoints: Sequence[str]) -> None:
        saved = {"discovery": self._environment[DISCOVERY], "endpoints": list(endpoints)}
        self._write(self._proxied, json.dumps(saved) + "\n")
        argv = [
            *(self._etcd, "gateway", "start"),
            *(f"--endpoints={','.join(endpoints)}", f"--listen-addr={local_address(self._environment)}"),
        ]
        # The gateway is ready at once and never reports it itself; after the exec nothing else could.
        notify("READY=1\nSTATUS=proxy of " + ", ".join(endpoints), self._environment)
        kept = {key: value for key, value in self._environment.items() if not key.startswith(("ETCD_", "NOTIFY_"))}
        self._become(argv, kept)

    def _listed(self, roster: Roster) -> tuple[Listed, ...]:
        """The members that the first member to answer lists; empty if none answers."""
        for peer in (url for member in roster.members for url in member.urls):
            if found := listed_in(self._members(peer)):
                return found
        return ()

    def _client_endpoints(self, roster: Roster) -> tuple[str, ...]:
        """Where the members' clients connect. A cluster that was complete a moment ago may still be starting."""
        peers = [url for member in roster.members for url in member.urls]
        for attempt in range(_PEERS_ROUNDS):
            for peer in peers:
                if found := endpoints_of(self._members(peer)):
                    return found
            self._status(f"waiting for a member to answer: {', '.join(peers)}")
            self._sleep(_DELAYS_S[min(attempt, len(_DELAYS_S) - 1)])
        hosts = [_endpoint(urlsplit(peer).hostname or "", CLIENT_PORT) for peer in peers]
        self._say(f"no member answered; guesses {', '.join(hosts)}")
        return tuple(hosts)

    def _members(self, peer: str) -> bytes:
        """A member's answer on its port for peers; empty if it does not answer."""
        try:
            url = peer.rstrip("/") + "/members"
            status, body = request("GET", url, timeout=_PEER_TIMEOUT_S, context=self._context(peer))
        except Failure:
            return b""
        return body if status == 200 else b""

    def _context(self, peer: str) -> ssl.SSLContext | None:
        """To show a member that this is a node of its cluster."""
        if not peer.startswith("https://") or (own := credentials.peer(self._certificates)) is None:
            return None
        from etcd import Tls

        return Tls(own.authority, own.certificate, own.key).context()

    def _read(self) -> Roster:
        return read(self._environment[DISCOVERY], proxy=self._environment.get(PROXY, ""))

    def _status(self, text: str) -> None:
        self._say(text)
        notify(f"STATUS={text}", self._environment)

    def _write(self, path: Path, text: str) -> None:
        staged = path.with_name(path.name + ".new")
        try:
            with staged.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        except OSError as error:
            raise Failure(
                "cannot write what the next start must know", where=str(path), hint="is the state disk full?"
            ) from error


def _has_wal(directory: Path) -> bool:
    try:
        return any(path.suffix == ".wal" for path in directory.iterdir())
    except FileNotFoundError:
        return False


def endpoints_of(members: bytes) -> tuple[str, ...]:
    """``host:port`` of all clients' URLs in the answer to ``GET /members`` on a peer's port.

    Empty if it cannot be understood.

    A member that advertises its loopback address (etcd's default) is reached at the host of its peer URL.
    """
    found: list[str] = []
    try:
        for member in record.parse(members):
            peer_host = urlsplit(member["peerURLs"][0]).hostname or ""
            for url in member.get("clientURLs") or ():
                parts = urlsplit(url)
                host = parts.hostname or ""
                here = host == "localhost" or host.startswith("127.") or host == "::1"
                found.append(_endpoint(peer_host if here else host, parts.port or CLIENT_PORT))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return ()
    if not all(map(str.isprintable, found)):
        return ()
    return tuple(dict.fromkeys(found))


def listed_in(members: bytes) -> tuple[Listed, ...]:
    """All members in the answer to ``GET /members`` on a peer's port; empty if it cannot be parsed."""
    try:
        found = tuple(
            Listed(str(member.get("name", "")), tuple(map(str, member["peerURLs"]))) for member in record.parse(members)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    return found if all(text.isprintable() for member in found for text in (member.name, *member.urls)) else ()


def local_address(environment: Mapping[str, str]) -> str:
    """Where a proxy listens: the loopback address, at the port where a member would serve its clients."""
    first = environment.get(LISTEN, "").split(",")[0].strip()
    try:
        port = urlsplit(first).port
    except ValueError:
        port = None
    return f"127.0.0.1:{port or CLIENT_PORT}"


def notify(state: str, environment: Mapping[str, str]) -> None:
    """sd_notify(3), in as many lines as it needs. Does nothing outside of a unit that wants it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(_NOTIFY_TIMEOUT_S)
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            raise Failure("cannot notify systemd", where=address) from error


def become(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Replace this process. Raises Failure if there is no such program."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored is inherited
    try:
        os.execve(argv[0], list(argv), dict(environment))
    except OSError as error:
        signal.signal(signal.SIGPIPE, before)
        raise Failure("cannot run etcd", where=argv[0], hint="is the package etcd-server in the image?") from error


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
