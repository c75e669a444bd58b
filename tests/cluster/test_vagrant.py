"""What a node under Vagrant is given: the requests of the Vagrantfile, the token, the registry that the first node
starts with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import stat
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.lifecycle import vagrant
from cluster.lifecycle.vagrant import Founding, Machine, Request
from discovery.client import Registered, Roster
from discovery.join import Remembered, decide
from discovery.registry import Registry
from terminal import Failure, UsageFailure

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN1YdxBpNlzxDqfJyw/QKow1F+wvG9hXGoqiysfJOn5Y flotilla-vagrant"
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
"""Whose content is of no matter here."""
FOUNDING = Founding(token="0123456789abcdef" * 2, members=3, began_s=1000, certificate=PEM)


def machines(number: int) -> tuple[Machine, ...]:
    return tuple(
        Machine(name=f"node-{each}", address=f"192.168.58.{100 + each}", mac=f"52:54:00:43:00:{each:02x}")
        for each in range(1, number + 1)
    )


def request(number: int = 1, of: int = 3, **changes: Any) -> Request:
    fields: dict[str, Any] = {
        "number": number,
        "machines": machines(of),
        "prefix_length": 24,
        "fresh": False,
        "emulated": False,
        "public_key": KEY,
    }
    return Request(**fields | changes)


def user_data(wanted: Request, *, registered: bool = False) -> dict[str, Any]:
    found = yaml.safe_load(vagrant.user_data(wanted, FOUNDING, [], registered=registered))
    assert isinstance(found, dict)
    return found


def units(data: dict[str, Any]) -> dict[str, str]:
    return {unit["name"]: unit.get("content", "") for unit in data["coreos"]["units"]}


def read(volume: Path, name: str) -> str:
    iso = pycdlib.PyCdlib()
    iso.open(str(volume))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
    iso.close()
    return out.getvalue().decode()


def test_every_node_gets_the_same_discovery_url_and_its_own_addresses() -> None:
    url = "https://192.168.58.101:7379/0123456789abcdef0123456789abcdef#sha256=" + hashlib.sha256(bytes(3)).hexdigest()
    for number in (1, 2, 3):
        data = user_data(request(number))
        assert data["hostname"] == f"node-{number}"
        assert data["ssh_authorized_keys"] == [KEY]
        assert data["coreos"]["etcd2"]["discovery"] == url
        assert data["coreos"]["etcd2"]["initial_advertise_peer_urls"] == f"https://192.168.58.10{number}:2380"
        assert f"MACAddress=52:54:00:43:00:0{number}" in units(data)["10-cluster.network"]
        assert f"Address=192.168.58.10{number}/24" in units(data)["10-cluster.network"]


def test_the_first_node_has_the_discovery_service() -> None:
    first, second = user_data(request(1)), user_data(request(2))
    service = units(first)["discovery.service"]
    assert "--listen 192.168.58.101:7379 " in service
    assert "LoadCredential=registry:/etc/flotilla/discovery.json" in service
    assert "LoadCredential=certificate:/etc/flotilla/discovery.pem" in service
    assert "--certificate ${CREDENTIALS_DIRECTORY}/certificate" in service
    assert "${STATE_DIRECTORY}/registry" in service
    assert "discovery.service" not in units(second)
    (file,) = (one for one in first["write_files"] if one["path"] == vagrant.REGISTRY)
    assert file["permissions"] == "0600"
    registry = Registry.load(file["content"], where="there")
    assert registry.token(FOUNDING.token).size == 3
    assert registry.token(FOUNDING.token).members == ()
    (file,) = (one for one in first["write_files"] if one["path"] == vagrant.CERTIFICATE)
    assert (file["permissions"], file["content"]) == ("0600", PEM)
    assert not {vagrant.REGISTRY, vagrant.CERTIFICATE} & {one["path"] for one in second["write_files"]}


def test_the_registry_of_the_first_node_keeps_it_when_it_is_made_again_from_founding_another_cluster() -> None:
    (file,) = (one for one in user_data(request(1), registered=True)["write_files"] if one["path"] == vagrant.REGISTRY)
    members = Registry.load(file["content"], where="there").token(FOUNDING.token).members
    assert [member.value for member in members] == [
        f"node-{number}=https://192.168.58.10{number}:2380" for number in (1, 2, 3)
    ]
    roster = Roster(
        3,
        tuple(
            Registered(
                one.id, tuple(name for name, _ in one.parts), tuple(url for _, url in one.parts), one.value, one.index
            )
            for one in members
        ),
    )
    etcd = user_data(request(1))["coreos"]["etcd2"]
    environment = {f"ETCD_{name.upper()}": str(value) for name, value in etcd.items()}
    with pytest.raises(Failure, match="its data is gone"):
        decide(environment, Remembered(), roster, listed=())
    # A fourth machine is a proxy of these three.
    etcd = user_data(request(4, of=4))["coreos"]["etcd2"]
    environment = {f"ETCD_{name.upper()}": str(value) for name, value in etcd.items()}
    assert decide(environment, Remembered(), roster).kind == "proxy"


def test_docker_listens_only_where_the_provider_forwards_to() -> None:
    assert "docker-tcp.socket" not in units(user_data(request()))
    socket = units(user_data(request(docker_address="127.0.0.1")))["docker-tcp.socket"]
    assert "ListenStream=127.0.0.1:2375\n" in socket


def test_emulated_nodes_get_times_that_they_keep_up_with() -> None:
    assert user_data(request())["coreos"]["etcd2"]["election_timeout"] == 1000
    assert user_data(request(emulated=True))["coreos"]["etcd2"]["election_timeout"] == 5000


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    template = tmp_path / "mine.yaml.j2"
    # "off" is a word here, as it is for the node's parser; nothing on the way makes a boolean of it.
    template.write_text(
        "#cloud-config\nhostname: {{ node.name }}\ncoreos:\n  update:\n    reboot-strategy: off\n  etcd2:\n    discovery: {{ discovery }}\n"
    )
    text = vagrant.user_data(request(2, user_data=str(template)), FOUNDING, [], registered=False)
    assert text.startswith("#cloud-config\nhostname: node-2\n")
    assert "reboot-strategy: off\n" in text
    assert template.read_text().count("{{ discovery }}") == 1
    template.write_text("#cloud-config\nhostname: {{ undeclared }}\n")
    with pytest.raises(Failure, match="this is no user-data for node-2") as raised:
        vagrant.user_data(request(2, user_data=str(template)), FOUNDING, [], registered=False)
    assert raised.value.where == str(template)
    with pytest.raises(Failure, match="cannot be read"):
        vagrant.user_data(request(user_data=str(tmp_path / "none")), FOUNDING, [], registered=False)


@pytest.mark.parametrize(("version", "what"), [(1, "nodes"), (2, "discovery service")])
def test_machines_without_certificates_are_refused_with_what_makes_them_again(
    tmp_path: Path, version: int, what: str
) -> None:
    (tmp_path / "cluster.json").write_text(f'{{"v": {version}, "token": "a", "members": 3, "began_s": 1}}')
    with pytest.raises(Failure, match=f"whose {what} had no certificates") as refused:
        vagrant.seed(tmp_path, request(2))
    assert "vagrant destroy" in (refused.value.hint or "")


def test_a_cluster_keeps_its_token_until_none_of_its_machines_is_left(tmp_path: Path) -> None:
    first = vagrant.seed(tmp_path, request(1, fresh=True))
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    founding = Founding.load(tmp_path / "cluster.json")
    assert founding is not None
    assert founding.members == 3
    assert stat.S_IMODE((tmp_path / "cluster.json").stat().st_mode) == 0o600
    assert "PRIVATE KEY" not in repr(founding)
    before = first.read_bytes()
    assert vagrant.seed(tmp_path, request(1)).read_bytes() == before, "the same again, byte for byte"
    assert f"/{founding.token}" in read(vagrant.seed(tmp_path, request(2)), "user-data")
    assert 'local-hostname: "node-2"' in read(tmp_path / "node-2.iso", "meta-data")
    # More machines, later: the token stays what it is, and so does the number of members.
    vagrant.seed(tmp_path, request(5, of=5))
    assert Founding.load(tmp_path / "cluster.json") == founding
    assert "proxy" in read(tmp_path / "node-5.iso", "user-data")
    # Each has certificates of the cluster's authorities, and no key of theirs.
    files = {one["path"]: one for one in yaml.safe_load(read(first, "user-data"))["write_files"]}
    assert files["/etc/flotilla/trust/etcd-peer.key"]["permissions"] == "0600"
    authority = (tmp_path / "trust" / "etcd-peers-ca.crt").read_text()
    assert files["/etc/flotilla/trust/etcd-peers-ca.crt"]["content"] == authority
    assert not [path for path in files if path.endswith("-ca.key")]
    # The Vagrantfile's mark that the first one has been up.
    (tmp_path / "1.up").touch()
    vagrant.seed(tmp_path, request(1))
    assert "node-3=https://192.168.58.103:2380" in read(tmp_path / "node-1.iso", "user-data")
    # None of them exists any more, whoever removed them: all is new.
    vagrant.seed(tmp_path, request(1, fresh=True))
    again = Founding.load(tmp_path / "cluster.json")
    assert again is not None
    assert again.token != founding.token
    assert not (tmp_path / "1.up").exists()
    assert "node-3=http" not in read(tmp_path / "node-1.iso", "user-data")
    assert (tmp_path / "trust" / "etcd-peers-ca.crt").read_text() != authority


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v": 9}', '{"v": 3, "token": "a"}', '{"v": 3, "more": 1}'])
def test_what_a_cluster_was_given_is_not_guessed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(text)
    with pytest.raises(Failure, match="cannot be understood") as raised:
        Founding.load(path)
    assert raised.value.where == str(path)


@settings(max_examples=10)  # each makes a certificate
@given(st.integers(1, 99), st.booleans())
def test_a_founding_is_read_as_it_was_written(members: int, registered: bool) -> None:
    found = Founding.new(machines(members))
    registry = found.registry(machines(members), registered=registered)
    assert Registry.load(registry.dump(), where="there") == registry
    assert len(registry.token(found.token).members) == (found.members if registered else 0)
    assert len({member.id for member in registry.token(found.token).members}) == (found.members if registered else 0)


@given(st.integers(1, 9), st.booleans())
def test_a_request_is_what_the_vagrantfile_wrote(number: int, fresh: bool) -> None:
    wanted = request(number, of=9, fresh=fresh)
    assert Request.load(json.dumps(dataclasses.asdict(wanted))) == wanted


@pytest.mark.parametrize(
    "text", ["", "no", "[]", "{}", '{"machines": 3}', '{"machines": []}', '{"machines": [{"name": "a"}]}']
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(UsageFailure, match="this is no request"):
        Request.load(text)


def test_there_is_no_fourth_machine_of_three() -> None:
    for number in (0, 4):
        with pytest.raises(UsageFailure, match=f"no machine {number} of 3"):
            Request.load(json.dumps(dataclasses.asdict(request(number))))


def test_only_the_vagrantfile_runs_it() -> None:
    with pytest.raises(UsageFailure, match="the Vagrantfile runs this"):
        vagrant.run(["up"])
