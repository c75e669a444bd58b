"""What the pages show is what the programs take."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cloudconfig.check import validate
from cloudconfig.host import jsonschema, render
from cloudconfig.host.render import choose_node
from cloudconfig.text import everyday, parse, refused, schema, yamltree
from cloudconfig.text.reader import Reader

DOCS = Path(__file__).parents[2] / "docs"


def blocks(name: str) -> list[str]:
    """The indented blocks of a page."""
    text = (DOCS / name).read_text()
    return [
        textwrap.dedent(block) for block in re.findall(r"(?:(?:^    .*\n)|(?:^\n(?=(?:\n)*    )))+", text, re.MULTILINE)
    ]


def texts(name: str) -> list[str]:
    return [block.lstrip("\n") for block in blocks(name) if block.lstrip("\n").startswith("#cloud-config\n")]


def test_the_first_example_is_clean() -> None:
    first = texts("cloudconfig.md")[0]
    assert "hello.service" in first
    assert validate.validate(first.encode()) == ()


def test_recipes_are_clean() -> None:
    found = texts("recipes.md")
    assert len(found) == 3
    for text in found:
        if "{%" not in text:
            assert validate.validate(text.encode()) == ()


def test_the_three_nodes_are_rendered(tmp_path: Path) -> None:
    (template,) = (text for text in texts("recipes.md") if "{%" in text)
    (listed,) = (block for block in blocks("recipes.md") if block.lstrip("\n").startswith("# nodes.yaml"))
    (tmp_path / "nodes.yaml").write_text(listed)
    for name in ("n1", "n2", "n3"):
        variables = render.load_variables(tmp_path / "nodes.yaml")
        choose_node(variables, name)
        text = render.render(template, variables)
        assert validate.validate(text.encode()) == ()
        assert dict(parse.parse(text).config.etcd)["initial_cluster"].count("http://10.0.0.1") == 3


def test_the_schema_is_that_of_the_parser() -> None:
    """Otherwise: cloudconfig schema > docs/user-data.schema.json."""
    assert (DOCS / "user-data.schema.json").read_text() == jsonschema.text()
    known = set(jsonschema.schema_of_user_data()["properties"])
    assert known == {
        spelling
        for name in (*schema.TOP, *refused.INSTEAD)
        for spelling in (name, name.replace("_", "-") if name in schema.TOP else name)
    }


def accepts(rule: dict[str, Any], value: object) -> bool:
    """What of JSON Schema the schema uses, by the book (draft 2020-12)."""
    if "anyOf" in rule and not any(accepts(one, value) for one in rule["anyOf"]):
        return False
    if "const" in rule and value != rule["const"]:
        return False
    if "enum" in rule and not any(value is one or (value == one and type(value) is type(one)) for one in rule["enum"]):
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if "type" in rule:
        names = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not any((is_number if name in ("number", "integer") else isinstance(value, kinds[name])) for name in names):
            return False
    if isinstance(value, dict):
        if any(name not in value for name in rule.get("required", ())):
            return False
        for key, inner in value.items():
            one = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
            if one is False or (isinstance(one, dict) and not accepts(one, inner)):
                return False
    return not isinstance(value, list) or all(accepts(rule.get("items", {}), item) for item in value)


@pytest.mark.parametrize(
    "text",
    [*texts("recipes.md"), *texts("cloudconfig.md"), (Path(__file__).parent / "golden/everything.yaml").read_text()],
)
def test_editors_find_nothing_in_good_texts(text: str) -> None:
    import yaml

    if "{%" not in text:
        assert accepts(jsonschema.schema_of_user_data(), yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "hostnam: a",
        "users: [{gecos: a}]",
        "write_files: [{path: /a, contents: x}]",
        "coreos: {units: [{name: a.service, comand: start}]}",
        "runcmd: ls",
        "swap: {siz: 1}",
        "coreos: {etcd2: {nam: a}}",
    ],
)
def test_editors_find_mistakes(text: str) -> None:
    import yaml

    assert not accepts(jsonschema.schema_of_user_data(), yaml.safe_load(text))
    assert validate.validate(f"#cloud-config\n{text}\n".encode())


def test_every_key_stands_in_the_reference() -> None:
    text = (DOCS / "cloudconfig.md").read_text()
    for name in (*schema.TOP, *schema.USER, *schema.WRITE_FILE, *schema.UNIT):
        assert f"`{name}" in text or f", {name}" in text, name


def test_every_key_is_read() -> None:
    """Each key is known to one of the two readers, and to the editors' schema."""
    theirs = {"coreos", "firewall", "hostname", "manage_etc_hosts", "ssh_authorized_keys", "users", "write_files"}
    assert set(schema.TOP) == everyday.KEYS | theirs | {
        "merge_how",
        "merge_type",
        "prefer_fqdn_over_hostname",
        "preserve_hostname",
    }


def test_what_is_refused_has_a_next_step() -> None:
    for key, instead in refused.INSTEAD.items():
        assert ": " in instead, key
        root = yamltree.read(f"{key}: [x]\n").root
        assert root is not None
        reader = Reader()
        assert everyday.needs_of(reader, root)
