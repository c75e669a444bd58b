"""User-data comes in four wrappings, and in broken ones."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.text import finding, userdata
from cloudconfig.text.userdata import CLOUD_CONFIG, SCRIPT, Part

CONFIG = "#cloud-config\nhostname: a\n"
MIME = """\
Content-Type: multipart/mixed; boundary="XX"
MIME-Version: 1.0

--XX
Content-Type: text/cloud-config

#cloud-config
hostname: a
--XX
Content-Type: text/x-shellscript
Content-Transfer-Encoding: base64

IyEvYmluL3NoCmVjaG8gaGkK
--XX--
"""


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ()),
        (b" \n\n", ()),
        (CONFIG.encode(), (Part(CLOUD_CONFIG, CONFIG),)),
        (b"\xef\xbb\xbf" + CONFIG.encode(), (Part(CLOUD_CONFIG, CONFIG),)),
        (CONFIG.replace("\n", "\r\n").encode(), (Part(CLOUD_CONFIG, CONFIG),)),
        (b"#cloud-config  \nhostname: a\n", (Part(CLOUD_CONFIG, "#cloud-config  \nhostname: a\n"),)),
        (b"#!/bin/sh\necho\n", (Part(SCRIPT, "#!/bin/sh\necho\n"),)),
        (gzip.compress(CONFIG.encode(), mtime=0), (Part(CLOUD_CONFIG, CONFIG),)),
        (gzip.compress(gzip.compress(CONFIG.encode(), mtime=0), mtime=0), (Part(CLOUD_CONFIG, CONFIG),)),
    ],
    ids=["empty", "blank", "plain", "bom", "crlf", "trailing-blanks", "script", "gzip", "gzip-twice"],
)
def test_kinds(data: bytes, parts: tuple[Part, ...]) -> None:
    assert userdata.read(data) == userdata.Contents(parts)


def test_mime_parts_are_distinguished_by_name() -> None:
    config, script = userdata.read(MIME.encode()).parts
    assert (config.kind, config.name, config.text.strip()) == (CLOUD_CONFIG, "part 1", CONFIG.strip())
    assert (script.kind, script.name, script.text) == (SCRIPT, "part 2", "#!/bin/sh\necho hi\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hostname: a\n", "no known kind"),
        (b"# a comment first\n#cloud-config\n", "no known kind"),
        (b"#cloud-config\n\xff\xfe", "not UTF-8 in line 2"),
        (b"\x1f\x8bbroken", "broken gzip"),
        (gzip.compress(CONFIG.encode(), mtime=0)[:-6], "ends early"),
        (gzip.compress(b"0" * (4 << 20), mtime=0), "inflates to more than 1 MiB"),
        (b"#cloud-config\n" + b"#" * (1 << 20), "larger than 1 MiB"),
        (b"Content-Type: multipart/mixed\n\nno boundary\n", "without parts"),
        (b"MIME-Version: 1.0\n" + b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 1000, "MIME multiparts"),
    ],
    ids=["header", "comment-first", "utf8", "gzip", "gzip-cut", "gzip-bomb", "large", "mime", "mime-deep"],
)
def test_refused(data: bytes, message: str) -> None:
    assert any(message in one.message for one in finding.errors(userdata.read(data).findings))


def test_packed_too_often() -> None:
    data = CONFIG.encode()
    for _ in range(userdata.NESTING_MAX + 1):
        data = gzip.compress(data, mtime=0)
    (error,) = userdata.read(data).findings
    assert "packed more than" in error.message


@given(st.binary(max_size=400) | st.text(max_size=300).map(lambda text: MIME.encode() + text.encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    contents = userdata.read(data)
    assert all(one.message for one in contents.findings)
    assert contents.parts or contents.findings or not data.decode("utf-8", "replace").strip()
