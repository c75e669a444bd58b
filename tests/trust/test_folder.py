"""A trust folder on the disk: its permissions, its lock, what is wrong with one, and death at any moment."""

from __future__ import annotations

import datetime
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509

import trust
from enrolment import keys
from enrolment.files import GIVEN
from terminal import Failure
from terminal.lock import locked
from tests.trust.issuing import Asking
from trust import enrolling, folder, issuer, overview, profile

ROOT = Path(__file__).parents[2]


def modes(path: Path) -> dict[str, int]:
    return {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.iterdir()}


def lists(lab: Path) -> set[str]:
    """The serials in the lists of a folder, each of which is signed by its authority."""
    found: set[str] = set()
    for name in profile.AUTHORITIES:
        authority = x509.load_pem_x509_certificate((lab / f"{name}-ca.crt").read_bytes())
        crl = x509.load_pem_x509_crl((lab / f"{name}.crl").read_bytes())
        assert crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
        found |= {f"{one.serial_number:x}" for one in crl}
    return found


def revoked(lab: Path) -> set[str]:
    return {one.serial for one in overview.read(lab).issued if one.revoked}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_keys_are_their_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        trust.create(tmp_path / "lab")
        with folder.made(tmp_path / "out") as files:
            files.update(trust.issue_node(tmp_path / "lab", "node-1", ["10.0.0.1"]).files)
    finally:
        os.umask(before)
    for path in (tmp_path / "lab", tmp_path / "out"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for name, mode in modes(path).items():
            assert mode == (0o600 if name.endswith((".key", ".json")) else 0o644), name
    assert sorted(one.name for one in tmp_path.iterdir()) == ["lab", "out"]


def test_what_is_there_is_not_overwritten(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "empty").mkdir(0o755)
    for path in (lab, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(Failure, match="is there already"):
            trust.create(path)
    with pytest.raises(Failure, match="cannot be written"):
        trust.create(tmp_path / "no/where")
    trust.create(tmp_path / "empty")
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


def test_where_nothing_can_be_written_nothing_is_issued(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot be written"), folder.made(tmp_path / "no/where") as files:
        files.update(trust.issue_node(lab, "node-1", ["10.0.0.1"]).files)
    assert overview.read(lab).issued == ()


def test_what_is_no_trust_folder(lab: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path, "not a trust folder"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(Failure, match=message) as caught:
            overview.read(path)
        assert "trust init" in str(caught.value.hint)


@pytest.mark.parametrize("name", [".", "trust.json", "fleet-ca.key"])
@pytest.mark.parametrize("mode", [0o040, 0o004, 0o020])
def test_a_folder_that_others_may_open_is_not_used(lab: Path, name: str, mode: int) -> None:
    path = lab / name
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(Failure, match="others may open it") as caught:
        trust.issue_user(lab, "kim", "reader")
    assert f"chmod go= {path}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("trust.json", "", "not the ledger of a trust folder"),
        ("trust.json", "{}", "not the ledger of a trust folder"),
        ("fleet-ca.key", "", "this authority cannot be used"),
        ("fleet-ca.key", "etcd-peers-ca.key", "this authority cannot be used"),
        ("fleet-ca.crt", "etcd-peers-ca.crt", "this authority cannot be used"),
        ("fleet-ca.crt", "\0", "this authority cannot be used"),
    ],
)
def test_a_broken_file_is_named(lab: Path, name: str, text: str, message: str) -> None:
    (lab / name).write_text((lab / text).read_text() if text.startswith("etcd") else text)
    with pytest.raises(Failure, match=message) as caught:
        trust.issue_user(lab, "kim", "reader")
    assert str(lab / name.partition(".")[0]) in str(caught.value.where)
    assert "copy" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["fleet-ca.key", "fleet-ca.crt"])
def test_a_lost_file_is_named(lab: Path, name: str) -> None:
    (lab / name).unlink()
    with pytest.raises(Failure, match="No such file") as caught:
        trust.issue_user(lab, "kim", "reader")
    assert caught.value.where == str(lab / name)


@pytest.mark.parametrize("text", [None, "", "fleet.crl", "not a list"])
def test_a_list_that_is_lost_or_wrong_is_made_again(lab: Path, text: str | None) -> None:
    trust.issue_node(lab, "node-1", ["10.0.0.1"])
    serials = {one.serial for one in trust.revoke(lab, "node-1", node=True)}
    path = lab / "etcd-peers.crl"
    if text is None:
        path.unlink()
    else:
        path.write_text((lab / text).read_text() if text == "fleet.crl" else text)
    trust.issue_user(lab, "kim", "reader")
    assert lists(lab) == serials


def test_who_writes_waits_for_the_lock_and_who_reads_for_who_writes(lab: Path) -> None:
    threads = [
        threading.Thread(target=lambda: trust.issue_user(lab, "kim", "reader")),
        threading.Thread(target=lambda: overview.read(lab)),
    ]
    with locked(lab, fcntl.LOCK_EX):
        for thread in threads:
            thread.start()
            thread.join(0.05)
            assert thread.is_alive()
    for thread in threads:
        thread.join()
    with locked(lab, fcntl.LOCK_SH):
        assert len(overview.read(lab).issued) == 1


def test_many_at_once_lose_none(lab: Path) -> None:
    names = [f"user-{number}" for number in range(8)]
    threads = [threading.Thread(target=trust.issue_user, args=(lab, name, "reader")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.name for one in overview.read(lab).issued) == names


@pytest.mark.parametrize("step", ["init", "issue", "revoke", "enrol"])
def test_death_at_any_moment_leaves_a_folder_that_opens(lab: Path, tmp_path: Path, step: str) -> None:
    trust.issue_user(lab, "kim", "reader")
    words = [sys.executable, "-m", "tests.trust.dying", step, str(lab), str(tmp_path / "many")]
    environment = dict(os.environ)
    if step == "enrol":
        secret = issuer.new_secret(lab, uses=1, ttl=datetime.timedelta(1), networks=["10.0.0.0/24"])[1]
        asking = Asking(tmp_path, "node-2", secret, "10.0.0.2")
        body = asking.request.dump()
        environment["REQUEST"] = str(tmp_path / "request")
        (tmp_path / "request").write_bytes(body + b"\n" + keys.sign(asking.machine, body).hex().encode())
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deaths = int(done.stdout)
    assert deaths > (10 if step == "init" else 20)
    outcomes: set[object] = set()
    for number in range(deaths + 1):
        each = tmp_path / f"many/{number}"
        if step == "init":
            outcomes.add(each.exists())
            if not each.exists():
                continue  # what is beside it has another name, and a second init finds nothing in its way
            trust.issue_user(each, "kim", "reader")
        names = [one.name for one in overview.read(each).issued]
        assert names in (["kim"], ["kim", *["node-2"] * 4])
        out = each.with_suffix(".out")
        assert not list((tmp_path / "many").glob(".*")), "what is left of one that died is removed by the next"
        outcomes.add((len(names), out.exists(), len(revoked(each))))
        assert not out.exists() or len(names) == 5  # none is given out that is not in the ledger
        if step == "enrol":
            # Whatever the node has heard, it asks again, and its secret, which is for one, is still its own.
            again = enrolling.enrol(
                each, body, keys.sign(asking.machine, body), "127.0.0.1", now=datetime.datetime.now(datetime.UTC)
            )
            assert again.files.keys() == GIVEN
            assert [used for _, used in overview.read(each).secrets] == [1]
        trust.issue_node(each, "node-3", ["10.0.0.3"])
        assert lists(each) == revoked(each)
        assert not [name for name in modes(each) if name.endswith(".new")]
    expected: dict[str, set[object]] = {
        "init": {False, True, (1, False, 0)},
        "issue": {(1, False, 0), (5, False, 0), (5, True, 0)},
        "enrol": {(1, False, 0), (5, False, 0), (5, True, 0)},
        "revoke": {(1, False, 0), (1, False, 1)},
    }
    assert outcomes == expected[step]


def test_what_a_kill_left_is_removed_and_what_others_make_is_not(lab: Path, tmp_path: Path) -> None:
    """Also for another name than the one that was to be made; what is not ours stays, whatever it is called."""
    (tmp_path / ".trust-unfinished-file").touch()
    (tmp_path / ".trust-unfinished-link").symlink_to(lab)
    with folder.made(tmp_path / "slow") as slow:
        (other,) = [one for one in tmp_path.glob(".trust-unfinished-*") if one.is_dir() and not one.is_symlink()]
        (tmp_path / ".trust-unfinished-dead").mkdir(0o700)
        (tmp_path / ".trust-unfinished-dead/fleet-client.key").touch()
        with folder.made(tmp_path / "quick") as quick:
            quick["a"] = "1"
        assert other.exists()
        slow["b"] = "2"
    assert (tmp_path / "slow/b").read_text() == "2"
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        *(".trust-unfinished-file", ".trust-unfinished-link", "lab", "quick", "slow")
    ]
    assert (lab / "trust.json").exists()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(".trust-unfinished-*"))
            taken[0].rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with folder.made(tmp_path / "out") as files:
        files["a"] = "1"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("inside", ["kim", "deep/er/kim", "link/kim"])
def test_nothing_is_given_out_into_a_trust_folder(lab: Path, tmp_path: Path, inside: str) -> None:
    (lab / "deep/er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(lab / "deep")
    out = (tmp_path if inside.startswith("link") else lab) / inside
    with pytest.raises(Failure, match="inside of a trust folder") as caught, folder.made(out) as files:
        files.update(trust.issue_user(lab, "kim", "reader").files)
    assert str(lab) in str(caught.value.hint)
    assert not out.exists()
    assert overview.read(lab).issued == ()
