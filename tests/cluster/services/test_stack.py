"""The QEMU without machine: its command line, pinned; its behaviour is tested in test_services.py."""

import json
from pathlib import Path

from cluster.model.machine import SANDBOX
from cluster.services.stack import Door, alias, argv, slirp_mac


def test_the_command_line() -> None:
    doors = [Door("10.77.0.1", 8080, ("python", "a b.py", "/run/files")), Door(alias("10.77.0.12"), 80, ("true",))]
    words = argv(Path("/usr/bin/qemu"), Path("/run/it's"), doors)
    assert words[:7] == ["/usr/bin/qemu", "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    assert words[7:9] == ["-sandbox", SANDBOX]
    user, wire, *hubs = (json.loads(word) for word in words[10::2])
    assert set(words[9::2]) == {"-netdev"}
    assert user["restrict"] is True
    assert user["guestfwd"] == [
        {"str": "tcp:10.77.0.1:8080-cmd:python 'a b.py' /run/files"},
        {"str": "tcp:10.77.1.12:80-cmd:true"},
    ]
    assert wire["addr"]["path"] == "/run/it's"
    assert [(hub["hubid"], hub["netdev"]) for hub in hubs] == [(0, "user"), (0, "wire")]


def test_the_card_of_an_address_inside() -> None:
    assert slirp_mac(b"\x0a\x4d\0\x01").hex(":") == "52:55:0a:4d:00:01"
