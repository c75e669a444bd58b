"""fleetd's settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet.config import NAMES, Config, ConfigError, duration, load
from terminal import Failure
from tests import trusted


def test_defaults() -> None:
    config = load(None, {"PATH": "/bin", "FLEETCTL_ENDPOINT": "x"})
    assert config == Config()
    assert (config.etcd_servers, config.agent_ttl, config.leader_ttl_s) == (("http://127.0.0.1:2379",), 30, 5)


def test_a_nodes_own_certificates_need_no_setting(tmp_path: Path) -> None:
    folder = trusted.node(tmp_path)
    config = load(None, {}, folder)
    assert config.etcd_servers == ("https://127.0.0.1:2379",)
    assert config.etcd_cafile == f"{folder}/etcd-clients-ca.crt"
    assert (config.etcd_certfile, config.etcd_keyfile) == (f"{folder}/etcd-client.crt", f"{folder}/etcd-client.key")
    elsewhere = load(None, {"FLEET_ETCD_SERVERS": "https://10.0.0.1:2379"}, folder)
    assert (elsewhere.etcd_servers, elsewhere.etcd_cafile) == (("https://10.0.0.1:2379",), config.etcd_cafile)


def test_what_is_set_goes_before_the_nodes_certificates(tmp_path: Path) -> None:
    folder = trusted.node(tmp_path)
    assert load(None, {"FLEET_ETCD_SERVERS": "http://10.0.0.1:2379"}, folder).etcd_cafile == ""
    foreign = load(None, {"FLEET_ETCD_SERVERS": "https://10.0.0.1:2379", "FLEET_ETCD_CAFILE": "/etc/ca.crt"}, folder)
    assert (foreign.etcd_cafile, foreign.etcd_certfile) == ("/etc/ca.crt", "")


def test_an_authority_without_a_key_pair_is_no_reason_for_plain_text(tmp_path: Path) -> None:
    folder = trusted.node(tmp_path)
    (folder / "etcd-client.key").unlink()
    with pytest.raises(Failure, match=r"etcd-client\.key"):
        load(None, {}, folder)


def test_a_file_of_the_original(tmp_path: Path) -> None:
    file = tmp_path / "fleet.conf"
    file.write_text(
        '# comment\n; another\n\nverbosity=1\netcd_servers=["http://127.0.0.1:2379", "https://10.0.0.1:2379"]\n'
        'agent_ttl="1m30s"\nmetadata="region=us-west, disk = ssd"\npublic_ip=10.0.0.5\ntoken_limit=50\n'
    )
    config = load(file, {})
    assert config.etcd_servers == ("http://127.0.0.1:2379", "https://10.0.0.1:2379")
    assert (config.agent_ttl, config.public_ip, config.verbosity) == (90, "10.0.0.5", 1)
    assert config.metadata == {"region": "us-west", "disk": "ssd"}
    assert config.ignored == ("token_limit",)


def test_where_the_api_listens() -> None:
    for text, urls in (
        ("none", ()),
        ("https://10.0.0.1", ("https://10.0.0.1",)),
        ("https://[fd00::1]:2378, http://127.0.0.1:80/", ("https://[fd00::1]:2378", "http://127.0.0.1:80/")),
    ):
        assert load(None, {"FLEET_API_LISTEN": text}).api_listen == urls
    assert load(None, {}).api_listen is None


def test_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "fleet.conf"
    file.write_text("public_ip=10.0.0.5\nagent_ttl=10s\n")
    config = load(file, {"FLEET_PUBLIC_IP": "10.0.0.6", "FLEET_ETCD_KEY_PREFIX": "/other"})
    assert (config.public_ip, config.agent_ttl, config.etcd_key_prefix) == ("10.0.0.6", 10, "/other/")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[fleet]", "line 1: '\\[fleet\\]' is no setting"),
        ("agent_ttl=soon", "no duration"),
        ("agent_ttl=0", "not between"),
        ("metadata=disk", "not key=value"),
        ("disable_engine=maybe", "neither true nor false"),
        ("etcd_servers=127.0.0.1:2379", "no address"),
        ("etcd_key_prefix=fleet", "slash"),
        ("etcd_certfile=/x", "need each other"),
        ("etcd_certfile=/x\netcd_keyfile=/y", "would trust any server"),
        ("verbosity=much", "verbosity"),
        ("api_listen=10.0.0.1:2378", "neither none nor an address"),
        ("api_listen=https://node-1:2378", "neither none nor an address"),
        ("api_listen=https://[fd00::1", "neither none nor an address"),
        ("api_listen=https://10.0.0.1:99999", "neither none nor an address"),
        ("api_listen=", "neither none nor an address"),
    ],
)
def test_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "fleet.conf"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        load(file, {})


def test_an_unknown_setting_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"FLEET_AGENT_TLL": "30s"})
    assert (caught.value.where, caught.value.hint) == ("FLEET_AGENT_TLL", "the nearest is agent_ttl")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none", {})


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("2.5", 2.5), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_each_setting_is_in_the_docs() -> None:
    rows = (Path(__file__).parents[2] / "docs/fleet-internals.md").read_text().partition("## Settings of fleetd")[2]
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("|")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(NAMES)
