"""What is sent to machines and is no user-data of ours is named, with its line and the next step."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudconfig.check import validate
from cloudconfig.text import formats

CONFIG = b"#cloud-config\nhostname: a\n"
IGNITION = json.dumps({"ignition": {"version": "3.4.0"}, "storage": {}}).encode()


@pytest.mark.parametrize(
    ("data", "line", "message", "hint"),
    [
        (IGNITION, 1, "an Ignition config", "write it as #cloud-config"),
        (b"\n\n" + json.dumps(json.loads(IGNITION), indent=2).encode(), 3, "an Ignition config", "#cloud-config"),
        (b"variant: fcos\nversion: 1.5.0\nstorage: {}\n", 1, "a Butane config", "write it as #cloud-config"),
        (b"# ours\nversion: 1.0.0\nvariant: flatcar\n", 1, "a Butane config", "write it as #cloud-config"),
        (b'{"hostname": "a"}', 1, "it is JSON", "put '#cloud-config' above it"),
        (b"#include\nhttp://127.0.0.1/a\n", 1, "URLs to include (#include)", "as MIME multipart"),
        (b"#include http://127.0.0.1/a\n", 1, "URLs to include (#include)", "as MIME multipart"),
        (b"#include-once\nhttp://127.0.0.1/a\n", 1, "URLs to include (#include-once)", "as MIME multipart"),
        (b"#cloud-config-archive\n- a\n", 1, "a cloud-config-archive", "as the parts of a MIME multipart"),
        (b"#cloud-config-jsonp\n[]\n", 1, "a JSON patch", "apply the patch first"),
        (b"#part-handler\nimport os\n", 1, "a part handler", "what it would make"),
        (b"#upstart-job\nstart on x\n", 1, "a job of upstart", "coreos.units"),
        (b"#ps1_sysnative\ndir\n", 1, "PowerShell", "#!"),
        (b"<powershell>dir</powershell>", 1, "for Windows", "#!"),
        (b"<!DOCTYPE html>\n<html>404</html>", 1, "a web page", "a server's error message"),
        (b"\n  <html><body>", 2, "a web page", "fetch again"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', 1, "a web page", "fetch again"),
        (base64.encodebytes(CONFIG), 1, "base64 of user-data", "base64 -d"),
        (base64.b64encode(gzip.compress(CONFIG, mtime=0)), 1, "base64 of user-data", "base64 -d"),
        (base64.encodebytes(b"MIME-Version: 1.0\nContent-Type: x\n"), 1, "base64 of user-data", "base64 -d"),
        (b"# a comment first\n#cloud-config\n", 2, "must be the first line", "move it up"),
        (b"\n#cloud-config\n", 2, "must be the first line", "move it up"),
        (b"#cloud-confg\nhostname: a\n", 1, "the first line is nearly one", "exactly: #cloud-config"),
        (b"# cloud-config\nhostname: a\n", 1, "the first line is nearly one", "exactly: #cloud-config"),
        (b"#Cloud-Config\nhostname: a\n", 1, "the first line is nearly one", "exactly: #cloud-config"),
        (b"#cloud-config:\nhostname: a\n", 1, "the first line is nearly one", "exactly: #cloud-config"),
        (b"hostname: a\n", 1, "it has no header", "as the first line"),
        (b"---\nhostname: a\n", 1, "it has no header", "as the first line"),
        (b"## template: mako\nhostname: a\n", 1, "jinja is the only template", "exactly: ## template: jinja"),
        (b"hello\n", 1, "no known kind", "the first line is"),
        (b"\xfd7zXZ\0abc", 0, "compressed with xz", "gzip is the only"),
        (b"\x28\xb5\x2f\xfdabc", 0, "compressed with zstd", "gzip is the only"),
        (b"BZh91AY", 0, "compressed with bzip2", "gzip is the only"),
        (b"PK\x03\x04abc", 0, "a ZIP archive", "gzip is the only"),
        ("#cloud-config\n".encode("utf-16"), 0, "UTF-16", "UTF-8"),
    ],
)
def test_strangers_are_named(data: bytes, line: int, message: str, hint: str) -> None:
    (error,) = validate.validate(data)
    assert (error.severity, error.line) == ("error", line)
    assert message in error.message
    assert hint in error.hint


@given(st.text(max_size=200))
def test_any_text_has_a_name_a_line_of_its_own_and_a_next_step(text: str) -> None:
    found = formats.stranger(text)
    assert found.message
    assert found.hint
    assert 1 <= found.line <= text.count("\n") + 1
