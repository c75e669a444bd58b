"""MIME by the book: types, encodings, and every kind of damage with the number of its part."""

from __future__ import annotations

import base64
import email.message
import email.mime.multipart
import email.mime.text
import gzip
import quopri

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.text import finding, mime, userdata
from cloudconfig.text.userdata import BOOT, CLOUD_CONFIG, HOOK, INSTANCE, ONCE, SCRIPT, Contents

CONFIG = "#cloud-config\nhostname: a\n"
BARE = "hostname: a\n"
SH = "#!/bin/sh\necho hi\n"


def message(*parts: str, end: str = "--X--\n", head: str = 'Content-Type: multipart/mixed; boundary="X"') -> bytes:
    lines = f"MIME-Version: 1.0\n{head}\n\n"
    return (lines + "".join(f"--X\n{part}\n" for part in parts) + end).encode()


def part(media_type: str, text: str, *headers: str) -> str:
    return "\n".join([f"Content-Type: {media_type}", *headers]) + f"\n\n{text}"


def b64(data: str | bytes) -> str:
    return base64.encodebytes(data if isinstance(data, bytes) else data.encode()).decode()


def places(contents: Contents) -> list[str]:
    return [f"{one.part}|{one.line}|{one.message}" for one in contents.findings]


def other(data: bytes) -> str:
    """A message with another boundary, to be put into one."""
    return data.decode().replace("--X", "--Y").replace('"X"', '"Y"')


GOOD = part("text/cloud-config", BARE)


@pytest.mark.parametrize(
    ("piece", "kind", "when", "text"),
    [
        (part("text/cloud-config", BARE), CLOUD_CONFIG, INSTANCE, BARE),
        (part("TEXT/Cloud-Config; charset=UTF-8", CONFIG), CLOUD_CONFIG, INSTANCE, CONFIG),
        (part("text/x-shellscript", SH), SCRIPT, INSTANCE, SH),
        (part("text/x-shellscript", CONFIG), CLOUD_CONFIG, INSTANCE, CONFIG),
        (part("text/x-shellscript-per-boot", SH), SCRIPT, BOOT, SH),
        (part("text/x-shellscript-per-instance", SH), SCRIPT, INSTANCE, SH),
        (part("text/x-shellscript-per-once", SH), SCRIPT, ONCE, SH),
        (part("text/cloud-boothook", SH), SCRIPT, HOOK, SH),
        (part("text/cloud-boothook", "#cloud-boothook\n" + SH), SCRIPT, HOOK, SH),
        (part("text/plain", "#cloud-boothook\n" + SH), SCRIPT, HOOK, SH),
        (part("text/plain", CONFIG), CLOUD_CONFIG, INSTANCE, CONFIG),
        (part("application/octet-stream", SH), SCRIPT, INSTANCE, SH),
        (part("text/x-not-multipart", SH), SCRIPT, INSTANCE, SH),
        ("\n" + CONFIG, CLOUD_CONFIG, INSTANCE, CONFIG),
        (part("nonsense", CONFIG), CLOUD_CONFIG, INSTANCE, CONFIG),
        (part("text/cloud-config", b64(BARE), "Content-Transfer-Encoding: base64"), CLOUD_CONFIG, INSTANCE, BARE),
        (
            part(
                "text/cloud-config",
                "hostname=\n: a=\n\nx: =3D=C3=A9  \n",
                "Content-Transfer-Encoding: Quoted-Printable",
            ),
            CLOUD_CONFIG,
            INSTANCE,
            "hostname: a\nx: =é\n",
        ),
        (
            part("text/plain", b64(gzip.compress(CONFIG.encode(), mtime=0)), "Content-Transfer-Encoding: base64"),
            CLOUD_CONFIG,
            INSTANCE,
            CONFIG,
        ),
        (
            part("application/x-gzip", b64(gzip.compress(SH.encode(), mtime=0)), "Content-Transfer-Encoding: base64"),
            SCRIPT,
            INSTANCE,
            SH,
        ),
        (
            part(
                "text/cloud-config; charset=iso-8859-1",
                b64("a: é".encode("latin-1")),
                "Content-Transfer-Encoding: base64",
            ),
            CLOUD_CONFIG,
            INSTANCE,
            "a: é",
        ),
        ('Content-Type: text/x-shellscript;\n  name="a;b"\nX-Other:\n\n' + SH, SCRIPT, INSTANCE, SH),
    ],
)
def test_the_type_comes_first_and_then_the_first_line(piece: str, kind: str, when: str, text: str) -> None:
    contents = userdata.read(message(piece))
    assert places(contents) == []
    (found,) = contents.parts
    assert (found.kind, found.when, found.text.rstrip("\n")) == (kind, when, text.rstrip("\n"))


def test_parts_are_numbered_through_containers() -> None:
    inner = other(message(GOOD, part("text/x-shellscript", SH)))
    contents = userdata.read(message(GOOD, inner, part("message/rfc822", inner), GOOD))
    assert places(contents) == []
    names = [one.name for one in contents.parts]
    assert names == ["part 1", "part 2.1", "part 2.2", "part 3.1", "part 3.2", "part 4"]


def test_a_message_of_one_part_and_windows_line_ends() -> None:
    single = f"\n\nContent-Type: text/cloud-config\nMIME-Version: 1.0\n\n{BARE}".encode()
    for data in (single, message(GOOD), message(GOOD).replace(b"\n", b"\r\n"), gzip.compress(message(GOOD), mtime=0)):
        contents = userdata.read(data)
        assert places(contents) == []
        assert [(one.kind, one.text.strip(), one.name) for one in contents.parts] == [(CLOUD_CONFIG, BARE.strip(), "")]


@pytest.mark.parametrize(
    ("data", "place", "kept"),
    [
        (
            message(GOOD, part("text/plain", "!!!!", "Content-Transfer-Encoding: base64")),
            "|13|MIME part 2: not base64",
            1,
        ),
        (
            message(GOOD, part("text/plain", "YWJ", "Content-Transfer-Encoding: base64")),
            "|13|MIME part 2: not base64",
            1,
        ),
        (
            message(GOOD, part("text/plain", "a\nb=zz\n", "Content-Transfer-Encoding: quoted-printable")),
            "|14|MIME part 2: not quoted-printable",
            1,
        ),
        (
            message(GOOD, part("text/plain", "a", "Content-Transfer-Encoding: x-uuencode")),
            "|13|MIME part 2: unknown",
            1,
        ),
        (message(GOOD, GOOD, end=""), "|14|MIME part 2: the closing boundary is missing", 2),
        (message(GOOD, "#cloud-config\nhostname: a\n"), "|10|MIME part 2: this line is no header", 1),
        (message(GOOD, "Content-Type: text/plain"), "|10|MIME part 2: the headers end early", 1),
        (
            message(GOOD, "Content-Type: text/plain\nContent-Type: a/b\n\na"),
            "|11|MIME part 2: the header content-type stands",
            1,
        ),
        (message(GOOD, "A: " + "a" * 9000 + "\n\na"), "|10|MIME part 2: headers of more than 8 KiB", 1),
        (message(GOOD).replace(b"--X", b"--Y"), "|4|MIME its boundary occurs nowhere", 0),
        (message(GOOD, head="Content-Type: multipart/mixed"), "|1|MIME user-data without parts", 0),
        (message(GOOD, head=f'Content-Type: multipart/mixed; boundary="{"X" * 71}"'), "|1|MIME a boundary of more", 0),
        (message(GOOD) + b"--X\n" + GOOD.encode() + b"\n--X--\n", "|10|MIME a part after the closing boundary", 2),
        (
            message(GOOD, head="Content-Type: multipart/mixed; boundary=X\nContent-Transfer-Encoding: base64"),
            "must not be enc",
            0,
        ),
        (b"MIME-Version: 1.0\nContent-Type: text/plain", "|2|MIME the headers end early", 0),
        (message(GOOD, part("application/gzip", CONFIG)), "part 2|0|not gzip, though", 1),
        (message(GOOD, part("text/plain; charset=punycode", CONFIG)), "part 2|0|unknown charset", 1),
        (message(GOOD, part("text/cloud-boothook", "echo\n")), "part 2|1|a script without an interpreter", 1),
        (message(GOOD, part("text/x-shellscript-per-boot", "echo\n")), "part 2|1|a script without an interpreter", 1),
        (message(GOOD, part("text/x-include-url", "http://127.0.0.1/\n")), "part 2|1|a list of URLs", 1),
        (message(GOOD, part("text/cloud-config-archive", "- a\n")), "part 2|1|a cloud-config-archive", 1),
        (message(GOOD, part("text/part-handler", "import os\n")), "part 2|1|a part handler", 1),
        (message(GOOD, part("text/plain", "\n\nhello\n")), "part 2|3|user-data of no known kind", 1),
        (message(GOOD, other(message(GOOD, end=""))), "part 2|18|MIME part 1: the closing boundary is missing", 2),
    ],
)
def test_damage_is_an_error_with_its_place_and_the_rest_is_read(data: bytes, place: str, kept: int) -> None:
    contents = userdata.read(data)
    (error,) = finding.errors(contents.findings)
    assert place in f"{error.part}|{error.line}|{error.message}"
    assert len(contents.parts) == kept
    assert error.line <= data.count(b"\n") + 1


def test_unknown_types_are_warned_about_and_skipped() -> None:
    contents = userdata.read(message(GOOD, part("text/html", "<p>"), part("image/png", "x"), GOOD))
    assert places(contents) == [
        "part 2|1|part 2 of the unknown type text/html, skipped",
        "part 3|1|part 3 of the unknown type image/png, skipped",
    ]
    assert finding.errors(contents.findings) == ()
    assert [one.name for one in contents.parts] == ["part 1", "part 4"]


def test_text_around_the_parts() -> None:
    """Before them it is for people; after them it may be meant."""
    data = message(GOOD).replace(b"\n\n--X", b"\n\nThis is a message in MIME format.\n--X", 1) + b"more\n"
    contents = userdata.read(data)
    (warning,) = contents.findings
    assert (warning.severity, warning.line) == ("warning", 11)
    assert len(contents.parts) == 1


def test_a_boundary_is_a_whole_line() -> None:
    text = "write_files:\n- path: /etc/a\n  content: |\n    --X\n    x\n--XY\n --X\n"
    (found,) = userdata.read(message(part("text/cloud-config", text))).parts
    assert found.text == text


@pytest.mark.parametrize("zeros", [0, 512])
def test_gzip_of_several_members_gives_all(zeros: int) -> None:
    data = (
        gzip.compress(b"#cloud-config\n", mtime=0)
        + gzip.compress(b"", mtime=0)
        + gzip.compress(b"hostname: a\n", mtime=0)
        + bytes(zeros)
    )
    (found,) = userdata.read(data).parts
    assert found.text == CONFIG


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"junk", "junk after the gzip data"),
        (bytes(8) + b"j", "junk after the gzip data"),
        (gzip.compress(b"a", mtime=0)[:-3], "gzip data ends early"),
        (b"\x1f\x8b\x08broken........", "broken gzip data in member 2"),
        (gzip.compress(b"a" * 99, mtime=0)[:-8] + bytes(8), "broken gzip data in member 2"),
    ],
)
def test_damage_after_a_whole_member_is_an_error(tail: bytes, message: str) -> None:
    contents = userdata.read(gzip.compress(CONFIG.encode(), mtime=0) + tail)
    assert [one.message for one in contents.findings] == [message]
    assert contents.parts == ()
    assert contents.ruins[0].startswith(CONFIG)


@given(
    st.lists(
        st.tuples(st.sampled_from(["cloud-config", "x-shellscript"]), st.text(max_size=60)), min_size=1, max_size=5
    )
)
@settings(max_examples=60, deadline=None)
def test_what_the_standard_library_writes_is_read(texts: list[tuple[str, str]]) -> None:
    """Against the other implementation: all texts come back, with whatever encoding and boundary it chose."""
    written = email.mime.multipart.MIMEMultipart()
    wanted = []
    for subtype, text in texts:
        text = {"cloud-config": "#cloud-config\n", "x-shellscript": "#!/bin/sh\n"}[subtype] + text
        text = text.encode("utf-8", "replace").decode()
        written.attach(email.mime.text.MIMEText(text, subtype, "utf-8"))
        wanted.append(text.replace("\r\n", "\n").replace("\r", "\n"))
    contents = userdata.read(written.as_bytes())
    assert places(contents) == []
    assert [one.text for one in contents.parts] == wanted


@given(st.binary(max_size=300))
def test_quoted_printable_comes_back(data: bytes) -> None:
    leaf = mime.Entity({"content-transfer-encoding": "quoted-printable"}, quopri.encodestring(data), 1)
    assert mime.decoded(leaf) == data


@given(st.text(alphabet='-X\n\r: =;"ab/', max_size=200), st.booleans())
@settings(max_examples=300)
def test_any_message_is_read_or_refused(text: str, multipart: bool) -> None:
    data = message(end=text) if multipart else b"MIME-Version: 1.0\n" + text.encode()
    contents = userdata.read(data)
    lines = data.count(b"\n") + 1
    assert all(one.message and 0 <= one.line <= lines for one in contents.findings)
