"""The list of directives is systemd's own, of the version that is in the image."""

from __future__ import annotations

import pytest

from builder.core import data
from builder.debian.lockfile import Lock
from tests.unitfile.systemd import Systemd
from unitfile import directives


def test_the_list_is_what_the_image_s_systemd_knows(systemd: Systemd) -> None:
    """If it fails after a new lock: make the file again, as the docstring of unitfile.directives says."""
    dump = systemd.run("usr/lib/systemd/systemd", "--dump-configuration-items").stdout
    assert dump.startswith("[Unit]\n")
    made = directives.compact(dump.splitlines(), directives.version())
    assert (data.packages("unitfile") / directives.DATA).read_text("utf-8") == made


def test_the_version_is_the_image_s() -> None:
    package = Lock.load(data.image() / "node.lock").package("systemd")
    assert package is not None
    assert package.version.partition(".")[0] == directives.version()


def test_nothing_is_lost_in_the_compact_form() -> None:
    known = directives.sections()
    assert known["Service"]["ExecStart"] == "PATH [ARGUMENT [...]]"
    assert known["Service"]["PrivateTmp"] == known["Socket"]["PrivateTmp"] == "OTHER"
    assert known["Timer"] == {**known["Timer"], "OnCalendar": "TIMER", "Persistent": "BOOLEAN", "Unit": "UNIT"}
    assert "WantedBy" in known["Install"]
    assert sum(len(each) for each in known.values()) > 1300


@pytest.mark.parametrize("line", ["Type=STRING", "[Unit]\nnonsense"])
def test_something_else_is_no_dump(line: str) -> None:
    with pytest.raises(ValueError, match="dump-configuration-items"):
        directives.compact(line.splitlines(), "1")
