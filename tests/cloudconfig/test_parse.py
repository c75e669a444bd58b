"""From text to values: the traps of YAML 1.1, spelling, marks, and what can be saved from ruins."""

from __future__ import annotations

import base64
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.node import salvage
from cloudconfig.text import finding, parse, schema, yamltree
from cloudconfig.text.parse import Document


def document(text: str) -> Document:
    return parse.parse("#cloud-config\n" + text)


def messages(found: Document) -> list[str]:
    return [one.render("f") for one in found.findings]


def test_everything_has_its_place() -> None:
    """One config with every key; nothing is found wrong and every value arrives."""
    found = document("""\
hostname: n1
ssh_authorized_keys: [k]
manage_etc_hosts: localhost
users:
  - {name: joe, passwd: "*", groups: [docker], primary_group: g, shell: /bin/sh, homedir: /home/j, gecos: Joe, system: yes,
     no_create_home: true, no_user_group: true, no_log_init: true, ssh_authorized_keys: [j]}
write_files:
  - {path: /etc/x, content: hi, permissions: "0600", owner: "joe:docker"}
coreos:
  etcd2: {name: n1, heartbeat_interval: 100, strict_reconfig_check: false}
  fleet: {metadata: "a=b", engine_reconcile_interval: 2.5}
  units:
    - {name: a.service, content: c, enable: true, runtime: true, mask: false, command: start,
       drop_ins: [{name: 1.conf, content: d}]}
""")
    assert messages(found) == []
    assert found.config == schema.CloudConfig(
        hostname="n1",
        ssh_authorized_keys=("k",),
        manage_etc_hosts="localhost",
        users=(
            schema.User(
                name="joe",
                passwd="*",
                groups=("docker",),
                primary_group="g",
                shell="/bin/sh",
                homedir="/home/j",
                gecos="Joe",
                system=True,
                no_create_home=True,
                no_user_group=True,
                no_log_init=True,
                ssh_authorized_keys=("j",),
                at="users[0]",
            ),
        ),
        write_files=(schema.WriteFile("/etc/x", b"hi", 0o600, "joe:docker", "write_files[0]"),),
        etcd=(("name", "n1"), ("heartbeat_interval", "100"), ("strict_reconfig_check", "false")),
        fleet=(("metadata", "a=b"), ("engine_reconcile_interval", "2.5")),
        units=(
            schema.Unit(
                "a.service",
                "c",
                True,
                True,
                False,
                "start",
                (schema.DropIn("1.conf", "d", "coreos.units[0].drop_ins[0]"),),
                "coreos.units[0]",
            ),
        ),
    )


@pytest.mark.parametrize("section", ["etcd2", "etcd", "fleet"])
def test_every_documented_option_is_known(section: str) -> None:
    kinds = schema.FLEET if section == "fleet" else schema.ETCD
    sample = {schema.TEXT: "x", schema.BOOL: "true", schema.INT: "7", schema.FLOAT: "1.5"}
    lines = "".join(f"    {key}: {sample[kind]}\n" for key, kind in kinds.items())
    config = document(f"coreos:\n  {section}:\n{lines}").config
    got = config.fleet if section == "fleet" else config.etcd
    assert got == tuple((key, sample[kind]) for key, kind in kinds.items())


def test_words_stay_words() -> None:
    """`off` is YAML 1.1's false; here it is the word, and false where a truth value is expected (coreos/bugs 854)."""
    found = document("coreos: {update: {reboot-strategy: off}, etcd2: {debug: off, name: on}}\nhostname: no\n")
    assert found.config.reboot_strategy == "off"
    assert found.config.etcd == (("debug", "false"), ("name", "on"))
    assert found.config.hostname == "no"


@pytest.mark.parametrize(
    ("written", "mode"),
    [("0644", 0o644), ("644", 0o644), ('"0644"', 0o644), ("0o644", 0o644), ("4755", 0o4755), ("1777", 0o1777)],
)
def test_permissions_are_octal_however_written(written: str, mode: int) -> None:
    found = document(f"write_files:\n- path: /etc/x\n  permissions: {written}\n")
    assert (found.config.write_files[0].mode, messages(found)) == (mode, [])


@pytest.mark.parametrize("written", ["0x1ff", "rw-r--r--", "888", "64", "07777777", "6:44", "[6]"])
def test_permissions_refused(written: str) -> None:
    found = document(f"write_files:\n- path: /etc/x\n  permissions: {written}\n")
    (error,) = finding.errors(found.findings)
    assert (error.path, error.line, error.column) == ("write_files[0].permissions", 4, 16)


@pytest.mark.parametrize("written", ["1:30", "0x10", "010", "1e3", "1_000", "true", "one", "[1]"])
def test_numbers_that_yaml_would_twist_are_refused(written: str) -> None:
    found = document(f"coreos: {{etcd2: {{heartbeat_interval: {written}}}}}\n")
    assert [error.path for error in finding.errors(found.findings)] == ["coreos.etcd2.heartbeat_interval"]


def test_hyphens_are_underscores() -> None:
    """Flatcar 1567: hyphenated keys vanished; here both spellings are one key."""
    found = document("""\
ssh-authorized-keys: [k]
coreos:
  fleet: {public-ip: 1.2.3.4}
  units: [{name: a.service, drop-ins: [{name: a.conf, content: x}]}]
""")
    assert messages(found) == []
    assert found.config.ssh_authorized_keys == ("k",)
    assert found.config.fleet == (("public_ip", "1.2.3.4"),)
    assert found.config.units[0].drop_ins[0].name == "a.conf"
    twice = document("ssh-authorized-keys: [k]\nssh_authorized_keys: [l]\n")
    assert "f:3:1: error: ssh_authorized_keys: stands here twice" in messages(twice)[0]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("", "hello"),
        ("b64", base64.b64encode(b"hello").decode()),
        ("BASE64", base64.b64encode(b"hello").decode()),
        ("gz+b64", base64.b64encode(gzip.compress(b"hello", mtime=0)).decode()),
        ("gzip", "!!binary " + base64.b64encode(gzip.compress(b"hello", mtime=0)).decode()),
        ("", "!!binary aGVsbG8="),
    ],
)
def test_encodings(encoding: str, content: str) -> None:
    found = document(f"write_files:\n- path: /etc/x\n  encoding: '{encoding}'\n  content: {content}\n")
    assert (messages(found), found.config.write_files[0].content) == ([], b"hello")


BOMB = base64.b64encode(gzip.compress(b"0" * (2 << 20), mtime=0)).decode()

BAD = {
    "duplicate": ("hostname: a\nhostname: b\n", "f:3:1: error: the key 'hostname' stands here twice, first in line 2"),
    "duplicate-unknown": ("x: {a: 1, a: 2}\n", "f:2:11: error: the key 'a' stands here twice"),
    "alias": ("a: &x [1]\nb: *x\n", "f:2:4: error: YAML anchors and aliases are not allowed"),
    "merge": ("a: {<<: *x}\n", "anchors and aliases"),
    "tag": ("hostname: !!python/object:os.system x\n", "f:2:11: error: only the YAML tags"),
    "tag-map": ("users: !!set {a}\n", "YAML tags are not allowed"),
    "tab": ("coreos:\n\tetcd2: 1\n", "f:3:1: error: not valid YAML"),
    "tab-hint": ("coreos:\n\tetcd2: 1\n", "hint: indent with spaces"),
    "unclosed": ("a: [1\n", "not valid YAML"),
    "two-documents": ("hostname: a\n---\nhostname: b\n", "f:3:1: error: a second YAML document"),
    "control": ("hostname: a\x07b\n", "f:2:12: error: control character 0x07"),
    "deep": ("a: " + "[" * 40 + "]" * 40 + "\n", "nested deeper than 32"),
    "very-deep": ("[" * 100_000, "nested deeper than 32"),
    "many": ("a: [" + "1," * 30_000 + "]\n", "more than 20000 values"),
    "surrogate": ('hostname: "\\ud800"\n', "f:2:1"),
    "key-mapping": ("? {a: b}\n: c\n", "a key must be a word"),
    "template": ("hostname: {{ node.name }}\n", "a key must be a word"),
    "not-a-mapping": ("- a\n", "must be a mapping of keys to values, is a list"),
    "users-mapping": ("users: {name: x}\n", "f:2:8: error: users: must be a list, is a mapping"),
    "units-text": ("coreos: {units: [a.service]}\n", "coreos.units[0]: must be a mapping of keys to values, is text"),
    "unit-nameless": ("coreos: {units: [{command: start}]}\n", "coreos.units[0]: has no name"),
    "command": (
        "coreos: {units: [{name: a.service, command: strat}]}\n",
        "coreos.units[0].command: is none of the known",
    ),
    "keys-text": ("ssh_authorized_keys: ssh-rsa AAAA\n", "ssh_authorized_keys: must be a list, is text"),
    "keys-empty": ("ssh_authorized_keys:\n- \n", "ssh_authorized_keys[0]: must be text, is empty"),
    "bool": ("coreos: {units: [{name: a.service, enable: maybe}]}\n", "enable: must be true or false"),
    "encoding": ("write_files: [{path: /etc/x, encoding: rot13}]\n", "write_files[0].encoding: unknown encoding"),
    "base64": ("write_files: [{path: /etc/x, encoding: b64, content: '***'}]\n", "write_files[0].content: not base64"),
    "gzip-bomb": (
        f"write_files: [{{path: /etc/x, encoding: gz+b64, content: {BOMB}}}]\n",
        "inflates to more than 1 MiB",
    ),
    "both-etcds": ("coreos: {etcd: {name: a}, etcd2: {name: a}}\n", "etcd and etcd2 are one service here"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    text, expected = BAD[name]
    found = document(text)
    assert any(expected in one for one in messages(found)), messages(found)
    assert finding.errors(found.findings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hostnam: a\n", "f:2:1: warning: hostnam: unknown key, ignored\n    hint: did you mean hostname?"),
        ("rsyslog: {}\n", "f:2:1: warning: rsyslog: not supported on this image yet, ignored"),
        ("coreos: {flannel: {}}\n", "coreos.flannel: not supported on this image yet, ignored"),
        ("users: [{name: a, doas: x}]\n", "users[0].doas: not supported on this image yet, ignored"),
        (
            "coreos: {etcd: {addr: a}}\n",
            "coreos.etcd.addr: an option of etcd 0.4, left out\n    hint: use advertise_client_urls",
        ),
        ("coreos: {etcd2: {debug: true}}\n", "coreos.etcd2.debug: etcd 3.5 ignores it"),
        ("coreos: {write_files: []}\n", "coreos.write_files: unknown key, ignored"),
    ],
)
def test_warnings(text: str, expected: str) -> None:
    found = document(text)
    assert any(expected in one for one in messages(found)), messages(found)
    assert not finding.errors(found.findings)


def test_marker_after_the_header_is_fine() -> None:
    assert document("---\nhostname: a\n").config.hostname == "a"


def test_nothing_said_is_nothing_wrong() -> None:
    for text in ("", "hostname:\n", "users: ~\ncoreos: null\n", "coreos: {units: [], etcd2: }\n"):
        assert document(text).findings == ()
        assert document(text).config == schema.CloudConfig()


@pytest.mark.parametrize(
    "ruin",
    [
        "users: [}\n",
        "coreos:\n\tetcd2: x\n",
        "hostname: again\n",
        "a: &x b\n",
        "coreos: {units: {}}\n",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_keys_and_name_are_saved_from_ruins(ruin: str, first: bool) -> None:
    """A user must be able to log in, wherever the error is (coreos/bugs 74, 661, 783)."""
    good = "hostname: n1\nssh-authorized-keys:\n- one\n# a comment\n- two\n"
    text = "#cloud-config\n" + (ruin + good if first else good + ruin)
    saved = salvage.essentials([text])
    assert saved.ssh_authorized_keys == ("one", "two")
    assert saved.hostname in ("n1", "again")


YAML_TEXT = st.text(alphabet=st.sampled_from(list("abcn:-_[]{}|>&*!%@#,?'\" \n\t0198.~\\\x00\u2028é")), max_size=120)
WORDS = st.sampled_from(
    [*schema.TOP, *schema.UNIT, *schema.WRITE_FILE, *schema.USER, "etcd2", "fleet", "on", "1", "~", ""]
)
VALUES = st.recursive(
    WORDS | st.text(max_size=8) | st.booleans() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(YAML_TEXT)
@settings(max_examples=300)
def test_any_text_becomes_values_and_findings(text: str) -> None:
    found = document(text)
    for one in found.findings:
        assert one.message
        assert one.severity in (finding.ERROR, finding.WARNING)
        assert one.line >= 0
    salvage.essentials([text])


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(schema.TOP), VALUES))
@settings(max_examples=300)
def test_any_shape_becomes_values_and_findings(value: dict[str, object]) -> None:
    import json

    found = document(json.dumps(value))
    for one in finding.errors(found.findings):
        assert one.line == 2


@given(st.text(max_size=60).filter(lambda text: text.isprintable()))
def test_quoted_text_arrives_as_it_was(text: str) -> None:
    import json

    tree = yamltree.read(json.dumps({"a": text}, ensure_ascii=False))
    assert isinstance(tree.root, yamltree.Mapping)
    value = tree.root.pairs[0][1]
    assert isinstance(value, yamltree.Scalar)
    assert value.text == text
