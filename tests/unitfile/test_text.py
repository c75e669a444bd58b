"""Unit files: parsing, writing, hashing, and what is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitfile.text import SIZE_MAX, Option, UnitFile, UnitFileError, is_plain


def test_the_original_s_hash() -> None:
    assert UnitFile.parse("[Service]\nExecStart=/bin/sleep 1000\n").hash() == "2d432f4a06608c1a8b2848b66c836793a1d48ce6"


def test_canonical_text() -> None:
    text = """\
# a comment
[Unit]
Description =  two words\t
; another

[Service]
ExecStart=/bin/sh -c \\
    # in the middle
    'sleep 1'
Environment=
[Unit]
After=x.service
[Empty]
"""
    assert UnitFile.parse(text).serialize() == (
        "[Unit]\nDescription=two words\nAfter=x.service\n\n"
        "[Service]\nExecStart=/bin/sh -c \\\n    'sleep 1'\nEnvironment=\n"
    )


def test_values() -> None:
    unit = UnitFile.parse("[Service]\nExecStart=/bin/a \\\n  b\nExecStart=/bin/c=d\n")
    assert unit.get("Service", "ExecStart") == ("/bin/a b", "/bin/c=d")
    assert unit.get("Service", "execstart") == ()
    assert [option.line for option in unit.options] == [2, 4]


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_line_ends(ending: str) -> None:
    """systemd ends a line at CR too: an option behind one must not hide from us."""
    text = ending.join(["[Service]", "ExecStart=/bin/a", "[X-Fleet]", "Global=true", ""])
    assert UnitFile.parse(text).get("X-Fleet", "Global") == ("true",)


def test_byte_order_mark_and_no_final_newline() -> None:
    assert UnitFile.parse("\ufeff[Service]\nExecStart=/bin/a").get("Service", "ExecStart") == ("/bin/a",)


@pytest.mark.parametrize(
    ("text", "value", "read"),
    [
        ("/bin/sleep \\\n  1000 \\\n\n", "/bin/sleep \\\n  1000 \\\n", "/bin/sleep 1000"),
        ("/bin/sleep 1000 \\\n", "/bin/sleep 1000 \\\n", "/bin/sleep 1000"),
        ("/bin/sleep \\\n \\\n \t\nX=y", "/bin/sleep \\\n \\\n", "/bin/sleep"),
        ("\\\n\nX=y", "\\\n", ""),
        ("/bin/a \\\n # b \\\n ; c \\\n d", "/bin/a \\\n # b \\\n ; c \\\n d", "/bin/a d"),
        ("/bin/a \\\n # b\\\\\n d", "/bin/a \\\n # b\\\\\n d", "/bin/a d"),
        ("/bin/a \\\n # b \\\n\n", "/bin/a \\\n # b \\\n", "/bin/a"),
        ("/bin/a \\\n # b\n d", "/bin/a \\\n d", "/bin/a d"),
    ],
)
def test_what_a_backslash_leads_to(text: str, value: str, read: str) -> None:
    """The value is what the original stored and hashed (its parser of 1.0); what systemd reads of it is the third."""
    unit = UnitFile.parse(f"[Service]\nExecStart={text}\n")
    (option,) = [each for each in unit.options if each.name == "ExecStart"]
    assert option.value == value
    assert unit.get("Service", "ExecStart") == (read,)
    assert UnitFile.of(unit.options) == unit
    assert unit.serialize().startswith(f"[Service]\nExecStart={value}\n")


def test_the_original_s_hash_of_a_value_that_ends_in_a_backslash() -> None:
    text = "[Service]\nExecStart=/bin/sleep \\\n  1000 \\\n\n"
    assert UnitFile.parse(text).serialize() == text
    assert UnitFile.parse(text).hash() == hashlib.sha1(text.encode()).hexdigest()


def test_a_backslash_takes_no_option_with_it() -> None:
    unit = UnitFile.parse("[S]\na=b \\\n\nc=d\n")
    assert [(each.name, each.folded) for each in unit.options] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("a=b", 1, "before any section"),
        ("[S]\nnonsense", 2, "neither a section nor an option"),
        ("[S\na=b", 1, "without its closing bracket"),
        ("[S] x\na=b", 1, "text after the section"),
        ("[]\na=b", 1, "no name for a section"),
        ("[S]\n=b", 2, "no name for an option"),
        ("[S]\n\n# c\na=b \\ \n", 4, "blank after the backslash"),
        ("[S]\na=b\\\n# x", 2, "ends in a backslash"),
        ("[S]\na=\0", 2, "NUL"),
        ("[S]\na=\ud800", 0, "UTF-8"),
        ("[S]\na=" + "x" * SIZE_MAX, 0, "is the most"),
    ],
)
def test_refused(text: str, line: int, why: str) -> None:
    with pytest.raises(UnitFileError, match=why) as caught:
        UnitFile.parse(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    "option",
    [
        Option("Service", "A", "x\nB=y"),
        Option("Service", "A", "x\r[Unit]"),
        Option("Service", "A=B", "x"),
        Option("Service]\n[X-Fleet", "A", "x"),
        Option("Service", "#A", "x"),
        Option("Service", "[A", "x"),
        Option("Service", "", "x"),
        Option("", "A", "x"),
        Option("Service", "A", "x\\"),
        Option("Service", "A", "x\\\n# gone\ny"),
    ],
)
def test_options_that_would_read_back_as_something_else_are_refused(option: Option) -> None:
    with pytest.raises(UnitFileError):
        UnitFile.of([option, Option("Service", "Z", "z")])


_text = st.text(st.sampled_from("ab=[]#;\\\n\r\t '\"%é"), max_size=60)


@given(_text)
def test_what_is_read_is_written_back_the_same(text: str) -> None:
    try:
        unit = UnitFile.parse(text)
    except UnitFileError:
        return
    again = UnitFile.parse(unit.serialize())
    assert again == unit
    assert again.serialize() == unit.serialize()
    assert again.hash() == unit.hash()


@given(st.lists(st.builds(Option, st.sampled_from(["Unit", "Service", " X"]), _text, _text), max_size=4))
def test_options_make_a_unit_file_that_reads_back_or_are_refused(options: list[Option]) -> None:
    try:
        unit = UnitFile.of(options)
    except UnitFileError:
        return
    assert UnitFile.parse(unit.serialize()) == unit
    assert len(unit.options) == len(options)


@given(st.text(max_size=200))
def test_any_text_is_a_unit_file_or_refused(text: str) -> None:
    try:
        UnitFile.parse(text)
    except UnitFileError as error:
        assert 0 <= error.line <= text.count("\n") + text.count("\r") + 1


class TestPlain:
    """What can be seen at a glance is what parsing says."""

    def test_most_canonical_texts_are(self) -> None:
        assert is_plain("[Unit]\nAfter=a b\n\n[Service]\nExecStart=/bin/sleep 1\nEnvironment=\n")

    PARTS = ("[A]", "[B]", "[A ]", "[]", "[A]]", "x=1", "X-y=\u2028ä", "x= 1", "x=1 ", "x =1", "x", "=", "x=\\", "# x")
    ENDS = ("\n", "\n", "\n", "\n\n", "\r\n", "\r", "\0\n", "\ud800\n", "\ufeff", "\t\n")

    @given(st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(ENDS)), max_size=8))
    def test_it_parses_and_is_written_back_as_it_is(self, parts: list[tuple[str, str]]) -> None:
        text = "".join(part + end for part, end in parts)
        if is_plain(text):
            assert UnitFile.parse(text).serialize() == text

    @given(st.text(alphabet="[]A=x \n\\#;\t-", max_size=30))
    def test_of_any_text(self, text: str) -> None:
        if is_plain(text):
            assert UnitFile.parse(text).serialize() == text
