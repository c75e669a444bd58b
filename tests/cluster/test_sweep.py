"""Nothing is left behind: commands and supervisors are killed at random moments, and the next command cleans up by
itself.
"""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import main, main_up
from cluster.client.cluster import Cluster, changing, end_processes, processes, remove, supervisor_arguments
from cluster.lifecycle import certificates, cleanup, snapshot
from cluster.lifecycle.restore import take
from cluster.model.layout import Layout, clusters_root
from terminal import Phases
from tests.cluster.commands import call
from tests.cluster.conftest import processes_that_mention
from tests.cluster.tinyguest import tiny_cluster
from tests.eventually import WITHIN_S, ended

pytestmark = pytest.mark.slow

UP = "import sys; from cluster.cli import main_up; sys.exit(main_up())"
CLUSTER = "import sys; from cluster.cli import main; sys.exit(main())"
MOMENTS = 5
"""How many moments each of the seeded tests chooses."""


def begin(
    code: str, *argv: str, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start one of our commands as a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "STANDIN_NODES": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        env=environment,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run(entry: Callable[[], int], *argv: str) -> str:
    """Run one of our commands to its end, which must be a good one; returns what it said."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STANDIN_NODES", "2")
        code = call(entry, *argv)
    assert code == 0, said.getvalue()
    return said.getvalue()


def next_command() -> str:
    """``cluster list``, a process of its own, as a user types it who has just killed another; returns what it said."""
    with begin(CLUSTER, "list", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, said.decode()
    return said.decode()


def all_end(*texts: str) -> bool:
    """Whether the processes with one of ``texts`` in their arguments end, as those with a parent-death signal do, a
    moment after their parent.
    """
    for pid in processes_that_mention(*texts):
        ended(pid)
    return not processes_that_mention(*texts)


def nothing_is_left() -> bool:
    sockets = Path(os.environ["XDG_RUNTIME_DIR"], "flotilla")
    files = list(clusters_root().iterdir()) if clusters_root().exists() else []
    return not files and not sockets.exists() and all_end(str(sockets), str(clusters_root()))


@pytest.fixture
def seconds_of_up(standin: Path, image: Path) -> float:
    """How long it takes to bring two stand-ins up, just now and here, with a process of its own."""
    start = time.monotonic()
    with begin(UP, "2", "--image", str(image)) as process:
        assert process.wait(WITHIN_S) == 0
    took = time.monotonic() - start
    run(main, "down")
    return took


def test_up_that_is_killed_at_any_moment_is_cleaned_up_by_the_next_command(
    seconds_of_up: float, image: Path, seed: int
) -> None:
    dice = random.Random(seed)
    finished = 0
    for moment in [dice.uniform(0, seconds_of_up) for _ in range(MOMENTS)]:
        with begin(UP, "2", "--image", str(image)) as process:
            time.sleep(moment)  # any moment: that is what is tested
            process.kill()
        said = next_command()
        if "default  running" in said:  # it was through already
            finished += 1
            run(main, "down")
        assert nothing_is_left(), f"after {moment:.2f} s"
    assert finished < MOMENTS


def test_a_supervisor_that_was_just_started_is_ended(tiny: Cluster) -> None:
    """The command was killed between the start of its supervisor and the supervisor's first record of itself."""
    end_processes(tiny.layout)
    replace(tiny.description, ready=False).save(tiny.layout.description)
    command = [sys.executable, *supervisor_arguments(tiny.layout)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        process.send_signal(signal.SIGSTOP)
        try:
            assert not tiny.layout.supervisor.exists(), "it has begun already: this test is too late"
            next_command()
            assert process.poll() == -signal.SIGKILL, "it was stopped, and would not have ended by itself"
        finally:
            process.kill()
    assert nothing_is_left()


def test_ctrl_c_at_any_moment_of_up_leaves_nothing_to_clean_up(seconds_of_up: float, image: Path, seed: int) -> None:
    dice = random.Random(seed)
    for moment in [dice.uniform(0.5, seconds_of_up) for _ in range(MOMENTS)]:
        with begin(UP, "2", "--image", str(image)) as process:
            time.sleep(moment)  # any moment: that is what is tested
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all that are in the foreground
            code = process.wait(WITHIN_S)
        if code == 0:  # it was through already
            run(main, "down")
        assert nothing_is_left(), f"after {moment:.2f} s, exit code {code}"


def test_ctrl_c_comes_too_late_for_a_cluster_that_is_up(standin: Path, image: Path) -> None:
    with begin(UP, "2", "--image", str(image), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"is up: 2 nodes" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(WITHIN_S) == 0
    run(main, "down")


def test_a_supervisor_that_is_killed_at_any_moment_takes_all_with_it(
    seconds_of_up: float, image: Path, seed: int
) -> None:
    dice = random.Random(seed)
    for moment in [dice.uniform(0, 1.0) for _ in range(MOMENTS // 2)]:
        run(main_up, "2", "--image", str(image))
        supervisor, *machines = processes(Cluster.open().layout)
        time.sleep(moment)  # any moment: that is what is tested
        os.kill(supervisor.pid, signal.SIGKILL)
        assert ended(*(machine.pid for machine in machines))
        assert "cleaned up sockets of a supervisor that was killed: default" in next_command()
        assert all_end(os.environ["XDG_RUNTIME_DIR"])
        assert not Path(os.environ["XDG_RUNTIME_DIR"], "flotilla").exists()
        assert Cluster.open().nodes[0].folder.exists()  # the disks are kept: it may be started again
        run(main, "down")
        assert nothing_is_left()


def test_down_that_is_killed_at_any_moment_is_finished_by_the_next_command(
    seconds_of_up: float, image: Path, seed: int
) -> None:
    dice = random.Random(seed)
    for moment in [dice.uniform(0.2, 1.5) for _ in range(MOMENTS // 2)]:
        run(main_up, "2", "--image", str(image))
        with begin(CLUSTER, "down") as process:
            time.sleep(moment)  # any moment: that is what is tested
            process.kill()
        next_command()
        if Layout.of("default").state.exists():  # nothing was removed yet: it is a whole cluster, and stopped at most
            assert Cluster.open().nodes[1].folder.joinpath("state.img").exists()
            run(main, "down")
        assert nothing_is_left(), f"after {moment:.2f} s"


def test_what_somebody_is_at_is_not_swept(standin: Path, image: Path) -> None:
    layout = Layout.of("busy")
    with changing(layout):
        layout.state.mkdir(parents=True)
        assert [leftover.name for leftover in cleanup.find()] == ["busy"]
        assert cleanup.sweep() == []
        assert layout.state.exists()
    assert [leftover.name for leftover in cleanup.sweep()] == ["busy"]
    assert nothing_is_left()


def test_what_was_kept_to_look_at_and_what_is_not_ours_stays(home: Path) -> None:
    with_torso, foreign, file = (clusters_root() / name for name in ("kept", "other-version", "Not Ours"))
    for folder in (with_torso, foreign, file):
        folder.mkdir(parents=True)
    (foreign / "cluster.json").write_text('{"v": 99}')
    sockets = Layout.of("gone").runtime
    sockets.mkdir(parents=True)
    (sockets / "control").touch()
    (sockets.parent / "another-users").mkdir()
    lock = Layout.of("locked").lock
    lock.touch()
    assert {leftover.name for leftover in cleanup.sweep()} == {"kept", "gone", "locked"}
    assert not sockets.exists()
    assert not lock.exists()
    assert foreign.exists()
    assert file.exists()
    assert (sockets.parent / "another-users").exists()
    shutil.rmtree(sockets.parent)


@pytest.fixture
def tiny(image: Path) -> Iterator[Cluster]:
    """Two real machines of a few instructions."""
    with tiny_cluster(image) as made:
        for node in made.nodes:
            node.start()
        yield made


def test_real_machines_end_with_their_supervisor_and_the_next_command_cleans_up(tiny: Cluster) -> None:
    supervisor, *machines = processes(tiny.layout)
    os.kill(supervisor.pid, signal.SIGKILL)
    assert ended(*(machine.pid for machine in machines))
    assert tiny.layout.control.exists()
    assert "cleaned up sockets of a supervisor that was killed: tiny" in next_command()
    assert not tiny.layout.runtime.exists()
    assert processes(tiny.layout) == []


def test_restore_that_is_killed_at_any_moment_is_cleaned_up_and_the_snapshot_stays(
    tiny: Cluster, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOTILLA_QEMU", tiny.description.qemu)
    tiny.layout.key.touch()
    certificates.make(tiny.layout.trust, tiny.layout.operator)
    for name in ("key.pub", "known_hosts", "discovery.json"):
        (tiny.layout.state / name).touch()
    for node in tiny.nodes:
        (node.folder / "user-data").touch()
    take(tiny, "moment", Phases(quiet=True))
    dice = random.Random(seed)
    for after_s in [dice.uniform(0.5, 6) for _ in range(MOMENTS)]:
        with begin(CLUSTER, "restore", "moment", "--name", "copy") as process:
            time.sleep(after_s)  # any moment: that is what is tested
            assert process.poll() is None  # it waits for a health that does not come
            process.kill()
        next_command()
        copy = Layout.of("copy")
        assert not copy.state.exists(), f"after {after_s:.2f} s"
        assert not copy.runtime.exists()
        assert not copy.lock.exists()
        assert all_end(str(copy.state), str(copy.runtime))
    assert tiny.is_running
    assert snapshot.tags() == ["moment"]


@pytest.mark.usefixtures("home")
def test_two_that_remove_the_same_cluster_both_succeed() -> None:
    """A cluster that is being removed is a torso, and the next command of another program removes it, too."""
    layout = Layout.of("twice")
    for number in range(300):
        (layout.state / "node-1" / f"a{number}" / "b" / "c").mkdir(parents=True)
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(remove, [layout] * 2))
    assert not layout.state.exists()
