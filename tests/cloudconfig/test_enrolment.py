"""The key flotilla.trust: what the node does with it, and that no other sees the secret."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cloudconfig.check import validate
from cloudconfig.plan import etcdctl, plan
from cloudconfig.text import finding
from cloudconfig.text.parse import parse
from enrolment.node import ORDERS, Orders, orders
from enrolment.place import Place
from tests.cloudconfig.node import ShadowNode

SECRET = "3f9a2c51.8c1d4b5e6f708192a3b4c5d6e7f80910"
RIGHT = {
    "issuer": "https://10.0.0.9:7380",
    "fingerprint": "5d" * 32,
    "secret": SECRET,
}


def text(**values: object) -> str:
    trust = {name: value for name, value in {**RIGHT, **values}.items() if value is not None}
    return f"#cloud-config\nflotilla: {json.dumps({'trust': trust})}\n"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"addresses": ["$private_ipv4", "fd00::1"]},
        {"issuer": "https://issuer.example.net"},
        {"issuer": "https://[fd00::9]:1/"},
        {"fingerprint": ":".join(["5D"] * 32)},
    ],
)
def test_what_is_right(values: dict[str, object]) -> None:
    assert validate.validate(text(**values).encode()) == ()


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        ({"secret": None}, "flotilla.trust", "has no secret"),
        ({"issuer": None}, "flotilla.trust", "has no issuer"),
        ({"fingerprint": ""}, "flotilla.trust.fingerprint", "is empty"),
        ({"issuer": "http://10.0.0.9:7380"}, "flotilla.trust.issuer", "not the URL of an issuer"),
        ({"issuer": "https://kim:pw@10.0.0.9"}, "flotilla.trust.issuer", "not the URL of an issuer"),
        ({"issuer": "https://10.0.0.9:7380/x"}, "flotilla.trust.issuer", "not the URL of an issuer"),
        ({"issuer": "https://10.0.0.9:99999"}, "flotilla.trust.issuer", "not the URL of an issuer"),
        ({"fingerprint": "5d" * 31}, "flotilla.trust.fingerprint", "not a fingerprint"),
        ({"fingerprint": "xx" * 32}, "flotilla.trust.fingerprint", "not a fingerprint"),
        ({"secret": SECRET[:-1]}, "flotilla.trust.secret", "not a join secret"),
        ({"secret": SECRET + "0"}, "flotilla.trust.secret", "not a join secret"),
        ({"addresses": ["10.0.0.300"]}, "flotilla.trust.addresses[0]", "not an IP address of this node"),
        ({"addresses": ["0.0.0.0"]}, "flotilla.trust.addresses[0]", "not an IP address of this node"),
        ({"addresses": "10.0.0.1"}, "flotilla.trust.addresses", "must be a list"),
        ({"addresses": ["10.0.0.1"] * 101}, "flotilla.trust.addresses", "more than 100"),
        ({"nonsense": 1}, "flotilla.trust.nonsense", "unknown key"),
    ],
)
def test_a_mistake_has_its_place_and_shows_no_value(values: dict[str, object], path: str, message: str) -> None:
    found = validate.validate(text(**values).encode())
    assert [(one.path, message in one.message) for one in found] == [(path, True)]
    assert SECRET[:-1].partition(".")[2] not in str(found)


def test_the_node_s_program_reads_what_is_written(tmp_path: Path) -> None:
    made = plan.make(parse(text(addresses=["10.0.0.1"])).config)
    (file,) = (file for file in made.files if file.path == str(ORDERS))
    assert file.mode == 0o600
    (tmp_path / "orders").write_bytes(file.content)
    assert orders(tmp_path / "orders") == Orders(RIGHT["issuer"], RIGHT["fingerprint"], SECRET, ("10.0.0.1",))
    assert Place().link == Path(etcdctl.FOLDER)


def test_neither_etcd_nor_fleet_starts_without_certificates() -> None:
    both = text() + "coreos: {etcd2: {name: a}, units: [{name: etcd2.service, command: start}]}\n"
    made = plan.make(parse(both).config)
    files = {file.path: file.content.decode() for file in made.files}
    for unit in ("etcd", "etcd-upkeep", "fleet"):
        drop_in = files[f"/run/systemd/system/{unit}.service.d/30-enrol.conf"]
        assert "Requires=flotilla-enrol.service\nAfter=flotilla-enrol.service\n" in drop_in
    assert made.commands == (
        ("start", "flotilla-enrol.service"),
        ("start", "flotilla-trust.service"),
        ("start", "etcd.service"),
    )
    assert "ETCDCTL_CERT=/etc/flotilla/trust/etcd-client.crt" in files["/etc/environment"]
    assert "etcd-client.key" in files[etcdctl.MANAGER]
    without = plan.make(parse("#cloud-config\nflotilla: {}\n").config)
    assert (without.files, without.commands) == ((), ())


def test_certificates_come_one_way() -> None:
    file = "write_files: [{path: /etc/flotilla/trust/fleet-ca.crt, content: x}]\n"
    found = finding.errors(validate.validate((text() + file).encode()))
    assert [one.path for one in found] == ["write_files[0].path"]
    assert "from an issuer" in found[0].message


def test_the_secret_is_in_one_file_that_root_reads(tmp_path: Path) -> None:
    node = ShadowNode(tmp_path)
    status = node.apply(text() + "coreos: {units: [{name: etcd2.service, command: start}]}\n")
    assert status.errors == ()
    word = SECRET.partition(".")[2]
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    assert holding == [tmp_path / str(ORDERS).lstrip("/")]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert word not in status.as_json() + "".join(node.machine.ran)
    starts = [line for line in node.machine.ran if " start " in line]
    assert [line.split()[-1] for line in starts] == [*plan.ENROL_UNITS, "etcd.service"]
    # When the node has used it, the next boot writes it again, and it is not the manifest that brings it back.
    holding[0].unlink()
    node.apply("#cloud-config\nhostname: a\n")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def test_two_parts_that_say_different_things() -> None:
    parts = [parse(text()).config, parse(text(addresses=["10.0.0.1"])).config]
    with pytest.raises(plan.PlanError, match="two parts say different things"):
        plan.make(plan.combine(parts))
    assert plan.make(plan.combine([parts[0], parts[0]])).files
