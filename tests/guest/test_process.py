"""What a command of the root shell finds around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import process


def test_a_logins_environment_and_what_a_shell_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "environment"
    monkeypatch.setattr(process, "LOGIN", str(file))
    assert process.environment() == process.ENVIRONMENT
    file.write_text("# a comment\nETCDCTL_KEY=/etc/key\nexport A='b c'\nPATH=/nowhere\nno line\n1=2\n=\n")
    assert process.environment() == process.ENVIRONMENT | {"ETCDCTL_KEY": "/etc/key", "A": "b c"}


@given(st.binary(max_size=200))
def test_nothing_in_the_file_keeps_a_command_from_starting(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "environment"
    file.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "LOGIN", str(file))
        found = process.environment()
    assert found.items() >= process.ENVIRONMENT.items()
    assert not [name for name, value in found.items() if "=" in name or "\0" in name + value]
