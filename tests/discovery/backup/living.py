"""A real etcd with something in it, for tests of what is done to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discovery.backup.scratch import Tools
from etcd import Client
from etcd.maintenance import Maintenance
from tests.conftest import EtcdProcess

VALUES = {f"/flotilla/{number}": b"value %d" % number for number in range(40)}


@contextmanager
def living(binary: str, directory: Path, *options: str) -> Iterator[EtcdProcess]:
    """One that has :data:`VALUES`, history before them, and a key with a lease."""
    etcd = EtcdProcess(binary, directory)
    etcd.start(*options)
    try:
        etcd.wait_healthy()
        fill(etcd)
        yield etcd
    finally:
        etcd.kill()


def fill(etcd: EtcdProcess) -> None:
    """The first half of the history is compacted."""
    client = Client([etcd.endpoint])
    for key in VALUES:
        client.put(key, b"an earlier value")
    client.put("/gone", b"")
    client.delete("/gone")
    client.compact(client.status().revision - 5)
    for key, value in VALUES.items():
        client.put(key, value)
    client.put("/leased", b"for a while", lease=client.lease_grant(3600).id)
    client.close()


def values(etcd: EtcdProcess) -> dict[str, bytes]:
    """What it has of :data:`VALUES`."""
    client = Client([etcd.endpoint])
    try:
        return {kv.key: kv.value for kv in client.range("/flotilla/").kvs}
    finally:
        client.close()


def member(etcd: EtcdProcess) -> Maintenance:
    """To ask it alone."""
    return Maintenance(etcd.endpoint, timeout=30)


def tools(binary: str) -> Tools:
    """Beside that etcd."""
    return Tools.beside(Path(binary))
