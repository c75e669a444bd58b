"""Whatever stands at a key of cloud-init's: it is judged, and what is clean can be planned."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.plan import plan
from cloudconfig.text import parse, schema
from cloudconfig.text.finding import errors

WORDS = st.sampled_from(
    [
        "",
        "a",
        "/dev/vdb",
        "/var/x",
        "ext4",
        "true",
        "off",
        "core",
        "1G",
        "ALL=(ALL) ALL",
        "http://a/b",
        "\n",
        "é",
        "..",
        "%H",
        "$private_ipv4",
        "core:x",
    ]
)
KEYS = st.sampled_from(
    ["name", "size", "filename", "device", "filesystem", "layout", "users", "list", "password", "type", "url", "mode", "trusted", "servers", "rsa_private",
     "credentials", "registry", "username", "sudo", "groups", "source", "uri", "sha256", "path", "content", "/dev/vdb", "post", "condition", "uid"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**9) | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(schema.TOP), VALUES, min_size=1, max_size=3))
def test_nothing_raises(config: dict[str, object]) -> None:
    text = "#cloud-config\n" + json.dumps(config)
    if not errors(validate.validate(text.encode())):
        plan.make(parse.parse(text).config).as_json()
