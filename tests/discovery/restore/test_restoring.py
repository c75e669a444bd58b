"""Two of three real members destroyed: the third starts again, from its own data and from a backup."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from discovery.backup import take
from discovery.backup.scratch import BUMP
from discovery.backup.shelf import Shelf
from discovery.beside import Beside
from discovery.node import Node
from discovery.restore.facts import DATA, chosen, require_lost, sources
from discovery.restore.restoring import Restoring
from discovery.restore.survey import Survey
from etcd import Client, Compacted
from terminal import Failure
from tests.discovery.backup.living import VALUES, tools
from tests.discovery.three import NAMES, Three, three
from tests.eventually import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.slow]


class Unit:
    """The first member, as systemd would run it: as what its data says that it is."""

    def __init__(self, cluster: Three) -> None:
        self._cluster = cluster

    def stop(self) -> None:
        """See :class:`discovery.restore.restoring.Service`."""
        etcd = self._cluster.etcds[0]
        if etcd.poll() is None:
            etcd.signal(signal.SIGTERM)
            etcd.wait_exit()

    def start(self) -> None:
        """The same."""
        self._cluster.start(0, f"--initial-cluster={NAMES[0]}={self._cluster.etcds[0].peer}")


class Ruin:
    """The first of three members after the others are gone, and what a node has to restore it."""

    def __init__(self, cluster: Three, binary: str, directory: Path) -> None:
        self.cluster = cluster
        etcd = cluster.etcds[0]
        settings = {
            "ETCD_NAME": NAMES[0],
            "ETCD_DATA_DIR": str(etcd.directory),
            "ETCD_LISTEN_CLIENT_URLS": etcd.endpoint,
            "ETCD_LISTEN_PEER_URLS": etcd.peer,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": etcd.peer,
        }
        nothing = directory / "no-certificates"
        self.node = Node.of(settings, NAMES[0], nothing)
        self.shelf = Shelf(directory / "backups")
        self.survey = Survey(self.node, self.shelf, tools(binary), nothing)
        self.said: list[str] = []
        self.restoring = Restoring(
            self.node, self.shelf, tools(binary), Unit(cluster), cluster.member(0), self.said.append
        )

    def lose(self) -> None:
        """The other two, with their disks."""
        for number in (1, 2):
            self.cluster.wipe(number)


@contextmanager
def ruin(binary: str, directory: Path) -> Iterator[Ruin]:
    """Three members that live, and have values."""
    with three(binary, directory / "three") as cluster:
        client = cluster.client(0)
        for key, value in VALUES.items():
            client.put(key, value)
        client.close()
        yield Ruin(cluster, binary, directory)


def values(client: Client) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in client.range("/flotilla/").kvs}


def test_a_survivor_without_a_backup(etcd_binary: str, tmp_path: Path) -> None:
    """It is asked while it runs, and once more after it was started again, when it answers no client any more."""
    with ruin(etcd_binary, tmp_path) as found:
        cluster = found.cluster
        facts = found.survey.facts()
        assert {each.name for each in facts.survivors if each.has_quorum} == set(NAMES)
        with pytest.raises(Failure, match="has a quorum"):
            require_lost(facts)
        cluster.wipe(1)
        eventually(lambda: cluster.member(0).condition().status.leader, cluster.log)
        client = cluster.client(0)
        eventually(client.health, cluster.log)
        client.put("/last", b"acknowledged by two")
        with pytest.raises(Failure, match="has a quorum"):
            require_lost(found.survey.facts())
        eventually(lambda: cluster.member(0).keys_at(0) == len(VALUES) + 1, cluster.log)
        cluster.wipe(2)
        eventually(lambda: cluster.member(0).condition().status.leader == 0, cluster.log)

        facts = found.survey.facts()
        require_lost(facts)
        assert facts.here is not None
        assert {(each.name, each.revision) for each in facts.survivors[1:]} == {("two", None), ("three", None)}
        revision = facts.here.revision
        assert revision == cluster.member(0).condition().status.revision

        Unit(cluster).stop()
        cluster.start(0)
        again = found.survey.facts()
        require_lost(again)
        assert again.trouble == ""
        assert again.here is not None
        assert again.here.revision == revision, "of a copy of its data"
        source = chosen(again)
        assert source.name == DATA
        watched = revision
        done = found.restoring.run(source)
        assert done.revision == (revision or 0) + BUMP
        assert done.keys == len(VALUES) + 1
        assert values(client) == VALUES
        last = client.get("/last")
        assert last is not None
        assert last.value == b"acknowledged by two"
        assert [member.name for member in client.members()] == [NAMES[0]]
        with closing(client.watch("/flotilla/", (watched or 0) + 1)) as watch, pytest.raises(Compacted):
            next(watch)
        client.put("/new", b"1")
        assert done.aside.is_dir()
        client.close()
        with pytest.raises(Failure, match="has a quorum"):
            require_lost(found.survey.facts())
        assert [path.name for path in found.shelf.path.iterdir()] == []


def test_a_backup_where_the_data_is_gone(etcd_binary: str, tmp_path: Path) -> None:
    with ruin(etcd_binary, tmp_path) as found:
        cluster = found.cluster
        backup = take.run(found.shelf, cluster.member(0), tools(etcd_binary), take.Settings(), 1_790_000_000)
        client = cluster.client(0)
        client.put("/after", b"the backup")
        found.lose()
        cluster.wipe(0)
        facts = found.survey.facts()
        require_lost(facts)
        assert "no data of etcd" in facts.trouble
        assert [each.name for each in sources(facts)] == [backup.name]

        path = found.shelf.path / backup.name
        data = path.read_bytes()
        path.write_bytes(data[:-1000] + bytes(1000))
        with pytest.raises(Failure, match="damaged"):
            found.restoring.run(chosen(facts))
        path.write_bytes(data)
        Unit(cluster).stop()
        shutil.rmtree(found.node.data, ignore_errors=True)  # of the etcd that was started again, and found no member

        done = found.restoring.run(chosen(facts))
        assert done.revision == backup.revision + BUMP
        assert values(client) == VALUES
        assert client.get("/after") is None
        client.put("/new", b"1")
        client.close()
        assert found.shelf.backups() == [backup]


def test_a_restore_that_is_killed_between_two_renames_goes_on(etcd_binary: str, tmp_path: Path) -> None:
    with ruin(etcd_binary, tmp_path) as found:
        found.lose()
        revision = found.cluster.member(0).condition().status.revision
        assert not found.restoring.resume()

        class Killed(BaseException):
            """As by a signal."""

        original = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if self.name.endswith(".restoring"):
                raise Killed
            return original(self, target)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "rename", rename)
            patch.setattr(Unit, "start", lambda _: None)
            found.restoring.run(chosen(found.survey.facts()))
        assert not found.node.data.exists()
        ended = Beside(found.node.data).ended
        ended.touch()
        assert found.restoring.resume()
        assert not ended.exists(), "it would wait for those that are lost"
        found.cluster.etcds[0].wait_healthy()
        client = found.cluster.client(0)
        assert values(client) == VALUES
        assert client.status().revision >= revision + BUMP
        client.close()
        assert not found.restoring.resume()


def test_a_failure_leaves_the_member_as_it_was(etcd_binary: str, tmp_path: Path) -> None:
    with ruin(etcd_binary, tmp_path) as found:
        found.lose()
        source = chosen(found.survey.facts())
        before = {path.name for path in found.node.wal.glob("*.wal")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "copytree", _no_room)
            with pytest.raises(Failure, match="cannot copy this node's data"):
                found.restoring.run(source)
        assert found.cluster.etcds[0].poll() is None, "it was started again"
        assert before == {path.name for path in found.node.wal.glob("*.wal")}


def _no_room(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
