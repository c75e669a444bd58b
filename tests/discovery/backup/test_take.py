"""Backups of a real etcd: proven, whole whatever happens, and refused if they are not what the member has."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.backup import take
from discovery.backup.scratch import Contents, contents
from discovery.backup.shelf import Backup, Shelf, require_whole
from discovery.backup.state import METRICS, STATE, State
from discovery.cli import run
from etcd import Client, Tls, credentials
from etcd.maintenance import Condition, HashAt, Maintenance
from terminal import Failure
from tests import trusted
from tests.conftest import EtcdProcess
from tests.discovery.backup.living import VALUES, living, member, tools
from tests.eventually import ended, eventually

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

NOW = 1_790_000_000
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def etcd(etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One for all tests, which only read."""
    with living(etcd_binary, tmp_path_factory.mktemp("take") / "etcd") as found:
        yield found


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups")


@pytest.fixture(scope="module")
def good(etcd: EtcdProcess, etcd_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup; copy it before you change it."""
    shelf = Shelf(tmp_path_factory.mktemp("good") / "backups")
    return shelf.path / take.run(shelf, member(etcd), tools(etcd_binary), take.Settings(), NOW).name


def files(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.path.iterdir())


def test_a_backup_is_proven_named_private_and_reported(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    before = member(etcd).condition()
    backup = take.run(shelf, member(etcd), tools(etcd_binary), take.Settings(), NOW)
    status = before.status
    assert (backup.taken, backup.revision, backup.raft_index) == (NOW, status.revision, status.raft_index)
    assert backup.keys == len(VALUES) + 1
    assert shelf.backups() == [backup]
    assert files(shelf) == sorted([backup.name, STATE, METRICS]), "nothing else is left"
    assert (shelf.path / backup.name).stat().st_mode & 0o777 == 0o600
    assert shelf.path.stat().st_mode & 0o777 == 0o700
    state = State.on(shelf)
    assert state.last is not None
    assert (state.last.taken, state.last.size, state.last.revision) == (NOW, backup.size, backup.revision)
    assert f"flotilla_etcd_backup_last_success_timestamp_seconds {NOW}\n" in (shelf.path / METRICS).read_text()
    assert member(etcd).condition().status.revision == status.revision, "the backup wrote to etcd"


def test_what_is_restored_is_what_was_there(good: Path, etcd_binary: str, tmp_path: Path) -> None:
    restored = EtcdProcess(etcd_binary, tmp_path / "restored")
    tools(etcd_binary).restore(
        good,
        restored.directory,
        f"--initial-cluster=default={restored.peer}",
        f"--initial-advertise-peer-urls={restored.peer}",
    )
    restored.start()
    try:
        restored.wait_healthy()
        client = Client([restored.endpoint])
        assert {kv.key: kv.value for kv in client.range("/flotilla/").kvs} == VALUES
        assert client.get("/gone") is None
        client.close()
    finally:
        restored.kill()


def test_only_the_newest_are_kept(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    made = [take.run(shelf, member(etcd), tools(etcd_binary), take.Settings(keep=2), NOW + n) for n in range(3)]
    assert shelf.backups() == [made[2], made[1]]
    assert State.on(shelf).kept == 2
    (shelf.path / "a-file-of-someone-else.db").write_text("")
    shelf.prune(0)
    assert files(shelf) == sorted(["a-file-of-someone-else.db", STATE, METRICS])


def test_the_users_command_gets_the_backup_and_none_needs_to_stay(
    etcd: EtcdProcess, etcd_binary: str, shelf: Shelf, tmp_path: Path
) -> None:
    command = f"cat >{tmp_path}/sent && echo $BACKUP_NAME $BACKUP_MEMBER $BACKUP_SHA256 >{tmp_path}/about"
    settings = take.Settings(keep=0, command=command, name="node-1")
    backup = take.run(shelf, member(etcd), tools(etcd_binary), settings, NOW)
    digest = subprocess.run(["sha256sum", tmp_path / "sent"], capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "about").read_text().split() == [backup.name, "node-1", digest.split()[0]]
    require_whole(tmp_path / "sent")
    assert shelf.backups() == []
    state = State.on(shelf)
    assert (state.sent, state.last is not None and state.last.taken) == (NOW, NOW)


def test_a_command_that_fails_is_an_error_with_what_it_said(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    settings = take.Settings(keep=0, command="head -c 100 >/dev/null; echo the store is full >&2; exit 3")
    with pytest.raises(Failure, match="ended with 3: the store is full"):
        take.run(shelf, member(etcd), tools(etcd_binary), settings, NOW)
    assert len(shelf.backups()) == 1, "it is the only copy"
    state = State.on(shelf)
    assert "the store is full" in state.trouble
    assert state.sent is None
    assert state.last is not None, "the backup itself is good"
    assert "flotilla_etcd_backup_failed 1\n" in (shelf.path / METRICS).read_text()


@pytest.mark.parametrize("cut", [1, 32, 512, 4096 + 32, 1 << 40])
def test_a_truncated_snapshot_is_refused(good: Path, etcd_binary: str, tmp_path: Path, cut: int) -> None:
    broken = tmp_path / good.name
    broken.write_bytes(good.read_bytes()[: -min(cut, good.stat().st_size)])
    with pytest.raises(Failure, match=r"cut off|damaged"):
        contents(tools(etcd_binary), broken, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("where", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_is_refused(good: Path, etcd_binary: str, tmp_path: Path, where: float) -> None:
    broken = tmp_path / good.name
    data = bytearray(good.read_bytes())
    data[int(where * len(data))] ^= 0x10
    broken.write_bytes(data)
    with pytest.raises(Failure, match="damaged"):
        contents(tools(etcd_binary), broken, tmp_path / "scratch")


class Liar(Maintenance):
    """A member whose snapshot is that of another, whole as it is: what etcd issue 18340 feared."""

    def __init__(self, endpoint: str, wrong: Callable[[HashAt], HashAt], keys: int = 0) -> None:
        super().__init__(endpoint, timeout=30)
        self._wrong, self._more = wrong, keys

    def hash_at(self, revision: int) -> HashAt:
        return self._wrong(super().hash_at(revision))

    def keys_at(self, revision: int) -> int:
        return super().keys_at(revision) + self._more


@pytest.mark.parametrize(
    ("wrong", "keys", "complaint"),
    [
        (lambda found: found._replace(value=found.value ^ 1), 0, "not what the member has: hash"),
        (lambda found: found, 1, "not what the member has: keys"),
        (lambda found: found._replace(compacted=found.compacted + 1), 0, "forgets its history faster"),
    ],
)
def test_a_snapshot_that_is_not_what_the_member_has_is_no_backup(
    etcd: EtcdProcess,
    etcd_binary: str,
    shelf: Shelf,
    wrong: Callable[[HashAt], HashAt],
    keys: int,
    complaint: str,
) -> None:
    with pytest.raises(Failure, match=complaint):
        take.run(shelf, Liar(etcd.endpoint, wrong, keys), tools(etcd_binary), take.Settings(), NOW)
    assert shelf.backups() == []
    assert State.on(shelf).last is None
    assert files(shelf) == [METRICS, STATE]


class Large(Maintenance):
    """A member whose database has this many bytes, by its own account."""

    def condition(self) -> Condition:
        found = super().condition()
        return found._replace(status=replace(found.status, db_size=1 << 60))


def test_a_disk_without_room_is_not_filled(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    with pytest.raises(Failure, match=r"needs \d+ MiB for a moment, and \d+ MiB are free"):
        take.run(shelf, Large(etcd.endpoint), tools(etcd_binary), take.Settings(), NOW)
    assert files(shelf) == [METRICS, STATE]


SMALL_DISK = """
import resource, sys
sys.path.insert(0, {root!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from discovery.cli import main
sys.exit(main())
"""


def arguments(shelf: Shelf, etcd: EtcdProcess, binary: str) -> list[str]:
    return ["backup", "--directory", str(shelf.path), "--endpoint", etcd.endpoint, "--etcd", binary]


def test_a_write_that_fails_leaves_the_last_good_one(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    """No more than 8 KiB can be written to a file: the snapshot ends as on a full disk."""
    first = take.run(shelf, member(etcd), tools(etcd_binary), take.Settings(), NOW)
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK.format(root=str(ROOT)), *arguments(shelf, etcd, etcd_binary)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cannot write the backup" in done.stderr
    assert "File too large" in done.stderr
    assert shelf.backups() == [first]
    state = State.on(shelf)
    assert state.last is not None
    assert state.last.taken == NOW
    assert "cannot write the backup" in state.trouble
    assert files(shelf) == sorted([first.name, STATE, METRICS])


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from discovery import cli
from discovery.backup import command
left = {operation}
def die(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def hook(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and {folder!r} in str(arguments[0]):
        die()
for name in ("fsync",):
    def counted(*given, original=getattr(os, name)):
        die()
        original(*given)
    setattr(os, name, counted)
sys.addaudithook(hook)
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_kill_at_each_file_operation_leaves_the_last_good_backup(
    etcd: EtcdProcess, etcd_binary: str, shelf: Shelf
) -> None:
    """SIGKILL at the first, the second, ... open, rename, unlink, mkdir and fsync; then the next run works."""
    kept = [take.run(shelf, member(etcd), tools(etcd_binary), take.Settings(keep=1), NOW)]

    def killed(operation: int) -> subprocess.CompletedProcess[str]:
        script = KILLED.format(root=str(ROOT), operation=operation, folder=str(shelf.path))
        argv = [sys.executable, "-c", script, *arguments(shelf, etcd, etcd_binary), "--keep=1"]
        return subprocess.run(argv, capture_output=True, text=True)

    for operation in itertools.count(1):
        done = killed(operation)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, (operation, done.stderr)
        found = shelf.backups()
        assert found, f"no backup after a kill at operation {operation}"
        assert kept[0] in found or found[0].taken > kept[0].taken
        for backup in found:
            require_whole(shelf.path / backup.name)
        state = State.on(shelf)
        assert state.last is not None
        assert state.last.taken == found[0].taken
        kept = found
    assert operation > 20, "each of them was met"
    assert len(shelf.backups()) == 1
    assert files(shelf) == sorted([shelf.backups()[0].name, STATE, METRICS])


def test_two_at_once_are_refused(etcd: EtcdProcess, etcd_binary: str, shelf: Shelf) -> None:
    with shelf.holding(), pytest.raises(Failure, match="another backup is being taken"):
        take.run(Shelf(shelf.path), member(etcd), tools(etcd_binary), take.Settings(), NOW)


def test_the_command_lists_what_it_took(
    etcd: EtcdProcess, etcd_binary: str, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments(shelf, etcd, etcd_binary), "--json"]) == 0
    taken = json.loads(capsys.readouterr().out)
    assert run(["backup", "--list", "--json", "--directory", str(shelf.path)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["backups"] == [taken]
    assert listed["last"]["revision"] == taken["revision"]
    assert run(["backup", "--list", "--directory", str(shelf.path)]) == 0
    text = capsys.readouterr().out
    assert "TAKEN (UTC)" in text
    assert f" {taken['keys']} " in text
    assert taken["name"] in text


def test_backups_through_mutual_tls(
    make_etcd: Callable[..., EtcdProcess], etcd_binary: str, shelf: Shelf, tmp_path: Path
) -> None:
    folder = trusted.node(tmp_path / "trust")
    server, client = credentials.server(folder), credentials.client(folder)
    assert server is not None
    assert client is not None
    etcd = make_etcd("https")
    etcd.start(
        ETCD_CERT_FILE=server.certificate,
        ETCD_KEY_FILE=server.key,
        ETCD_TRUSTED_CA_FILE=server.authority,
        ETCD_CLIENT_CERT_AUTH="true",
    )
    wanted = Client([etcd.endpoint], tls=Tls(client.authority, client.certificate, client.key), timeout=30)
    eventually(wanted.health, etcd.log)
    wanted.put("/secret", b"1")
    wanted.close()
    assert run([*arguments(shelf, etcd, etcd_binary), "--trust", str(folder)]) == 0
    (backup,) = shelf.backups()
    assert backup.keys == 1
    with pytest.raises(Failure):
        take.run(shelf, Maintenance(etcd.endpoint), tools(etcd_binary), take.Settings(), NOW)
    assert shelf.backups() == [backup]


def test_the_scratch_etcd_ends_with_the_program(good: Path, etcd_binary: str, tmp_path: Path) -> None:
    """It has all secrets, so it must not live on."""
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from discovery.backup.scratch import Tools, started
tools, folder = Tools.beside(Path({etcd_binary!r})), Path({str(tmp_path)!r}) / "scratch"
folder.mkdir()
tools.restore(Path({str(good)!r}), folder / "data")
with started(tools, folder) as member:
    print(member.condition().status.revision, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 1
        scratch = tmp_path / "scratch"
        alive = Maintenance.on_socket(scratch / "client:0")
        assert alive.condition().status.revision > 1
        (pid,) = [
            int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _works_in(path, scratch)
        ]
        process.kill()
    assert ended(pid)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder
    except OSError:
        return False


def test_contents_of_a_good_one(good: Path, etcd_binary: str, tmp_path: Path) -> None:
    shutil.copy(good, tmp_path / "copy.db")
    found = contents(tools(etcd_binary), tmp_path / "copy.db", tmp_path / "scratch")
    backup = Backup.parse(good.name, good.stat().st_size)
    assert backup is not None
    assert found == Contents(backup.revision, backup.keys, backup.hash, found.compacted)
