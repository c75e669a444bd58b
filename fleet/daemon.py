"""fleetd: agent, engine and HTTP API of one machine, in one process.

The agent has its loop here, the engine in :mod:`fleet.engine.leadership`, so that an engine that reads a large cluster
holds up no unit of this machine. Other threads (watches, tasks, D-Bus) only ever put messages into a loop's inbox; the
loop is the only one to touch its agent or engine. The API server has threads of its own. They share nothing but the
client of etcd.
"""

from __future__ import annotations

import enum
import faulthandler
import gc
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from etcd.protocol import Etcd
from fleet.agent.agent import Agent, Task
from fleet.agent.sight import Seen
from fleet.agent.steps import Ended, Outcome, Systemd, SystemdError
from fleet.agent.unitstore import UnitStore
from fleet.config import Config, ConfigError, load
from fleet.engine.leadership import Leadership
from fleet.model.entities import Machine
from fleet.model.live import Live
from fleet.model.measured import Measured
from fleet.model.registry import Registry
from fleet.model.vitals import Vitals
from fleet.model.watch import Delivered, Feed, Inbox, Lost, hand
from fleet.watchdog import Watchdog
from terminal import Failure, Parser, command
from terminal.version import VERSION

SYSTEMD_FOLDER = Path("/run/systemd/system")
HOST_FOLDERS = tuple(Path(each, "systemd/system") for each in ("/etc", "/usr/local/lib", "/usr/lib"))
_FIRST_FD = 3  # sd_listen_fds(3)
_REQUESTS = 6
"""That one round of a loop makes of etcd, one after the other, at most; so many may take as long as they are let."""
_PLAN_S = 600.0
"""More than any leader takes to read and to plan the largest cluster on the slowest node."""
_LEAVE_S = 20.0
"""How long a machine that shuts down waits for its units' ends; ``TimeoutStopSec`` of fleet.service is longer."""
_LOG = logging.getLogger("fleet")

_EPILOG = """\
examples:
  fleetd --check-config                     is /etc/fleet/fleet.conf, with FLEET_* in the environment, right?
  fleetd --check-config --json              the same, and what it comes to
  FLEET_METADATA=disk=ssd fleetd            run with a setting from the environment
  fleetd --socket /tmp/fleet.sock           listen there, when systemd passes no socket

fleetd is meant to be started by fleet.service. Stopping it stops no unit.
"""


_LIVE = ("metadata", "public_ip", "verbosity")
"""Settings that a running daemon takes over. The others take effect when it is restarted, which stops no unit."""


@dataclass(frozen=True, slots=True)
class _Observed:
    units: Sequence[str]


class _Signal(enum.Enum):
    RELOAD = enum.auto()
    REPORT = enum.auto()


class Daemon:
    """Agent and engine of one machine, each with its loop."""

    def __init__(
        self,
        registry: Registry,
        machine: Machine,
        store: UnitStore,
        config: Config,
        read: Callable[[], tuple[Config, Machine]] | None = None,
        send: Callable[[str], None] = lambda _: None,
        keeper: Etcd | None = None,
        live: Live | None = None,
    ) -> None:
        """``read`` reads the configuration, and this machine by it, again. Raises :class:`Failure`. ``send`` reports
        our state to systemd, ``keeper`` renews the leader's lease, ``live`` is the view that the engine is to feed.
        """
        self._registry = registry
        self._live = live
        self._machine = machine
        self._store = store
        self._config = config
        self._read = read
        self._send = send
        self._keeper = keeper
        self._inbox: Inbox[Delivered | Lost | Outcome | Ended | Seen | _Observed | _Signal | BaseException | None] = (
            Inbox()
        )

    def changed(self, units: Sequence[str]) -> None:
        """systemd reports that these units have changed; from any thread."""
        self._inbox.post(_Observed(units))

    def reload(self) -> None:
        """Read the configuration again, and use of it what a running daemon can; from any thread."""
        self._inbox.post(_Signal.RELOAD)

    def report(self) -> None:
        """Print what the agent knows as a line of JSON; from any thread."""
        self._inbox.post(_Signal.REPORT)

    def stop(self) -> None:
        """End :meth:`run`; from any thread."""
        self._inbox.post(None)

    def run(self, systemd: Systemd) -> str:
        """Work until :meth:`stop`. Leaves units, files and this machine's lease as they are; gives up leadership.

        If the whole machine stops, it ends the lease, as soon as systemd has stopped the units. Returns what that
        means, in a sentence."""
        agent = Agent(self._registry, self._machine, systemd, self._store, self._start, ttl_s=self._config.agent_ttl)
        agent.adopt()
        config = self._config
        watchdog = Watchdog(self._send, ttl_s=config.agent_ttl)
        asking_s = _REQUESTS * config.etcd_request_timeout
        observed = watchdog.loop("the agent", config.agent_ttl / 3 + asking_s)
        vitals = self._registry.vitals
        vitals.loops = watchdog.states
        vitals.set("fleet_info", 1, VERSION, self._machine.id)
        leadership = None
        if not config.disable_engine:
            leadership = Leadership(
                self._registry,
                self._machine.id,
                ttl_s=config.leader_ttl_s,
                agent_ttl_s=config.agent_ttl,
                keeper=self._keeper,
                live=self._live,
                stepped=watchdog.loop("the engine", _PLAN_S).passed,
                kept=watchdog.loop("the leader's lease", config.leader_ttl_s / 3 + asking_s).passed,
            )
        feed = Feed(self._registry.client, self._inbox.post)
        leave_at = math.inf
        watchdog.start()
        try:
            if leadership is not None:
                leadership.start(self._inbox.post)
            while True:
                observed.passed()
                due = agent.step(time.monotonic())
                vitals.trouble = agent.trouble
                vitals.set("fleet_agent_units", agent.launched)
                feed.follow(agent.subscription)
                if leave_at < math.inf and agent.leave(at_once=time.monotonic() >= leave_at):
                    return "this machine shuts down; the cluster starts elsewhere what can move"
                for message in self._inbox.take(min(due, leave_at)):
                    match message:
                        case Delivered() | Lost():
                            hand(agent, message)
                        case _Observed(units):
                            agent.observed(units)
                        case Outcome() | Ended() | Seen():
                            agent.finished(message, time.monotonic())
                        case _Signal.RELOAD:
                            self._reload(agent)
                        case _Signal.REPORT:
                            print(json.dumps(agent.report()), flush=True)
                        case BaseException():
                            raise message
                        case None if _is_ending(systemd):
                            leave_at = time.monotonic() + _LEAVE_S
                        case None:
                            return _farewell(agent.launched, self._config.agent_ttl)
        finally:
            feed.follow(None)
            if leadership is not None:
                leadership.stop()
            watchdog.stop()

    def _reload(self, agent: Agent) -> None:
        if self._read is None:
            return
        try:
            config, machine = self._read()
        except Failure as failure:
            _LOG.error("the configuration stays as it was: %s", failure.on_one_line)
            return
        changed = [
            each.name for each in fields(Config) if getattr(config, each.name) != getattr(self._config, each.name)
        ]
        later = [name for name in changed if name not in (*_LIVE, "ignored")]
        _LOG.info("the configuration was read again; changed: %s", ", ".join(changed) or "nothing")
        if later:
            _LOG.warning("restart fleetd for the new %s; that stops no unit", ", ".join(later))
        self._config = replace(self._config, **{name: getattr(config, name) for name in _LIVE})
        logging.getLogger().setLevel(_level(config))
        agent.become(machine)

    def _start(self, task: Task) -> None:
        # One thread per task, not a pool: a stop may take as long as its unit needs, and must not delay others.
        threading.Thread(target=lambda: self._inbox.post(task()), name="unit", daemon=True).start()


def main() -> int:
    """The console script."""
    return command("fleetd", run)


def run(argv: Sequence[str]) -> int:
    """Run fleetd until SIGTERM or SIGINT."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # until there is a daemon to take them
    config = load(options.config, os.environ)
    if options.check_config:
        return _check(config, as_json=options.json)
    calm_collector()
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: the journal then has what each thread was doing
    logging.basicConfig(stream=sys.stderr, level=_level(config), format="%(name)s: %(message)s")
    for name in config.ignored:
        _LOG.warning("the setting %s has no effect", name)
    machine = this_machine(config)
    vitals = Vitals()
    client = Measured(_client(config, config.etcd_request_timeout), vitals)
    registry = Registry(client, config.etcd_key_prefix, vitals=vitals)
    store = UnitStore(Path(config.units_directory), SYSTEMD_FOLDER, HOST_FOLDERS)
    store.prepare()

    def read() -> tuple[Config, Machine]:
        config = load(options.config, os.environ)
        return config, this_machine(config)

    # A renewal that waits for a member that has just died leaves time for another one within the lease.
    keeper = _client(config, min(config.etcd_request_timeout, config.leader_ttl_s / 4))
    live = Live(registry)
    daemon = Daemon(registry, machine, store, config, read, lambda text: notify(text, os.environ), keeper, live)
    from fleet.agent.systemd import SystemdManager
    from fleet.api import doors
    from fleet.api.server import ApiServer

    given = [*inherited_sockets(os.environ), *_own_sockets(options.socket)]
    server = ApiServer(registry, live, sockets=doors.opened(config.api_listen, machine.ip, given, doors.own()))
    meaning = "units run on"
    _handle_signals(daemon)  # before anyone learns that we are ready, and may stop us
    try:
        server.start()
        notify("READY=1\nSTATUS=running", os.environ)
        _LOG.info("machine %s at %s, etcd at %s", machine.id, machine.ip or "?", ", ".join(config.etcd_servers))
        meaning = daemon.run(SystemdManager(daemon.changed))
        _LOG.info("stopping: %s", meaning)
    except KeyboardInterrupt:
        _LOG.info("stopping at once: %s", meaning)
    finally:
        notify(f"STOPPING=1\nSTATUS={meaning}", os.environ)
        server.stop()
        if options.socket is not None:
            options.socket.unlink(missing_ok=True)
    return 0


def calm_collector() -> None:
    """Let Python look for reference cycles less often.

    The view of a large cluster is millions of objects without any. As it is set by default, the collector walks through
    all of them again and again while they are made, which costs as much as making them, and stops the world for a
    second whenever it comes later.
    """
    gc.set_threshold(10_000, 20, 1_000)


def _is_ending(systemd: Systemd) -> bool:
    try:
        return systemd.is_ending()
    except SystemdError as error:
        _LOG.warning("systemd does not report whether the machine shuts down: %s", error.on_one_line)
        return False


def _farewell(units: int, ttl_s: int) -> str:
    """What the end of this daemon means for the units of its machine."""
    if not units:
        return "no unit of fleet runs here"
    runs = "1 unit runs on" if units == 1 else f"{units} units run on"
    return (
        f"{runs}, and nothing starts or stops any; unless fleetd is back within {ttl_s} s, the cluster starts what can "
        "move elsewhere, too"
    )


def _level(config: Config) -> int:
    return logging.DEBUG if config.verbosity > 0 else logging.INFO


def _handle_signals(daemon: Daemon) -> None:
    """HUP reads the configuration again and USR1 prints what the agent knows, as in the original. TERM and INT stop.

    The first lets the current step end: an exception out of the middle of a request leaves a half-made answer
    behind, of which Python complains in the journal. The second does not wait."""

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)
        daemon.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload())
    signal.signal(signal.SIGUSR1, lambda *_: daemon.report())


def this_machine(config: Config, root: Path = Path("/")) -> Machine:
    """This machine: its machine-id, address, metadata and boot. Raises :class:`Failure` without a machine-id."""
    try:
        identity = (root / "etc/machine-id").read_text(encoding="ascii").strip()
        boot = (root / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("cannot identify this machine", hint="systemd-machine-id-setup makes /etc/machine-id") from error
    if len(identity) != 32 or not all(each in "0123456789abcdef" for each in identity):
        raise Failure(
            "the machine-id is not 32 hexadecimal digits",
            where=str(root / "etc/machine-id"),
            hint="make one with systemd-machine-id-setup",
        )
    return Machine(identity, config.public_ip or _default_address(), dict(config.metadata), boot)


def inherited_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed to this process (sd_listen_fds(3)); none when it passed them to another."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "0")
    if not count.isdigit() or int(count) > 64:
        raise ConfigError(f"LISTEN_FDS={count} is no number of sockets")
    return [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]


def notify(text: str, environment: Mapping[str, str]) -> None:
    """Report our state to systemd (sd_notify(3)); does nothing without a notification socket."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            _LOG.warning("cannot report %r to systemd: %s", text, error)


def _client(config: Config, timeout: float) -> Etcd:
    from etcd import Client, Tls

    tls = None
    if config.etcd_cafile:
        tls = Tls(config.etcd_cafile, config.etcd_certfile, config.etcd_keyfile)
    return Client(config.etcd_servers, timeout=timeout, tls=tls)


def _own_sockets(path: Path | None) -> list[socket.socket]:
    if path is None:
        return []
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        previous = os.umask(0o117)
        try:
            listening.bind(str(path))
        finally:
            os.umask(previous)
    except OSError as error:
        listening.close()
        raise Failure("cannot listen there", where=str(path), hint="remove the file if no fleetd uses it") from error
    listening.listen()
    return [listening]


def _default_address() -> str:
    """The address that this machine would send from. Connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737)
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _check(config: Config, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(asdict(config), indent=2, sort_keys=True))
    else:
        print("the configuration is right")
        for name in config.ignored:
            print(f"fleetd: warning: the setting {name} has no effect", file=sys.stderr)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="fleetd",
        description="Run the units of a cluster that are this machine's, and take part in deciding which those are.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: /etc/fleet/fleet.conf, if it exists)"
    )
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    parser.add_argument("--json", action="store_true", help="with --check-config: print the settings as JSON")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="also serve the API on this unix socket")
    return parser
