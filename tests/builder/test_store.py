"""The store holds whole artifacts or none, whatever happens while one is made."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.core.store import Store, identify, write_atomically
from terminal import Failure


def test_an_id_depends_on_name_version_and_inputs_only() -> None:
    assert identify("step", 1, {"b": 1, "a": [2]}) == identify("step", 1, {"a": [2], "b": 1})
    assert len({identify("step", 1, 1), identify("step", 2, 1), identify("other", 1, 1), identify("step", 1, 2)}) == 4


def test_an_artifact_is_there_after_its_block_and_not_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.making("steps", "one") as work:
        (work / "file").write_text("x")
        assert not store.has("steps", "one")
    assert (store.path("steps", "one") / "file").read_text() == "x"


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.making("steps", "one") as work:
        (work / "file").write_text("half")
        raise RuntimeError
    assert not store.has("steps", "one")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_two_that_make_the_same_both_succeed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.making("steps", "one") as first, store.making("steps", "one") as second:
        (first / "file").write_text("x")
        (second / "file").write_text("x")
    assert (store.path("steps", "one") / "file").read_text() == "x"


def test_a_full_disk_is_reported_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="MB free") as caught, Store(tmp_path).scratch():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "--store" in (caught.value.hint or "")


def test_what_a_killed_build_left_is_swept_and_what_a_living_one_does_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom builder.core.store import Store\n"
        "with Store(Path(sys.argv[1])).scratch() as work:\n"
        "    (work / 'half').write_text('x')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        Store(tmp_path)
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 5
    while list((tmp_path / "tmp").iterdir()) and time.monotonic() < deadline:
        Store(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file", "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_store_that_is_read_only_is_reported_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for folder in store.root.iterdir():
        folder.chmod(0o555)
    # root may write everywhere, unless the process has lost that right.
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    program = (
        "import sys; from pathlib import Path; from builder.core.store import Store; from terminal import command\n"
    )
    program += "sys.exit(command('osbuild', lambda words: Store(Path(words[0])) and 0))"
    done = subprocess.run([*without, sys.executable, "-c", program, str(store.root)], capture_output=True, text=True)
    for folder in store.root.iterdir():
        folder.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr.startswith("osbuild: error: "), "not a traceback"
    assert "hint: choose another place with --store DIR" in done.stderr
