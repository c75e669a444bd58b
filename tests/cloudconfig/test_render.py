"""Template and variables to user-data: one golden node, the two steps, and every way to get it wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.host import render
from cloudconfig.host.render import RenderError
from cloudconfig.text import parse
from cloudconfig.text.finding import Finding
from terminal import Failure

GOLDEN = Path(__file__).parent / "golden"


def variables(node: str = "node-2") -> dict[str, Any]:
    loaded = render.load_variables(GOLDEN / "node.vars.yaml")
    render.choose_node(loaded, node)
    return loaded


def test_golden_node() -> None:
    text = render.render(render.default_template(), variables())
    assert text == (GOLDEN / "node-2.yaml").read_text()


def test_nodes_of_a_cluster_of_before_pull_as_they_did() -> None:
    """This computer's services have no certificate there."""
    given = variables()
    del given["services"]["certificate"]
    text = render.render(render.default_template(), given)
    assert "      DOCKER_OPTS=--insecure-registry=registry:5000\n" in text
    assert "certs.d" not in text


def test_the_default_template_needs_no_extras() -> None:
    given = variables()
    del given["extra_units"], given["extra_write_files"]
    given["fleet"]["metadata"] = {}
    config = parse.parse(render.render(render.default_template(), given)).config
    assert [unit.name for unit in config.units] == ["10-cluster.network", "etcd2.service", "fleet.service"]
    assert "metadata" not in dict(config.fleet)


def test_with_certificates_all_urls_of_etcd_are_https() -> None:
    file = {
        "path": "/etc/flotilla/trust/etcd-peer.key",
        "owner": "etcd:etcd",
        "permissions": "0600",
        "content": "a\nb\n",
    }
    config = parse.parse(render.render(render.default_template(), {**variables(), "trust": {"files": [file]}})).config
    (written,) = [one for one in config.write_files if one.path == file["path"]]
    assert (written.content, written.owner, written.mode) == (b"a\nb\n", "etcd:etcd", 0o600)
    urls = [value for key, value in config.etcd if key.endswith("_urls")]
    assert len(urls) == 4
    assert not [value for value in urls if "http://" in value]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_no_value_becomes_a_key(name: str) -> None:
    """Whatever a node is called, it stays a value: refused by the validator, or read back as it was."""
    given = variables()
    given["discovery"] = "http://10.0.2.100/" + name
    try:
        text = render.render(render.default_template(), given)
    except RenderError:
        return
    config = parse.parse(text).config
    assert len(config.units) == 4
    assert "$" in name or "\\" in name or dict(config.etcd)["discovery"] == given["discovery"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://$private_ipv4:2380", "http://10.0.0.1:2380"),
        ("${private_ipv4}x", "10.0.0.1x"),
        ("$private_ipv4$private_ipv4", "10.0.0.110.0.0.1"),
        ("$private_ipv4_suffix $private_ipv45", "$private_ipv4_suffix $private_ipv45"),
        (r"\$private_ipv4 \${private_ipv4}", "$private_ipv4 ${private_ipv4}"),
        ("$HOME ${x} $1 $$", "$HOME ${x} $1 $$"),
        ("$public_ipv6", "$private_ipv4"),
    ],
)
def test_substitution(text: str, expected: str) -> None:
    """Word boundaries, braces, escapes; a value is never substituted again."""
    assert render.substitute(text, {"private_ipv4": "10.0.0.1", "public_ipv6": "$private_ipv4"}) == expected


@pytest.mark.parametrize("values", [{}, {"private_ipv4": ""}])
def test_an_empty_address_is_an_error_with_its_line(values: dict[str, str]) -> None:
    """coreos/bugs 1505: http://:2380."""
    with pytest.raises(RenderError, match=r"rendered line 2: \$private_ipv4 has no value") as caught:
        render.substitute("a\nb $private_ipv4\n", values)
    assert caught.value.hint == r"set node.private_ipv4, or write \$private_ipv4 for the text itself"


def test_addresses_of_the_node_win() -> None:
    text = render.render(
        "#cloud-config\nhostname: n$private_ipv4\n", {"private_ipv4": "1", "node": {"private_ipv4": "2"}}
    )
    assert text == "#cloud-config\nhostname: n2\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("#cloud-config\nhostname: {{ nme }}\n", "template line 2: 'nme' is undefined"),
        ("#cloud-config\n\nhostname: {{ node.nme }}\n", "template line 3: 'dict object' has no attribute 'nme'"),
        ("#cloud-config\n{% if %}\n", "template line 2: Expected an expression"),
        ("#cloud-config\nhostname: {{ 1 // 0 }}\n", "template line 2: the template fails"),
        ("#cloud-config\n# {{ 'x' * 2**60 }}\n", "template line 2: the template fails: it needs too much memory"),
        ("#cloud-config\nhostname: {{ ''.__class__.__mro__ }}\n", "unsafe|undefined"),
        ("#cloud-config\nhostname: a b\n", "rendered line 2: hostname: not a host name"),
        ("#cloud-config\nhostname: a b\nusers: x\n", "not a host name, and 1 more"),
        ("hostname: a\n", "no known kind"),
    ],
)
def test_templates_that_fail(template: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        render.render(template, {"node": {"name": "a"}})


def test_set() -> None:
    given: dict[str, Any] = {"node": {"name": "a"}}
    for assignment in ("node.index=1", "node.name=b=c", "x.y.z=[1, two]", "word=off", "empty="):
        render.set_variable(given, assignment)
    assert given == {"node": {"name": "b=c", "index": 1}, "x": {"y": {"z": [1, "two"]}}, "word": False, "empty": None}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("x", "is no assignment"),
        ("=1", "is no assignment"),
        ("a..b=1", "is no assignment"),
        ("n.x=1", "n is a value"),
        ("a=[", "not valid YAML"),
    ],
)
def test_set_refused(assignment: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        render.set_variable({"n": 1}, assignment)


def test_nodes() -> None:
    with pytest.raises(Failure, match="--node node-9: 0 nodes have this name") as caught:
        variables("node-9")
    assert caught.value.hint == "there are: node-1, node-2"
    with pytest.raises(Failure, match="no list called nodes"):
        render.choose_node({}, "node-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "v.yaml:1:5: not valid YAML"),
        ("- a", "must be a mapping"),
        ("\x00", "not valid YAML"),
        ("[" * 3000, "recursion"),
        ("a: !!timestamp 2001-99-99", "month"),
    ],
)
def test_variables_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.yaml").write_text(text)
    with pytest.raises(Failure, match=message):
        render.load_variables(tmp_path / "v.yaml")
    with pytest.raises(Failure, match="cannot be read"):
        render.load_variables(tmp_path / "none")


def test_warnings_are_handed_out() -> None:
    template = (
        '#cloud-config\ncoreos: {units: [{name: a.service, content: "[Service]\\nExecStart=/x\\nTpye=simple"}]}\n'
    )
    warned: list[Finding] = []
    assert render.render(template, {}, warned.append) == template
    assert [one.hint for one in warned] == ["did you mean Type=?"]
