"""The command, as far as it goes without a disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from install import cli
from terminal import Failure
from tests.install.smalldisk import medium

ROOT = Path(__file__).parents[2]


def started(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program that the node has, with our code in place of the node's."""
    program = "import sys; from install.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_launcher_starts_it() -> None:
    text = (ROOT / "image/overlay/usr/bin/flotilla-install").read_text()
    assert "from install.cli import main" in text
    assert os.access(ROOT / "image/overlay/usr/bin/flotilla-install", os.X_OK)


def test_help_teaches_by_example() -> None:
    done = started("--help")
    assert done.returncode == 0
    assert "sudo flotilla-install /dev/sda --user-data node.yaml" in done.stdout


def test_no_device_is_wrong_usage() -> None:
    assert started().returncode == 2


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_only_root_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="only root"):
        cli.run(["/dev/vda"])


@pytest.mark.usefixtures("as_root")
def test_without_a_medium_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no installation medium") as caught:
        cli.run(["/dev/vda", "--medium", str(tmp_path)])
    assert caught.value.hint is not None
    assert "ISO" in caught.value.hint


@pytest.mark.usefixtures("as_root")
def test_what_is_no_disk_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "flotilla").mkdir()
    medium(tmp_path / "flotilla")
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(Failure, match="is no disk") as caught:
        cli.run([str(file), "--medium", str(tmp_path)])
    assert caught.value.exit_code == 2
    assert file.read_text() == "precious"


def test_user_data_is_checked_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("#cloud-config\nhostname: not_a_name!\nusers:\n  - passwd: secret-word\n")
    with pytest.raises(Failure, match="has errors") as caught:
        cli.read_user_data(str(path))
    assert caught.value.hint == "nothing was changed"
    said = capsys.readouterr().err
    assert f"{path}:2:" in said
    assert "secret-word" not in said


def test_good_user_data_comes_through_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"#cloud-config\nhostname: good\n"
    (tmp_path / "good").write_bytes(data)
    assert cli.read_user_data(str(tmp_path / "good")) == data
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert cli.read_user_data("-") == data


def test_user_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot be read"):
        cli.read_user_data(str(tmp_path / "none"))
