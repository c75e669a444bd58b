"""What a node's etcd becomes: a member that starts again, a new member, or a proxy of a cluster that is full.

This is the ExecStart of etcd.service. It receives etcd's own settings (``ETCD_...`` in the environment), decides, and
*becomes* the program that it chose (exec, same process), so that systemd's notification, signals and exit codes are
etcd's. :func:`decide` is pure; :class:`Join` carries it out. Standard library only, and lean: it runs at boot, on
emulated processors.

It speaks to the discovery service itself, and etcd starts with a static cluster: etcd's own discovery can pin no
certificate, makes no proxy of an extra machine, reports "duplicate ID" for ever on one that was rebooted while it waited
for the others, and is gone in etcd 3.7.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

from discovery.beside import Beside, Proxied, Running, began, write
from discovery.client import Roster, Unreachable, hidden, read, register, request, watch
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
    is_loopback,
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
    joining: str = ""  # the discovery URL under which this node was about to register, before its etcd had data
    proxied: str = ""  # the discovery URL of the cluster that this node is a proxy of
    endpoints: tuple[str, ...] = ()  # of that cluster
    peers: tuple[str, ...] = ()  # URLs of members of the cluster, whatever this node is to it
    ended: bool = False  # etcd has ended by itself, which it does when its member was removed


class Listed(NamedTuple):
    """A member as the running cluster lists it; without a ``name`` it was added and has never started."""

    name: str
    urls: tuple[str, ...]


class Decision(NamedTuple):
    """``member``: etcd with ``environment``; ``proxy``: of the members behind ``peers``; ``ask``: those for the members'
    list, or without ``peers`` the service for the token; ``register``: take a slot; ``wait``: for more to register;
    ``aside``: the data is that of a member that was removed.

    ``reason`` is a sentence for the journal.
    """

    kind: Literal["member", "proxy", "ask", "register", "wait", "aside"]
    reason: str
    environment: Mapping[str, str] = {}
    peers: tuple[str, ...] = ()


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
        if remembered.ended and (removed := _removed(static, remembered, listed)) is not None:
            return removed
        if peers and CLUSTER not in static:
            # etcd compares its default for this with the peer URLs, though it has no other use for it any more.
            static[CLUSTER] = ",".join(f"{environment[NAME]}={url.strip()}" for url in peers.split(","))
        return Decision("member", "has data: starts as the member that it was", static)
    if remembered.peers and peers and roster is None:
        if listed is None:
            return Decision("ask", "asks the members that it knew", {}, remembered.peers)
        if listed:
            proxy = Decision("proxy", "is a proxy of the members that it knew", {}, _urls(listed))
            return _added(static, listed) or proxy
        if not discovery:
            raise Unreachable("none of the members that this node knew answers", where=", ".join(remembered.peers))
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
        return Decision("register", f"{roster.state}; registers")
    if environment.get(FALLBACK) == "exit":
        raise Failure(
            f"the cluster is full ({roster.state})",
            where=hidden(discovery),
            hint="discovery-fallback is 'exit'; without it this node would be a proxy",
        )
    return Decision("proxy", f"the cluster is full ({roster.state}); is a proxy", {}, roster.peers)


def _removed(static: Mapping[str, str], remembered: Remembered, listed: Sequence[Listed] | None) -> Decision | None:
    """With the data of a member that ended by itself; None if it is a member all the same."""
    peers = remembered.peers or tuple(piece.rpartition("=")[2] for piece in static.get(CLUSTER, "").split(",") if piece)
    if not peers:
        return None
    if listed is None:
        return Decision("ask", "ended by itself: asks the others whether it was removed", {}, peers)
    if not listed:
        return Decision("wait", f"ended by itself: waits for another member to say why: {', '.join(peers)}")
    mine = _own(static)
    if any(member.name and not mine.isdisjoint(member.urls) for member in listed):
        return None
    return Decision("aside", "was removed from its cluster: sets its data aside")


def _wiped(static: Mapping[str, str], discovery: str, roster: Roster, listed: Sequence[Listed] | None) -> Decision:
    """An empty memory must not vote under its old name.

    It may vote as a new member, once the old one was removed and this node was added."""
    if listed is None:
        return Decision("ask", "its data is gone: asks the others whether it was added again", {}, roster.peers)
    if added := _added(static, listed):
        return added
    if listed:
        reason = "its data is gone: is a proxy until the others have taken it in again, as a new member"
        return Decision("proxy", reason, {}, _urls(listed))
    raise Failure(
        "this node is registered as a member, but its data is gone",
        where=hidden(discovery),
        hint="with an empty memory it must not vote under its old name, and no other member answers. Are they up?",
    )


def _added(static: Mapping[str, str], listed: Sequence[Listed]) -> Decision | None:
    """As the member that the others have added, and that has never started; None if there is none."""
    mine = _own(static)
    if not any(not member.name and set(member.urls) == mine for member in listed):
        return None
    cluster = ",".join(f"{member.name or static[NAME]}={url}" for member in listed for url in member.urls)
    return Decision(
        "member", "the others have added it: joins as a new member", {**static, CLUSTER: cluster, STATE: "existing"}
    )


def _own(static: Mapping[str, str]) -> set[str]:
    return {url.strip() for url in static.get(PEER_URLS, "").split(",")}


def _urls(listed: Sequence[Listed]) -> tuple[str, ...]:
    return tuple(url for member in listed for url in member.urls)


def _registered(static: Mapping[str, str], discovery: str, roster: Roster) -> Decision:
    if not roster.complete:
        return Decision("wait", f"waiting for {roster.state}")
    # The same cluster that etcd makes of a token: its ids are hashes over peer URLs and this very text.
    found = {**static, CLUSTER: roster.initial_cluster, STATE: "new", TOKEN: discovery}
    return Decision("member", f"the cluster is complete: {roster.state}", found)


class Join:
    """Carries out decisions. ``say`` reports to the user, ``become`` replaces this process.

    ``environment`` becomes etcd's settings, whole."""

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
        self.environment = whole(environment, socket.gethostname(), certificates)
        self._certificates = certificates
        self._etcd = etcd
        self._say = say
        self._become = become
        self._sleep = sleep
        self._roster: Roster | None = None  # as it was read for the last decision
        self._beside = Beside(Path(self.environment[DATA]))

    def remembered(self) -> Remembered:
        """What is on disk. Raises Failure if it cannot be read: a guess could lose a member's memory."""
        beside = self._beside
        try:
            known, discovery = beside.read_peers(), self.environment.get(DISCOVERY, "")
            peers = known.urls if known.discovery == discovery else ()
            proxied = beside.read_proxied()
            return Remembered(_has_wal(self._wal), beside.read_joining(), *proxied, peers, beside.ended.exists())
        except OSError as error:
            raise Failure("cannot read what this node's etcd was", where=str(self._wal)) from error

    @property
    def _wal(self) -> Path:
        return Path(self.environment.get(WAL, "") or Path(self.environment[DATA], "member", "wal"))

    def decision(self) -> Decision:
        """What to become by the current answers of the members and the service. Raises Unreachable, Failure."""
        remembered = self.remembered()
        self._roster = None
        roster: Roster | None = None
        listed: tuple[Listed, ...] | None = None
        while True:
            decided = decide(self.environment, remembered, roster, listed)
            if decided.kind != "ask":
                return decided
            if decided.peers:
                listed = self._listed(decided.peers)
            else:
                roster, listed = self._read(), None

    def run(self) -> None:
        """Decide, waiting as long as it takes, and become it. Raises Failure."""
        if warning := plain(self.environment):
            self._say(f"{_WARNING}{warning}")
        attempt = 0
        while True:
            try:
                decided = self.decision()
            except Unreachable as trouble:
                remembered = self.remembered()
                if remembered.endpoints and remembered.proxied == self.environment.get(DISCOVERY, ""):
                    self._say(f"{trouble}; is a proxy of the members it had")
                    self._become_proxy(remembered.endpoints)
                    return
                self._status(f"{trouble} ({trouble.__cause__ or 'no reason given'}); tries again")
            else:
                self._status(decided.reason)
                if decided.kind == "member":
                    self._become_member(decided)
                    return
                if decided.kind == "proxy":
                    self._become_proxy(self._client_endpoints(decided.peers))
                    return
                if decided.kind == "aside":
                    self._beside.set_aside(self._wal)
                    continue
                try:
                    if decided.kind == "register":
                        self._register()
                        continue
                    if self._roster is not None:
                        watch(self.environment[DISCOVERY], self._roster, proxy=self.environment.get(PROXY, ""))
                        attempt = 0
                except Unreachable as trouble:
                    self._status(f"{trouble}; tries again")
            self._sleep(_DELAYS_S[min(attempt, len(_DELAYS_S) - 1)])
            attempt += 1

    def _register(self) -> None:
        """Take a slot, in the very words of etcd's own discovery. Raises Unreachable, Failure."""
        discovery, peers = self.environment[DISCOVERY], self.environment[PEER_URLS]
        # First: after a crash it distinguishes "interrupted" from "wiped".
        write(self._beside.joining, discovery)
        value = ",".join(f"{self.environment[NAME]}={url}" for url in sorted(_own(self.environment)))
        register(discovery, member_id(peers, discovery), value, proxy=self.environment.get(PROXY, ""))

    def _become_member(self, decided: Decision) -> None:
        if self.remembered().has_wal:
            self._beside.joining.unlink(missing_ok=True)
        self._beside.proxy.unlink(missing_ok=True)
        self._beside.ended.unlink(missing_ok=True)
        self._running("member")
        self._become([self._etcd], decided.environment)

    def _become_proxy(self, endpoints: Sequence[str]) -> None:
        self._beside.write_proxied(Proxied(self.environment.get(DISCOVERY, ""), tuple(endpoints)))
        argv = [
            *(self._etcd, "gateway", "start"),
            *(f"--endpoints={','.join(endpoints)}", f"--listen-addr={local_address(self.environment)}"),
        ]
        self._running("proxy")
        # The gateway is ready at once and never reports it itself; after the exec nothing else could.
        notify("READY=1\nSTATUS=proxy of " + ", ".join(endpoints), self.environment)
        kept = {key: value for key, value in self.environment.items() if not key.startswith(("ETCD_", "NOTIFY_"))}
        self._become(argv, kept)

    def _running(self, kind: str) -> None:
        """For upkeep, which runs beside it."""
        given = self.environment
        urls = tuple(sorted(url for url in _own(given) if url))
        client = _nearest(given) if kind == "member" else ""
        if not client:
            client = f"{urlsplit(given[LISTEN]).scheme}://{local_address(given)}"
        pid = os.getpid()
        running = Running(kind, given[NAME], urls, client, given.get(DISCOVERY, ""), pid, began(pid))
        self._beside.write_running(running)

    def _listed(self, peers: Sequence[str]) -> tuple[Listed, ...]:
        """The members that the first member to answer lists; empty if none answers."""
        for peer in peers:
            if found := listed_in(self._members(peer)):
                return found
        return ()

    def _client_endpoints(self, peers: Sequence[str]) -> tuple[str, ...]:
        """Where the members' clients connect. A cluster that was complete a moment ago may still be starting."""
        for attempt in range(_PEERS_ROUNDS):
            for peer in peers:
                if found := endpoints_of(self._members(peer), _own(self.environment)):
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
        self._roster = read(self.environment[DISCOVERY], proxy=self.environment.get(PROXY, ""))
        return self._roster

    def _status(self, text: str) -> None:
        self._say(text)
        notify(f"STATUS={text}", self.environment)


def _has_wal(directory: Path) -> bool:
    try:
        return any(path.suffix == ".wal" for path in directory.iterdir())
    except FileNotFoundError:
        return False


def endpoints_of(members: bytes, own: AbstractSet[str] = frozenset()) -> tuple[str, ...]:
    """``host:port`` of all clients' URLs in the answer to ``GET /members`` on a peer's port, but for those of a member
    whose peer URLs are the node's ``own``: it is listed, and gone.

    Empty if it cannot be understood.

    A member that advertises its loopback address (etcd's default) is reached at the host of its peer URL.
    """
    found: list[str] = []
    try:
        for member in record.parse(members):
            if not own.isdisjoint(member["peerURLs"]):
                continue
            peer_host = urlsplit(member["peerURLs"][0]).hostname or ""
            for url in member.get("clientURLs") or ():
                parts = urlsplit(url)
                host = parts.hostname or ""
                found.append(_endpoint(peer_host if is_loopback(host) else host, parts.port or CLIENT_PORT))
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


def _nearest(environment: Mapping[str, str]) -> str:
    """Where this machine reaches its own member; empty if that listens at no loopback address, or at all of them."""
    urls = [url.strip() for url in environment[LISTEN].split(",")]
    hosts = {urlsplit(url).hostname or "": url for url in reversed(urls)}
    loopback = [url for host, url in hosts.items() if is_loopback(host)]
    return loopback[-1] if loopback else "" if "0.0.0.0" in hosts or "::" in hosts else urls[0]  # noqa: S104


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
