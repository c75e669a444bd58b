"""Three members of one real etcd, for tests of what is done when some of them fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from etcd import Client
from etcd.errors import EtcdError
from etcd.maintenance import Maintenance
from tests.conftest import EtcdProcess
from tests.eventually import eventually

NAMES = ("one", "two", "three")
# Ten times those of EtcdProcess: members that wait for a processor must not lose their leader by that.
_PATIENT = ("--heartbeat-interval=200", "--election-timeout=2000")


class Three:
    """``etcds`` in the order of :data:`NAMES`; ``options`` are given to each."""

    def __init__(self, binary: str, directory: Path, options: Sequence[str] = ()) -> None:
        self.etcds = [EtcdProcess(binary, directory / name) for name in NAMES]
        self._options = (*_PATIENT, *options)

    def start(self, number: int, *options: str) -> None:
        """Start one, as the member that it is or was configured to be; does not wait."""
        cluster = ",".join(f"{name}={etcd.peer}" for name, etcd in zip(NAMES, self.etcds, strict=True))
        found = options or (f"--initial-cluster={cluster}",)
        self.etcds[number].start(f"--name={NAMES[number]}", *found, *self._options)

    def wipe(self, number: int) -> None:
        """It is gone, with its disk."""
        self.etcds[number].kill()
        shutil.rmtree(self.etcds[number].directory)

    def leader(self) -> int:
        """Which of those that answer leads."""

        def found() -> list[int]:
            numbers = []
            for number, etcd in enumerate(self.etcds):
                try:
                    status = Maintenance(etcd.endpoint).condition().status
                except EtcdError:
                    continue
                if status.leader == status.member_id:
                    numbers.append(number)
            return numbers

        return eventually(found)[0]

    def member(self, number: int) -> Maintenance:
        """To ask it alone."""
        return Maintenance(self.etcds[number].endpoint, timeout=60)

    def client(self, number: int) -> Client:
        """To ask the cluster, by way of this one."""
        return Client([self.etcds[number].endpoint], timeout=60)

    def log(self) -> str:
        """Of all."""
        return "\n".join(etcd.log() for etcd in self.etcds)


@contextmanager
def three(binary: str, directory: Path, *options: str) -> Iterator[Three]:
    """Three members that have a leader."""
    directory.mkdir()
    found = Three(binary, directory, options)
    try:
        for number in range(3):
            found.start(number)
        for etcd in found.etcds:
            etcd.wait_healthy()
        yield found
    finally:
        for etcd in found.etcds:
            etcd.kill()
