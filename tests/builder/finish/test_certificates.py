"""The bundle of certificates: order, newlines, bad input."""

from __future__ import annotations

import pytest

from builder.core.tree import Tree, file
from builder.finish.certificates import certificates
from terminal import Failure

BEGIN = "-----BEGIN CERTIFICATE-----\n"


def test_bundle_is_in_order_of_paths_and_each_part_ends_its_line() -> None:
    tree = Tree(
        [
            file("usr/share/ca-certificates/mozilla/B.crt", BEGIN + "b\n"),
            file("usr/share/ca-certificates/mozilla/A.crt", BEGIN + "a"),
            file("usr/local/share/ca-certificates/Ours.crt", BEGIN + "o\n"),
            file("usr/share/ca-certificates/mozilla/README", "no certificate"),
        ]
    )
    put = {entry.path: entry for entry in certificates(tree).put}
    bundle = put["etc/ssl/certs/ca-certificates.crt"].content.read().decode()
    assert bundle == BEGIN + "o\n" + BEGIN + "a\n" + BEGIN + "b\n"
    assert put["etc/ssl/certs/A.pem"].target == "/usr/share/ca-certificates/mozilla/A.crt"
    assert put["etc/ca-certificates.conf"].content.read() == b"mozilla/A.crt\nmozilla/B.crt\n"


def test_bad_input() -> None:
    with pytest.raises(Failure, match="no trusted certificate"):
        certificates(Tree())
    with pytest.raises(Failure, match="not PEM") as caught:
        certificates(Tree([file("usr/share/ca-certificates/x.crt", b"\x30\x82")]))
    assert caught.value.where == "/usr/share/ca-certificates/x.crt"
