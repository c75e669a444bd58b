"""Real etcd that is full, and real etcd with a damaged member, healed with their data."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.cli import run
from discovery.repair import Cluster, once
from etcd import Corrupt, NoSpace, Unavailable
from etcd.maintenance import CORRUPT, NOSPACE, Alarm
from terminal import Failure
from tests.discovery.backup.living import VALUES
from tests.discovery.three import NAMES, Three, three
from tests.eventually import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

MIB = 1 << 20


def kinds(cluster: Three, number: int) -> list[str]:
    looked = Cluster(cluster.etcds[number].endpoint).look()
    return [alarm.kind for alarm in looked.sight.alarms]


def fill(cluster: Three, key: Callable[[int], str], size: int = MIB) -> int:
    """Write values of ``size`` bytes until etcd is full; how many it took."""
    client = cluster.client(0)
    try:
        for count in range(1000):
            try:
                client.put(key(count), bytes([count % 256]) * size)
            except NoSpace:
                return count
    finally:
        client.close()
    raise AssertionError("it is never full")


def test_full_of_history_it_is_healed_with_its_data(etcd_binary: str, tmp_path: Path) -> None:
    with three(etcd_binary, tmp_path / "three", f"--quota-backend-bytes={24 * MIB}") as cluster:
        client = cluster.client(0)
        for key, value in VALUES.items():
            client.put(key, value)
        assert once(cluster.etcds[cluster.leader()].endpoint, say=print) is None
        count = fill(cluster, lambda _: "/one/key")
        assert 5 < count < 32
        eventually(lambda: kinds(cluster, 0) == kinds(cluster, 1) == kinds(cluster, 2) != [], cluster.log)
        leader = cluster.leader()
        said: list[str] = []
        for number in {0, 1, 2} - {leader}:
            assert once(cluster.etcds[number].endpoint, say=said.append) is None
        assert said == [], "only the leader's node repairs"
        before = cluster.member(leader).condition().status.db_size
        decided = once(cluster.etcds[leader].endpoint, say=said.append)
        assert decided is not None
        defragmented = [line.partition(":")[0] for line in said if "defragmented" in line]
        assert sorted(defragmented) == sorted(NAMES)
        assert defragmented[-1] == NAMES[leader]
        for number in range(3):
            assert cluster.member(number).condition().status.db_size < before / 2
        client.put("/again", b"1")
        assert {kv.key: kv.value for kv in client.range("/flotilla/").kvs} == VALUES
        found = client.get("/one/key")
        assert found is not None
        assert len(found.value) == MIB
        client.close()
        assert kinds(cluster, 0) == []
        assert once(cluster.etcds[leader].endpoint, say=print) is None


def test_full_of_data_the_alarm_stays_and_says_why(
    etcd_binary: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with three(etcd_binary, tmp_path / "three", f"--quota-backend-bytes={8 * MIB}") as cluster:
        endpoint = cluster.etcds[cluster.leader()].endpoint
        keys = itertools.count()
        with pytest.raises(Failure, match="delete keys, or raise quota-backend-bytes"):
            for _ in range(20):  # a file that is full has room again after a defragmentation, until its data fills it
                fill(cluster, lambda _: f"/key/{next(keys)}", MIB // 4)
                assert run(["alarms", "--repair", "--endpoint", endpoint]) == 0
        capsys.readouterr()
        assert run(["alarms", "--endpoint", endpoint]) == 1
        assert "alarm NOSPACE, raised for " in capsys.readouterr().out
        client = cluster.client(0)
        for count in range(5):
            client.delete(f"/key/{count}")
        assert run(["alarms", "--repair", "--endpoint", endpoint]) == 0
        client.put("/key/0", b"1")
        client.close()
        capsys.readouterr()
        assert run(["alarms", "--json", "--endpoint", endpoint]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["alarms"] == []
        assert found["quota"] == 8 * MIB
        assert {each["name"] for each in found["members"]} == set(NAMES)


def test_a_member_with_other_data_is_removed_and_joins_again(etcd_binary: str, tmp_path: Path) -> None:
    checks = ("--experimental-compact-hash-check-enabled=true", "--experimental-compact-hash-check-time=1s")
    with three(etcd_binary, tmp_path / "three", *checks) as cluster:
        client = cluster.client(0)
        for key, value in VALUES.items():
            client.put(key, value)
        bad = next(number for number in (2, 1) if number != cluster.leader())
        damage(cluster, bad)
        good = [number for number in range(3) if number != bad]
        client.put("/later", b"1")
        client.compact(client.put("/later", b"2"))
        eventually(lambda: any(CORRUPT in kinds(cluster, number) for number in good), cluster.log)
        eventually(lambda: refuses(lambda: client.put("/refused", b"1")), cluster.log)

        said: list[str] = []

        def healed() -> bool:
            for number in good:
                with suppress(Unavailable):  # etcd takes no change within 5 s of a member's return
                    once(cluster.etcds[number].endpoint, say=said.append)
            return not kinds(cluster, good[0])

        eventually(healed, cluster.log)
        assert [line for line in said if "removed" in line] == [
            f"removed {NAMES[bad]}, whose data is not that of the others"
        ]
        assert said[-1] == "ended the alarm CORRUPT"
        client.close()
        client = cluster.client(good[0])
        assert {kv.key: kv.value for kv in client.range("/flotilla/").kvs} == VALUES
        client.put("/again", b"1")
        assert cluster.etcds[bad].wait_exit() == 0, "it has found itself removed"

        cluster.wipe(bad)
        client._transport.call("/v3/cluster/member/add", {"peerURLs": [cluster.etcds[bad].peer]}, resend=False)
        joined = ",".join(f"{name}={etcd.peer}" for name, etcd in zip(NAMES, cluster.etcds, strict=True))
        cluster.start(bad, f"--initial-cluster={joined}", "--initial-cluster-state=existing")
        cluster.etcds[bad].wait_healthy()
        fresh = cluster.client(bad)
        assert {kv.key: kv.value for kv in fresh.range("/flotilla/").kvs} == VALUES
        fresh.close()
        client.close()
        looked = Cluster(cluster.etcds[good[0]].endpoint).look()
        assert len({each.hash for each in looked.sight.members}) == 1


def refuses(what: Callable[[], object]) -> bool:
    try:
        what()
    except Corrupt:
        return True
    return False


def damage(cluster: Three, number: int) -> None:
    """A value in its file becomes another, while it is off: a disk that lies."""
    etcd = cluster.etcds[number]
    eventually(lambda: cluster.member(number).keys_at(0) == len(VALUES), cluster.log)
    etcd.signal(signal.SIGTERM)
    etcd.wait_exit()
    path = etcd.directory / "member" / "snap" / "db"
    data = path.read_bytes()
    value = VALUES["/flotilla/17"]
    assert value in data
    path.write_bytes(data.replace(value, value.upper()))
    cluster.start(number)
    etcd.wait_healthy()


def test_an_alarm_of_a_member_that_is_gone_is_ended(etcd_binary: str, tmp_path: Path) -> None:
    """By real etcd's own account of it, whose form :func:`discovery.alarms.alarms_in` reads."""
    with three(etcd_binary, tmp_path / "three") as cluster:
        leader = cluster.leader()
        member = cluster.member(leader)
        member._ask("/v3/maintenance/alarm", {"action": "ACTIVATE", "memberID": "77", "alarm": CORRUPT})
        member._ask("/v3/maintenance/alarm", {"action": "ACTIVATE", "memberID": "0", "alarm": NOSPACE})
        looked = Cluster(cluster.etcds[leader].endpoint).look()
        assert sorted(looked.sight.alarms) == [Alarm(0, NOSPACE), Alarm(77, CORRUPT)]
        for _ in range(2):
            assert once(cluster.etcds[leader].endpoint, say=print) is not None
        assert once(cluster.etcds[leader].endpoint, say=print) is None
