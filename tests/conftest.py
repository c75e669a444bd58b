"""What all rooms' tests share: hypothesis settings, seeds that are printed on failure, a real browser, and a real etcd.

``real_etcd`` (one process for the whole run) and ``make_etcd`` (as many as a test likes) use, in this order:
``FLOTILLA_ETCD``, the tools closure, the PATH. Where none has an etcd the test fails and says what to do: a test that
cannot run has not passed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from builder.debian.tools import Tools
from terminal import Failure
from tests.browser import WIDE, Browser, browser
from tests.eventually import WITHIN_S, eventually
from tests.ports import free_ports

CI = "CI" in os.environ
"""Chance repeats what it did last time there: a red run is of the change, not of the dice. Elsewhere it explores."""

# No deadline: the machine is shared, and a slow example is not a wrong one.
_CALM = settings(
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=CI,
)
settings.register_profile("whole", _CALM)
settings.register_profile("fast", _CALM, max_examples=20)  # of ./scripts/test --fast
settings.load_profile(os.environ.get("FLOTILLA_PROFILE", "whole"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed for this test: ``FLOTILLA_SEED``, else a new one (under CI one of its name). A failure's report has it."""
    new = zlib.crc32(request.node.nodeid.encode()) if CI else random.SystemRandom().getrandbits(32)
    chosen = int(os.environ.get("FLOTILLA_SEED", new))
    request.node.add_report_section("setup", "seed", f"repeat with FLOTILLA_SEED={chosen}")
    return chosen


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """The browser of a module's tests."""
    with browser() as opened:
        yield opened


@pytest.fixture
def see(window: Browser) -> Iterator[Browser]:
    """The window, wide and light; afterwards, there is no complaint, and nothing but files was requested."""
    window.resize(*WIDE)
    window.dress("light")
    window.scripts(on=True)
    window.complaints()
    window.requests()
    yield window
    assert window.complaints() == []
    assert [address for address in window.requests() if not address.startswith(("file:", "data:,", "about:"))] == []


def _etcd_of_the_tools_closure() -> str | None:
    """The closure's etcd; None if there is no closure to be had, or no etcd in it."""
    try:
        return str(Tools.ours().path("etcd"))
    except Failure:
        return None


@pytest.fixture(scope="session")
def etcd_binary() -> str:
    """The path of an etcd, version 3.5."""
    named = os.environ.get("FLOTILLA_ETCD")
    if named is not None:
        if not os.access(named, os.X_OK):
            pytest.fail(f"FLOTILLA_ETCD={named} is no program")
        return named
    found = _etcd_of_the_tools_closure() or shutil.which("etcd")
    if found is None:
        pytest.fail(
            "no etcd to test with: run `scripts/setup` (it fills the tools closure), or install Debian's etcd-server, or set"
            " FLOTILLA_ETCD to a binary of version 3.5"
        )
    return found


class EtcdProcess:
    """One etcd on loopback; made first, so that its URLs are known, and started then.

    ``endpoint`` is its client URL, ``peer`` its peer URL, ``directory`` its data directory.
    """

    def __init__(self, binary: str, directory: Path, scheme: str = "http") -> None:
        self.directory = directory
        client, peer = free_ports(2)
        self.endpoint = f"{scheme}://127.0.0.1:{client}"
        self.peer = f"http://127.0.0.1:{peer}"
        self._binary = binary
        self._log = directory.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, **environment: str) -> None:
        """Start it, as a cluster of its own unless ``options`` say otherwise; does not wait."""
        argv = [
            *(self._binary, f"--data-dir={self.directory}", "--unsafe-no-fsync", "--log-level=warn"),
            *("--heartbeat-interval=20", "--election-timeout=200"),
            *(f"--listen-client-urls={self.endpoint}", f"--advertise-client-urls={self.endpoint}"),
            *(f"--listen-peer-urls={self.peer}", f"--initial-advertise-peer-urls={self.peer}"),
            *(options or (f"--initial-cluster=default={self.peer}",)),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"]} | environment,
                start_new_session=True,
            )

    def wait_healthy(self, seconds: float = WITHIN_S) -> None:
        """Wait until it has a leader; fails with the log."""

        def healthy() -> bool:
            if (code := self.poll()) is not None:
                pytest.fail(f"etcd exited with {code}:\n{self.log()}")
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer,
            ):
                return b'"true"' in answer.read()
            return False

        eventually(healthy, self.log, seconds)

    def wait_exit(self, seconds: float = WITHIN_S) -> int:
        """Wait until it ends by itself; its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"etcd still runs after {seconds} s:\n{self.log()}")

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP stops its time, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Pull its plug."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def make_etcd(etcd_binary: str, tmp_path: Path) -> Iterator[Callable[..., EtcdProcess]]:
    """``make_etcd()`` makes one more etcd, to be started by the test, which ends with the test."""
    processes: list[EtcdProcess] = []

    def make(scheme: str = "http") -> EtcdProcess:
        processes.append(EtcdProcess(etcd_binary, tmp_path / f"etcd-{len(processes) + 1}", scheme))
        return processes[-1]

    yield make
    for process in processes:
        process.kill()


@pytest.fixture(scope="session")
def real_etcd(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of one etcd that all tests of the run share: use keys under a prefix of your own."""
    process = EtcdProcess(etcd_binary, tmp_path_factory.mktemp("etcd") / "shared")
    process.start(ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL="300ms")
    try:
        process.wait_healthy()
        yield process.endpoint
    finally:
        process.kill()
