"""Every test of this room has a home of its own, a stand-in for QEMU at hand, and must leave no process behind."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import ended

GRACE_S = 10
"""The kernel ends what has a parent-death signal, but a moment after its parent."""
STANDIN = Path(__file__).with_name("standin.py")
STANDIN_SCRIPT = """\
#!/bin/sh
case "$*" in
--version) echo "QEMU emulator version ${STANDIN_VERSION:-10.0.2} (stand-in)"; exit ;;
*"-accel kvm"*) echo "stand-in: no KVM" >&2; exit 1 ;;
*isa-debug-exit*) exit 33 ;;
esac
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State, cache and sockets in folders that are this test's alone."""
    runtime = Path(tempfile.mkdtemp(prefix="ft-"))  # sockets need short paths, which tmp_path is not
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("FLOTILLA_CLUSTER", raising=False)
    yield tmp_path
    for pid in processes_that_mention(str(runtime), str(tmp_path)):
        ended(pid, within_s=GRACE_S)
    left = processes_that_mention(str(runtime), str(tmp_path))
    for pid in left:
        os.kill(pid, 9)
    shutil.rmtree(runtime)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def standin(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in as the QEMU to use, listing as many machines as a test says in STANDIN_NODES (3)."""
    program = home / "qemu-standin"
    program.write_text(STANDIN_SCRIPT + f'exec "{sys.executable}" "{STANDIN}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("FLOTILLA_QEMU", str(program))
    monkeypatch.setenv("STANDIN_NODES", "3")
    return program


@pytest.fixture
def image(home: Path) -> Path:
    """A folder with an image's files, none of which can be booted."""
    folder = home / "image"
    folder.mkdir()
    for name in ("vmlinuz", "initrd.img", "root.img"):
        (folder / name).write_bytes(b"not bootable")
    (folder / "cmdline").write_text("console=ttyS0 ro\n")
    return folder


def processes_that_mention(*texts: str) -> list[int]:
    """The processes, other than this one, with one of ``texts`` in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if int(path.parent.name) != os.getpid() and any(text in arguments for text in texts):
            found.append(int(path.parent.name))
    return found
