"""Join secrets as values: how long, for how many, for whom; and what the command prints of them."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

import trust
from terminal import UsageFailure
from tests.cluster.commands import call
from trust import secret
from trust.cli import main
from trust.nonces import LIFE_S, Nonces

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
DAY = datetime.timedelta(1)
USUAL: dict[str, Any] = {"uses": 2, "ttl": DAY, "names": (), "networks": (), "now": NOW}


def test_its_life() -> None:
    made, word = secret.new(**USUAL)
    assert [made.state(used, NOW) for used in (0, 1, 2, 3)] == ["open", "open", "used up", "used up"]
    assert made.state(0, NOW + DAY - datetime.timedelta(seconds=1)) == "open"
    assert made.state(0, NOW + DAY) == "ended"
    id_, _, rest = word.partition(".")
    assert (id_, made.matches(rest)) == (made.id, True)
    assert rest not in repr(made)
    assert not made.matches(rest[:-1])
    assert not made.matches("\ud800")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uses": 0}, "not a number of uses"),
        ({"uses": 100_001}, "not a number of uses"),
        ({"ttl": datetime.timedelta()}, "a secret has an end"),
        ({"ttl": 366 * DAY}, "a secret has an end"),
        ({"names": ["Node-*"]}, "not a pattern of names"),
        ({"names": ["[a-z]"]}, "not a pattern of names"),
        ({"networks": ["10.0.0.1/24"]}, "has host bits set"),
        ({"networks": ["here"]}, "not a network"),
    ],
)
def test_what_is_no_secret(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageFailure, match=message):
        secret.new(**USUAL | change)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("24h", 86400), ("7d", 604800), ("1s", 1)])
def test_a_time(text: str, seconds: int) -> None:
    assert secret.duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "h", "24", "-1h", "1.5h", "24H", "1h ", "9999999h", "١h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageFailure, match="not a time"):
        secret.duration(text)


def test_whose_names_and_addresses() -> None:
    four, six, peer = map(ipaddress.ip_address, ("10.0.0.7", "fd00::7", "10.0.0.1"))
    narrow = secret.new(**USUAL | {"names": ["web-*"], "networks": ["10.0.0.0/29", "fd00::/64"]})[0]
    assert [narrow.permits_name(name) for name in ("web-1", "web-", "web", "x-web-1")] == [True, True, False, False]
    assert [narrow.permits_address(each, peer) for each in (four, six)] == [True, True]
    assert not narrow.permits_address(ipaddress.ip_address("10.0.0.8"), peer)
    wide = secret.new(**USUAL)[0]
    assert wide.permits_name("anything")
    assert [wide.permits_address(each, peer) for each in (four, six, peer)] == [False, False, True]


def test_a_nonce_is_good_once_and_for_a_while() -> None:
    now = [1000.0]
    nonces, others = Nonces(lambda: now[0]), Nonces(lambda: now[0])
    first, second = nonces.new(), nonces.new()
    assert first != second
    assert not others.take(first)
    assert [nonces.take(first), nonces.take(first)] == [True, False]
    now[0] += LIFE_S + 1
    assert not nonces.take(second)
    assert not nonces.take(first)
    assert nonces.take(nonces.new())
    assert len(nonces._used) == 1  # what is too old is not kept


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trust.create(tmp_path / "lab")
    lab = str(tmp_path / "lab")
    assert call(main, "secret", "new", lab, "--uses", "3", "--ttl", "2h", "--names", "node-*", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["secret"].startswith(made["id"] + ".")
    assert call(main, "secret", "new", lab) == 0
    word = capsys.readouterr().out.strip()
    assert call(main, "secret", "list", lab, "--json") == 0
    printed = capsys.readouterr().out
    assert [(one["uses"], one["used"], one["state"]) for one in json.loads(printed)] == [(3, 0, "open"), (1, 0, "open")]
    assert "sha256" not in printed
    assert call(main, "secret", "revoke", lab, word) == 0  # a person may give all of it; its id alone is printed
    printed = capsys.readouterr().out
    assert printed == f"{word.partition('.')[0]}: no other node enrols with it; who has goes on\n"
    assert call(main, "show", lab) == 0
    shown = capsys.readouterr().out
    assert "revoked  0 of 1" in shown
    assert word.partition(".")[2] not in shown
    assert call(main, "secret", "revoke", lab, "00000000") == 1
    assert "no join secret has this id" in capsys.readouterr().err
