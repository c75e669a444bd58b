"""Who the system says it is, and that it only names services it has."""

from __future__ import annotations

import pytest

from builder.core.tree import Entry, Kind, Tree, file
from builder.finish.identity import identity, parse_release
from terminal import Failure

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_CODENAME=trixie\nDEBIAN_VERSION_FULL=13.7\n'


def put(*libraries: str) -> dict[str, Entry]:
    """What the step puts into a tree with these name service modules."""
    modules = [file(f"usr/lib/x86_64-linux-gnu/libnss_{name}.so.2", "") for name in libraries]
    return {entry.path: entry for entry in identity(Tree([file("usr/lib/os-release", DEBIAN), *modules]), "1.2").put}


def test_os_release_says_what_it_is_and_what_it_is_like() -> None:
    release = parse_release(put()["usr/lib/os-release"].content.read().decode())
    assert release["ID"] == "flotilla"
    assert release["ID_LIKE"] == "debian"
    assert release["IMAGE_VERSION"] == release["VERSION_ID"] == "1.2"
    assert (release["VERSION_CODENAME"], release["DEBIAN_VERSION_FULL"]) == ("trixie", "13.7")


def test_name_services_are_those_whose_module_is_there() -> None:
    def hosts(*libraries: str) -> str:
        text = put(*libraries)["etc/nsswitch.conf"].content.read().decode()
        return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("hosts:"))

    assert hosts() == "files dns"
    assert hosts("myhostname", "resolve", "systemd") == "files myhostname resolve [!UNAVAIL=return] dns"


def test_the_machine_id_is_there_and_empty_and_links_lead_where_the_services_write() -> None:
    made = put()
    assert (made["etc/machine-id"].kind, made["etc/machine-id"].size) == (Kind.FILE, 0)
    assert made["etc/resolv.conf"].target == "../run/systemd/resolve/stub-resolv.conf"
    assert made["etc/localtime"].target == "/usr/share/zoneinfo/Etc/UTC"
    assert "localhost" in made["etc/hosts"].content.read().decode()


def test_a_tree_without_os_release() -> None:
    with pytest.raises(Failure, match="no os-release"):
        identity(Tree(), "1")
