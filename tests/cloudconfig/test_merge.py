"""Parts that say how they are merged, by cloud-init's rules; parts that do not are joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.plan import merge, plan
from cloudconfig.text import finding, parse, userdata, yamltree
from cloudconfig.text.schema import CloudConfig
from cloudconfig.text.userdata import CLOUD_CONFIG, Part

REPLACE = "dict(replace)+list()+str()"
JOIN = "list(append)+dict(no_replace,recurse_list)+str()"


def combined(*texts: str | tuple[str, str]) -> CloudConfig:
    parts = [
        Part(CLOUD_CONFIG, text, merge=header)
        for text, header in ((one, "") if isinstance(one, str) else one for one in texts)
    ]
    return merge.combine(parts, parse.parse_all(part.text for part in parts))


def keys(config: CloudConfig) -> str:
    return " ".join(config.ssh_authorized_keys)


A, B, C = ("ssh_authorized_keys: [a, b]\n", "ssh_authorized_keys: [c]\n", "ssh_authorized_keys: [d]\n")


@pytest.mark.parametrize(
    ("header", "result"),
    [
        (REPLACE, "c"),
        (JOIN, "a b c"),
        ("list(append)+dict(recurse_array)+str()", "a b c"),
        ("List(Append) + Dict(no-replace, recurse-list) + str()", "a b c"),
        ("list(prepend)+dict(recurse_list)", "c a b"),
        ("list(no_replace)+dict(recurse_list)", "a b"),
        ("list()+dict(recurse_list)+str()", "c b"),
        ("list(append)+dict(no_replace)", "a b"),
        ("list(append)+dict()", "a b"),
        ("list(append)", "a b"),
        ("dict(recurse_list)", "a b"),
    ],
)
def test_lists(header: str, result: str) -> None:
    """By header and by both keys."""
    assert keys(combined(A, (B, header))) == result
    assert keys(combined(A, f"merge_how: '{header}'\n{B}")) == result
    assert keys(combined(A, f"merge-type: '{header}'\n{B}")) == result


def test_without_a_word_lists_are_joined_and_contradictions_are_errors() -> None:
    assert keys(combined(A, B, C)) == "a b c d"
    with pytest.raises(plan.PlanError, match="two parts say different things"):
        combined("hostname: a\n", "hostname: b\n")


def test_a_word_holds_until_the_next_one() -> None:
    assert keys(combined((A, JOIN), B, C)) == "a b c d"
    assert keys(combined((A, JOIN), B, (C, REPLACE))) == "d"
    assert keys(combined(A, B, (C, JOIN))) == "c d", "dict(replace) until then"


def test_mappings_and_texts() -> None:
    first, second = "hostname: a\ncoreos: {fleet: {metadata: x}}\n", "hostname: b\ncoreos: {fleet: {public_ip: y}}\n"
    assert combined(first, (second, REPLACE)).fleet == (("public_ip", "y"),)
    assert combined(first, (second, REPLACE)).hostname == "b"
    joined = combined(first, (second, "dict(recurse_dict)+list()+str()"))
    assert (joined.hostname, joined.fleet) == ("a", (("metadata", "x"), ("public_ip", "y")))
    assert combined(first, (second, "dict(recurse_str)+str(append)")).hostname == "ab"
    assert combined(first, (second, "dict(recurse_str)+str()")).hostname == "b"
    assert combined(first, ("hostname:\n", "dict(allow_delete)")).hostname == ""


def test_the_long_form() -> None:
    how = "merge_how:\n- name: list\n  settings: [append]\n- name: dict\n  settings: [no_replace, recurse_list]\n"
    assert keys(combined(A, how + B)) == "a b c"
    assert keys(combined(A, "merge_how: [[list, append], [dict, recurse_list]]\n" + B)) == "a b c"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("lists(append)", "unknown kind"),
        ("list(appendd)", "unknown setting of list"),
        ("list append", "not a merge type"),
        ("list(append", "not a merge type"),
        ("[{settings: [append]}]", "not a merge type"),
        ("[{name: [list]}]", "not a merge type"),
    ],
)
def test_bad_ones_are_errors(how: str, message: str) -> None:
    with pytest.raises(plan.PlanError, match=message) as caught:
        combined(A, f"merge_how: {how}\n{B}")
    assert caught.value.path == "merge_how"
    assert caught.value.hint


def test_through_a_message_and_the_validator() -> None:
    def message(how: str) -> bytes:
        return (
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=X\n\n"
            "--X\nContent-Type: text/cloud-config\n\nhostname: a\n"
            f"--X\nContent-Type: text/cloud-config\nX-Merge-Type: {how}\n\nhostname: b\n--X--\n"
        ).encode()

    assert [part.merge for part in userdata.read(message(REPLACE)).parts] == ["", REPLACE]
    assert validate.validate(message(REPLACE)) == ()
    (error,) = finding.errors(validate.validate(message("dict(oops)")))
    assert "unknown setting of dict" in error.message
    (error,) = finding.errors(validate.validate(message("")))
    assert "two parts say different things" in error.message


SHAPES = st.recursive(
    st.sampled_from(["a", "", "~"]).map(lambda text: yamltree.Scalar(1, 1, text, True, False, False)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: yamltree.Sequence(1, 1, tuple(items)))
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda pairs: yamltree.Mapping(
                1, 1, tuple((yamltree.Scalar(1, 1, key, True, False, False), value) for key, value in pairs.items())
            )
        )
    ),
    max_leaves=8,
)
WORDS = st.lists(st.sampled_from(["append", "replace", "no_replace", "recurse_list", "recurse_str", "allow_delete"]))
RULES = st.dictionaries(st.sampled_from(["dict", "list", "str"]), WORDS.map(frozenset))


@given(SHAPES, SHAPES, RULES)
def test_any_two_shapes_merge(old: yamltree.Node, new: yamltree.Node, rules: dict[str, frozenset[str]]) -> None:
    merged = merge.merge(old, new, rules)
    assert type(merged) in (type(old), type(new))
    if not rules:
        assert merged == old
