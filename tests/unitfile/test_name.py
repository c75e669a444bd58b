"""Unit names: what is let in, and the parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitfile.name import LENGTH_MAX, SUFFIXES, UnitName, UnitNameError


@pytest.mark.parametrize(
    ("text", "prefix", "instance", "suffix", "template"),
    [
        ("redis.service", "redis", None, "service", None),
        ("redis@.service", "redis", "", "service", None),
        ("polop@redis.service", "polop", "redis", "service", "polop@.service"),
        ("a@b@c.timer", "a", "b@c", "timer", "a@.timer"),
        ("dev-disk.a.b.mount", "dev-disk.a.b", None, "mount", None),
        (r"home-\x2dlocal.mount", r"home-\x2dlocal", None, "mount", None),
    ],
)
def test_parts(text: str, prefix: str, instance: str | None, suffix: str, template: str | None) -> None:
    name = UnitName.parse(text)
    assert (name.prefix, name.instance, name.suffix, name.template) == (prefix, instance, suffix, template)
    assert str(name) == text
    assert name.is_template == (instance == "")
    assert name.is_instance == bool(instance)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("../x.service", "slash"),
        ("/etc/x.service", "slash"),
        ("a..b.service", "two in a row"),
        (".service", "starts with a dot"),
        (".x.service", "starts with a dot"),
        ("@x.service", "before its @"),
        ("x", "type"),
        ("x.", "type"),
        ("x.exe", "type"),
        ("x.service ", "character"),
        ("x y.service", "character"),
        ("x\n.service", "character"),
        ("x\0.service", "character"),
        ("hé.service", "character"),
        ("x$(id).service", "character"),
        ("x@1.mount", "no template or instance"),
        ("x" * 300 + ".service", "308 characters"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(UnitNameError, match=why):
        UnitName.parse(text)


def test_the_longest_name() -> None:
    assert len(str(UnitName.parse("x" * (LENGTH_MAX - 8) + ".service"))) == LENGTH_MAX
    with pytest.raises(UnitNameError):
        UnitName.parse("x" * (LENGTH_MAX - 7) + ".service")


def test_specifiers() -> None:
    name = UnitName.parse("polop@redis.service")
    assert name.expand("%p %i %n %N %% %m %H %%p") == "polop redis polop@redis.service polop@redis % %m %H %p"
    assert UnitName.parse("x.service").expand("[%i]") == "[]"
    assert UnitName.parse("a-b@c.service").expand("%p|%i|%n|%N|%j|%%") == "a-b|c|a-b@c.service|a-b@c|b|%"


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = UnitName.parse(text)
    except UnitNameError:
        return
    assert str(name) == text
    assert "/" not in text
    assert ".." not in text
    assert name.suffix in SUFFIXES
