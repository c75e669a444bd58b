"""A node and its issuer, over real TLS: enrol, renew, lists; and what goes wrong on the way is tried again."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509

import trust
from enrolment import files, keeper, node
from enrolment.keeper import RENEW_DELAYS_S, Keeper
from enrolment.node import Orders
from enrolment.place import Place
from terminal import Failure
from tests.eventually import eventually
from tests.ports import free_ports
from tests.trust import issuing
from tests.trust.issuing import DAY, Lab, serving
from trust import issuer, names, overview
from trust.service import Issuer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with serving(tmp_path / "lab") as lab:
        yield lab


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return issuing.node(tmp_path)


def written(path: Path, orders: Orders) -> Path:
    """What cloudconfig leaves for the node."""
    path.write_text(json.dumps({name: getattr(orders, name) for name in Orders.__dataclass_fields__}))
    return path


def serial(place: Place) -> int:
    return x509.load_pem_x509_certificate((place.link / "etcd-peer.crt").read_bytes()).serial_number


def kept(place: Place, lab: Lab, ran: list[Sequence[str]] | None = None, said: list[str] | None = None) -> Keeper:
    """A keeper whose clocks are the issuer's."""
    said = [] if said is None else said
    start = lab.clock.now
    return Keeper(
        place,
        said.append,
        run=([] if ran is None else ran).append,
        orders=place.store / "orders",
        now=lab.clock,
        clock=lambda: 1e6 + (lab.clock.now - start).total_seconds(),
    )


def test_the_secret_is_gone_when_it_was_used(lab: Lab, place: Place, tmp_path: Path) -> None:
    orders = written(tmp_path / "orders", lab.orders(lab.secret()))
    said: list[str] = []
    keeper.enrol(place, "Node-1", said.append, orders=orders)
    assert not orders.exists()
    assert {path.name for path in place.link.iterdir()} >= files.GIVEN
    assert len(said) == 1
    keeper.enrol(place, "node-1", said.append, orders=orders)
    assert len(said) == 1


def test_a_node_that_has_enrolled_does_not_again(lab: Lab, place: Place, tmp_path: Path) -> None:
    orders = lab.orders(lab.secret())
    node.enrol(place, orders, "node-1")
    before = serial(place)
    path = written(tmp_path / "orders", orders)
    keeper.enrol(place, "node-1", lambda _: None, orders=path)  # the next boot
    assert not path.exists()
    assert serial(place) == before


def test_without_an_issuer_in_user_data_nothing_is_waited_for(place: Place, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="user-data names no issuer"):
        keeper.enrol(place, "node-1", lambda _: None, orders=tmp_path / "none")


def test_it_asks_until_it_is_let_in(lab: Lab, place: Place, tmp_path: Path) -> None:
    """No issuer, a secret that is used up, and another one in the user-data of the next boot."""
    secret = lab.secret()
    node.enrol(issuing.node(tmp_path, "first"), lab.orders(secret), "node-1")
    lab.issuer.stop()
    (port,) = free_ports(1)
    second = Issuer(lab.path, "127.0.0.1", port, (names.address("127.0.0.1"),))
    orders = tmp_path / "orders"
    written(orders, Orders(f"https://127.0.0.1:{port}", lab.issuer.fingerprint, secret, ("10.0.0.2",)))
    said: list[str] = []
    waits: list[float] = []

    class RebootedError(Exception):
        pass

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            second.start()
        elif len(waits) == 8:
            raise RebootedError

    try:
        with pytest.raises(RebootedError):
            keeper.enrol(place, "node-2", said.append, orders=orders, sleep=sleep)
        assert waits == [1, 2, 4, 8, 15, 30, 30, 30]
        assert len(said) == 2  # one line for each trouble, however often it was tried
        assert "does not answer" in said[0]
        assert "is used up" in said[1]
        assert orders.exists()
        written(orders, Orders(f"https://127.0.0.1:{port}", lab.issuer.fingerprint, lab.secret(), ("10.0.0.2",)))
        keeper.enrol(place, "node-2", said.append, orders=orders)
        assert place.enrolment() is not None
    finally:
        second.stop()


def test_it_renews_at_two_thirds_and_restarts_what_reads_them_once(lab: Lab, place: Place) -> None:
    node.enrol(place, lab.orders(lab.secret()), "node-1")
    before, key = serial(place), (place.link / "etcd-peer.key").read_text()
    ran: list[Sequence[str]] = []
    keeping = kept(place, lab, ran)
    lab.clock.now += 59 * DAY
    keeping.step()
    assert serial(place) == before
    lab.clock.now += 4 * DAY
    keeping.step()
    assert serial(place) != before
    assert (place.link / "etcd-peer.key").read_text() != key
    assert [words[-1] for words in ran] == ["etcd-upkeep.service", "fleet.service"]
    assert {words[:-1] for words in ran} == {("systemctl", "--no-block", "try-restart")}
    keeping.step()
    assert len(ran) == 2


def test_a_renewal_that_fails_is_tried_again_ever_more_seldom(lab: Lab, place: Place) -> None:
    node.enrol(place, lab.orders(lab.secret()), "node-1")
    said: list[str] = []
    keeping = kept(place, lab, said=said)
    lab.issuer.stop()
    lab.clock.now += 70 * DAY
    begin = lab.clock.now
    while lab.clock.now < begin + 6 * issuing.HOUR:
        keeping.step()
        lab.clock.now += datetime.timedelta(seconds=30)
    tries = [line for line in said if line.startswith("cannot renew")]
    assert len(tries) == len(RENEW_DELAYS_S) + 5
    assert len(said) == len(tries) + 1  # that there are no lists is said once
    lab.issuer = Issuer(lab.path, "127.0.0.1", lab.issuer.port, (names.address("127.0.0.1"),), now=lab.clock)
    lab.issuer.start()
    lab.clock.now += datetime.timedelta(seconds=RENEW_DELAYS_S[-1])
    keeping.step()
    assert said[-2:] == ["the issuer answers again", f"renewed, valid until {place.enrolment().not_after}"]  # type: ignore[union-attr]


def test_three_nodes_that_were_off_for_400_days_renew_by_themselves(lab: Lab, tmp_path: Path) -> None:
    secret = lab.secret(uses=3)
    places = [issuing.node(tmp_path, f"node-{number}") for number in (1, 2, 3)]
    for number, each in enumerate(places, 1):
        node.enrol(each, lab.orders(secret, f"10.0.0.{number}"), f"node-{number}")
    lab.issuer.stop()
    lab.clock.now += 400 * DAY
    assert {one.state(lab.clock.now) for one in overview.read(lab.path).issued if one.role == "node"} == {"expired"}
    lab.issuer = Issuer(lab.path, "127.0.0.1", lab.issuer.port, (names.address("127.0.0.1"),), now=lab.clock)
    lab.issuer.start()
    for each in places:
        kept(each, lab).step()
        found = each.enrolment()
        assert found is not None
        assert datetime.datetime.fromisoformat(found.not_after) > lab.clock.now


def test_a_clock_that_is_years_ahead_does_not_make_it_ask_without_end(lab: Lab, place: Place) -> None:
    node.enrol(place, lab.orders(lab.secret()), "node-1")
    now = [0.0]
    keeping = Keeper(
        place,
        lambda _: None,
        run=lambda _: None,
        orders=place.store / "orders",
        now=lambda: lab.clock.now + 3000 * DAY,
        clock=lambda: 1e6 + now[0],
    )
    for _ in range(100):
        keeping.step()
        now[0] += 20
    assert len(overview.read(lab.path).issued) == 1 + 4 * 2  # the issuer's own, enrolled, and renewed once


def test_what_was_revoked_is_here_with_the_next_look(lab: Lab, place: Place, tmp_path: Path) -> None:
    node.enrol(place, lab.orders(lab.secret()), "node-1")
    node.enrol(issuing.node(tmp_path, "other"), lab.orders(lab.secret(), "10.0.0.2"), "node-2")
    said: list[str] = []
    keeping = kept(place, lab, said=said)
    assert keeping.step() <= 25
    assert said == []  # what it got with its certificates is what the issuer has
    trust.revoke(lab.path, "node-2", node=True)
    keeping.step()
    for name in files.LISTS:
        assert (place.link / name).read_text() == (lab.path / name).read_text()


def test_a_node_that_was_revoked_says_so_and_keeps_its_lists(lab: Lab, place: Place) -> None:
    node.enrol(place, lab.orders(lab.secret()), "node-1")
    trust.revoke(lab.path, "node-1", node=True)
    said: list[str] = []
    lab.clock.now += 80 * DAY
    kept(place, lab, said=said).step()
    assert "certificates were revoked: has the new lists" in said
    assert any("cannot renew" in line and "the certificates of node-1 were revoked" in line for line in said)


def test_user_data_that_was_applied_again_leaves_no_secret(lab: Lab, place: Place) -> None:
    orders = lab.orders(lab.secret())
    node.enrol(place, orders, "node-1")
    path = written(place.store / "orders", orders)
    kept(place, lab).step()
    assert not path.exists()


def test_a_restored_issuer_learns_whom_it_forgot(lab: Lab, place: Place, tmp_path: Path) -> None:
    """The copy is from before the node enrolled; one was revoked after the copy."""
    from trust import restore

    secret = lab.secret(uses=9)
    _copy(lab.path, tmp_path / "copy")
    node.enrol(place, lab.orders(secret), "node-1")
    gone = issuing.node(tmp_path, "gone")
    node.enrol(gone, lab.orders(secret, "10.0.0.2"), "node-2")
    trust.revoke(lab.path, "node-2", node=True)
    kept(place, lab).step()
    before = {one.serial for one in overview.read(lab.path).issued}
    lab.issuer.stop()
    done = restore.restore(tmp_path / "copy", tmp_path / "again", [place.link])
    assert (done.revocations, done.secrets) == (4, 1)
    again = Issuer(tmp_path / "again", "127.0.0.1", lab.issuer.port, (names.address("127.0.0.1"),), now=lab.clock)
    again.start()
    try:
        assert again.fingerprint == lab.issuer.fingerprint
        for each, message in ((gone, "the certificates of node-2 were revoked"),):
            with pytest.raises(Failure, match=message):
                node.renew(each)
        lab.clock.now += 400 * DAY
        node.renew(place)
        after = {one.serial for one in overview.read(tmp_path / "again").issued if one.role == "node"}
        assert after
        assert not after & before
        with pytest.raises(Failure, match="is revoked"):
            node.enrol(issuing.node(tmp_path, "late"), lab.orders(secret, "10.0.0.3"), "node-3")
        # And it is known from now on, without a certificate to show.
        (place.link / "etcd-peer.crt").unlink()
        node.renew(place)
    finally:
        again.stop()


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)
    target.chmod(0o700)


# --- a clock before the image was built ------------------------------------------------------------------------------


def test_a_clock_before_the_image_locks_no_node_out(
    lab: Lab, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An authority that is valid from tomorrow on: to OpenSSL the same as a clock that is behind."""
    monkeypatch.setattr("trust.certificate.NOT_BEFORE", lab.clock.now + DAY)
    early = Lab(tmp_path / "early")
    early.clock.now += 2 * DAY
    issuer.create(early.path, now=early.clock.now)
    early.issuer.start()
    try:
        orders = early.orders(early.secret(ttl=DAY))
        with pytest.raises(Failure, match="not yet valid"):
            node.enrol(place, orders, "node-1")
        built = tmp_path / "usr"
        built.mkdir()
        os.utime(built, (early.clock.now.timestamp(), early.clock.now.timestamp()))
        monkeypatch.setattr("enrolment.node._IMAGE", built)
        assert node.clock_is_wrong()
        node.enrol(place, orders, "node-1")
        # Only that: another issuer is no more believed than before.
        with pytest.raises(Failure, match="fingerprint"):
            node.enrol(place, Orders(orders.issuer, lab.issuer.fingerprint, orders.secret), "node-1")
    finally:
        early.issuer.stop()


def test_the_image_is_from_the_past() -> None:
    assert not node.clock_is_wrong()


# --- the commands, and what is seen of them --------------------------------------------------------------------------


def test_commands_of_both_sides_and_no_secret_in_any_process(tmp_path: Path) -> None:
    """``trust serve``, ``flotilla-trust``: no private key and no join secret is an argument, a variable, or said."""
    trust.create(tmp_path / "lab")
    secret = issuer.new_secret(tmp_path / "lab", uses=1, ttl=DAY, networks=["10.0.0.0/24"])[1]
    (port,) = free_ports(1)
    serve = [sys.executable, "-c", "from trust.cli import main; main()", "serve", str(tmp_path / "lab")]
    with subprocess.Popen(
        [*serve, "--listen", f"127.0.0.1:{port}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        try:
            assert served.stdout is not None
            url = served.stdout.readline().split()[1]
            fingerprint = served.stdout.readline().split()[1]
            orders = written(tmp_path / "orders", Orders(url, fingerprint, secret, ("10.0.0.1",)))
            place = issuing.node(tmp_path)
            options = ["--folder", str(place.link), "--store", str(place.store), "--orders", str(orders)]
            seen = tmp_path / "seen"
            watch = (
                "import sys, os; out = open(sys.argv.pop(1), 'a');"
                "sys.addaudithook(lambda event, args: event == 'subprocess.Popen' and print(args[1], args[3], file=out));"
                "from enrolment.cli import main; main()"
            )
            for word in ("enrol", "renew", "show"):
                done = subprocess.run(
                    [sys.executable, "-c", watch, str(seen), *options, word], cwd=ROOT, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
                assert "PRIVATE" not in done.stdout + done.stderr
                assert secret.partition(".")[2] not in done.stdout + done.stderr
        finally:
            served.terminate()
            said = served.communicate()[1]
    assert served.returncode == 0, said
    assert said.count("certificates until") == 2
    assert secret.partition(".")[2] not in said
    text = seen.read_text()
    assert text.count("openssl") >= 12
    for path in (*place.store.rglob("*.key"),):
        for line in path.read_text().splitlines()[1:-1]:
            assert line not in text
    assert secret.partition(".")[2] not in text
    assert not orders.exists()


def test_without_addresses_in_user_data_it_is_that_of_the_connection(lab: Lab, place: Place) -> None:
    wanted = Orders(lab.url, lab.issuer.fingerprint, lab.secret(networks=[]))
    with pytest.raises(Failure, match=r"127\.0\.0\.1: others cannot reach it there"):
        node.enrol(place, wanted, "node-1")
    assert place.enrolment() is None


def test_the_issuer_may_be_killed_at_any_time(tmp_path: Path) -> None:
    """Whether it answered or not: the node asks again, and has used one secret once."""
    trust.create(tmp_path / "lab")
    secret = issuer.new_secret(tmp_path / "lab", uses=1, ttl=DAY, networks=["10.0.0.0/24"])[1]
    (port,) = free_ports(1)
    words = [sys.executable, "-c", "from trust.cli import main; main()", "serve", str(tmp_path / "lab")]
    place = issuing.node(tmp_path)
    for _ in range(2):
        with subprocess.Popen(
            [*words, "--listen", f"127.0.0.1:{port}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as served:
            assert served.stdout is not None
            url, fingerprint = (served.stdout.readline().split()[1] for _ in range(2))
            node.enrol(place, Orders(url, fingerprint, secret, ("10.0.0.1",)), "node-1")
            served.kill()
        eventually(lambda: _is_closed(port))
    assert [used for _, used in overview.read(tmp_path / "lab").secrets] == [1]


def _is_closed(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
    except OSError:
        return True
    finally:
        connection.close()
    return False
