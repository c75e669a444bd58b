"""The libvirt driver with real libvirt: embedded, this user's daemon, and another computer by ssh, which is this one in
other clothes.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster, processes
from cluster.machines.libvirt_connection import MARK
from cluster.machines.process import Process
from cluster.model.protocol import Faults, Save
from terminal import Failure
from tests.cluster.conftest import processes_that_mention
from tests.cluster.farhost import FarHost, far_host
from tests.cluster.ordinary import ordinary_program, write_program
from tests.cluster.reported import connections, pid
from tests.cluster.tinyguest import GREETING, GREETS, end_supervisor, tiny_cluster
from tests.eventually import eventually

pytestmark = pytest.mark.slow

HELLO = GREETING.decode().strip()
OBEYS_ITS_BUTTON = bytes.fromhex("ba0206 b80001 ef ba0006 ed f6c401 74fa ba0406 b80020 ef f4 ebfd")
"""Enable the power button's event (port 602h, bit 8), wait for it (600h), switch off (604h, 2000h); halt.

ACPI 4.8.4, q35's ports.
"""
HALT = bytes.fromhex("f4 ebfd")
TEXT = GREETING + b"\0"
# In place of the halt, a jump over the text that follows it, to the button.
KERNEL = GREETS.removesuffix(HALT) + b"\xe9" + len(TEXT).to_bytes(2, "little") + TEXT + OBEYS_ITS_BUTTON


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libvirt takes seconds to ask a QEMU what it can, and remembers it here, for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "libvirt").mkdir(exist_ok=True)
    return folder / "libvirt"


@pytest.fixture
def user(home: Path, short: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Supervisors run as an ordinary user, whose home is returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(sys, "executable", str(ordinary_program(home, "python-of-user", sys.executable)))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(short))
    return home


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for sockets; gone afterwards, with the daemons that wrote their pid files in it."""
    folder = Path(tempfile.mkdtemp(prefix="lv-"))
    yield folder
    end_daemons(folder)
    shutil.rmtree(folder)


def end_daemons(folder: Path) -> None:
    """libvirt's daemons linger for two minutes after their last client; these are ours."""
    for path in folder.rglob("*d.pid"):
        if (process := Process.of(int(path.read_text()))) is not None:
            process.end()


def libvirt_cluster(image: Path, *connect: str) -> AbstractContextManager[Cluster]:
    """Two nodes of the tiny kernel, supervised, not started, dealt to these places."""
    return tiny_cluster(image, KERNEL, driver="libvirt", connect=connect)


@pytest.fixture(params=["embed", "session"])
def cluster(request: pytest.FixtureRequest, user: Path, short: Path, image: Path, cache: Path) -> Iterator[Cluster]:
    """That cluster, with each kind of libvirt on this computer."""
    uri = "qemu:///session"
    root, remembered = short / "e", cache / "embedded"
    if request.param == "embed":
        uri = f"qemu:///embed?root={root}"
        if remembered.exists():  # what an earlier one of these has found out
            root.mkdir(mode=0o700)
            (root / MARK).touch()
            shutil.copytree(remembered, root / "cache")
    with libvirt_cluster(image, uri) as made:
        yield made
        if request.param == "embed" and not remembered.exists() and (root / "cache").exists():
            shutil.copytree(root / "cache", cache / f"new-{os.getpid()}")
            with suppress(OSError):  # another worker was quicker
                (cache / f"new-{os.getpid()}").rename(remembered)
    end_daemons(Path(os.environ["XDG_RUNTIME_DIR"]))
    assert not (short / "e").exists()


def test_a_machine_starts_talks_pauses_dies_and_starts_again(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.start()
    assert eventually(lambda: HELLO in node.console_tail()), node.console_tail()
    number = pid(cluster)
    assert Process.of(number) is not None
    node.pause()
    assert cluster.status()["nodes"][0]["state"] == "paused"
    node.resume()
    with pytest.raises(Failure, match="node-1 runs already"):
        node.start()
    node.kill()
    assert Process.of(number) is None
    assert cluster.status()["nodes"][0]["ended"] == "signal 9"
    node.start()
    assert eventually(lambda: connections(cluster) == 2)
    assert eventually(lambda: node.console_tail().count(HELLO) == 2)


def test_the_power_button_is_pressed_and_the_end_is_reported(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.start()
    assert eventually(lambda: HELLO in node.console_tail())
    begin = time.monotonic()
    node.stop()
    assert time.monotonic() - begin < 10
    assert cluster.status()["nodes"][0]["ended"] == "exit code 0"


def test_kill_9_of_the_supervisor_takes_every_machine_and_the_next_command_cleans_up(cluster: Cluster) -> None:
    end_supervisor(cluster, signal.SIGKILL)
    cluster.launch()
    cluster.nodes[0].start()
    assert cluster.status()["nodes"][0]["state"] == "running"


def test_sigterm_to_the_supervisor_takes_every_machine(cluster: Cluster) -> None:
    end_supervisor(cluster, signal.SIGTERM)
    assert not cluster.layout.supervisor.exists()
    assert not processes_that_mention(str(cluster.layout.state))


def test_a_machine_that_qemu_refuses_is_reported_with_its_words(cluster: Cluster) -> None:
    (cluster.layout.image / "initrd.img").unlink()
    with pytest.raises(Failure, match=r"QEMU did not start node-1: .*initrd\.img"):
        cluster.nodes[0].start()


def test_a_machine_whose_process_dies_is_reported(cluster: Cluster) -> None:
    cluster.nodes[0].start()
    os.kill(pid(cluster), signal.SIGKILL)
    assert eventually(lambda: cluster.status()["nodes"][0]["state"] == "off")
    assert cluster.status()["nodes"][0]["ended"] in ("crashed", "its QEMU died")


def test_a_start_ends_no_other_node(user: Path, short: Path, image: Path) -> None:
    """Nor one whose name begins with its own."""
    with tiny_cluster(
        image, KERNEL, driver="libvirt", connect=(f"qemu:///embed?root={short}/e",), node_numbers=(1, 12)
    ) as made:
        first, twelfth = made.nodes
        twelfth.start()
        first.start()
        assert [entry["state"] for entry in made.status()["nodes"]] == ["running", "running"]


def test_memory_is_not_saved_and_the_nodes_go_on(cluster: Cluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        node.start()
    with pytest.raises(Failure, match="snapshots of memory need the qemu driver"):
        cluster.ask(Save(str(tmp_path)))
    assert [entry["state"] for entry in cluster.status()["nodes"]] == ["running", "running"]


def test_a_daemon_that_dies_takes_its_machines(user: Path, image: Path) -> None:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    with libvirt_cluster(image, "qemu:///session") as made:
        made.nodes[0].start()
        number = pid(made)
        (daemon,) = (Process.of(int(path.read_text())) for path in runtime.rglob("libvirtd.pid"))
        assert daemon is not None
        daemon.send(signal.SIGKILL)
        assert eventually(lambda: made.status()["nodes"][0]["state"] == "off")
        assert made.status()["nodes"][0]["ended"] == "the connection to qemu:///session broke"
        assert eventually(lambda: Process.of(number) is None)
        made.nodes[0].start()  # by another daemon
        assert made.status()["nodes"][0]["state"] == "running"
    end_daemons(runtime)


@pytest.fixture(scope="module")
def far() -> Iterator[FarHost]:
    with far_host() as host:
        yield host


@pytest.fixture
def far_cluster(user: Path, far: FarHost, image: Path) -> Iterator[Cluster]:
    """The cluster, both nodes elsewhere."""
    with libvirt_cluster(image, far.uri) as made:
        yield made
    assert not list(far.home.glob("s/flotilla/guests/*"))


def qemus(far: FarHost) -> list[int]:
    """The processes of guests there."""
    return processes_that_mention(f"{far.home}/f/libvirt/qemu/lib")


def test_machines_elsewhere_start_talk_pause_and_die(far_cluster: Cluster, far: FarHost) -> None:
    node = far_cluster.nodes[0]
    node.start()
    assert eventually(lambda: HELLO in node.console_tail()), node.console_tail()
    assert far_cluster.status()["nodes"][0]["pid"] is None
    assert len(qemus(far)) == 1
    assert connections(far_cluster) == 1
    node.pause()
    node.resume()
    node.stop()
    assert far_cluster.status()["nodes"][0]["ended"] == "exit code 0"
    node.start()
    assert eventually(lambda: node.console_tail().count(HELLO) == 2)
    node.kill()
    assert far_cluster.status()["nodes"][0]["ended"] == "signal 9"
    assert not qemus(far)


def test_what_is_sent_elsewhere_is_sent_once_and_disks_stay(far_cluster: Cluster, far: FarHost) -> None:
    disk = far_cluster.nodes[0].folder / "state.img"
    disk.write_bytes(bytes(1 << 20) + b"not a hole" + bytes((1 << 20) - 10))
    far_cluster.nodes[0].start()
    files = sorted(far.home.glob("c/flotilla/files/*"))
    assert len(files) == 4  # kernel; initrd and root, which are equal; the emulator; the forwarder
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in files)
    (there,) = far.home.glob("s/flotilla/guests/tiny-*/node-1/state.img")
    assert there.read_bytes() == disk.read_bytes()
    far_cluster.nodes[0].kill()
    there.write_bytes(b"written by the guest" + there.read_bytes()[20:])
    times = [path.stat().st_mtime_ns for path in files]
    for node in far_cluster.nodes:
        node.start()
    assert there.read_bytes().startswith(b"written by the guest")
    assert [path.stat().st_mtime_ns for path in sorted(far.home.glob("c/flotilla/files/*"))] == times


def test_ports_of_machines_elsewhere_are_here(far_cluster: Cluster) -> None:
    node = far_cluster.nodes[1]
    node.start()
    with socket.create_connection(("127.0.0.1", node.ssh_port), timeout=30) as line:
        line.settimeout(0.5)
        with pytest.raises(TimeoutError):  # QEMU holds the connection; there is no ssh server in a few instructions
            line.recv(1)
    node.kill()
    node.start()  # at another port there
    socket.create_connection(("127.0.0.1", node.ssh_port), timeout=30).close()


def test_kill_9_of_the_supervisor_takes_machines_elsewhere(far_cluster: Cluster, far: FarHost) -> None:
    for node in far_cluster.nodes:
        node.start()
    assert len(qemus(far)) == 2
    os.kill(processes(far_cluster.layout)[0].pid, signal.SIGKILL)
    assert eventually(lambda: not qemus(far))
    assert eventually(lambda: not processes_that_mention(str(far_cluster.layout.runtime), "tail -c +1"))
    far_cluster.launch()
    far_cluster.nodes[0].start()
    assert far_cluster.status()["nodes"][0]["state"] == "running"


def test_a_computer_that_goes_away_is_reported(far_cluster: Cluster, far: FarHost) -> None:
    far_cluster.nodes[0].start()
    for process in far.daemons():
        if "libvirtd" in Path(f"/proc/{process.pid}/cmdline").read_text():
            process.send(signal.SIGKILL)
    assert eventually(lambda: far_cluster.status()["nodes"][0]["state"] == "off")
    assert "the connection to qemu+ssh://" in str(far_cluster.status()["nodes"][0]["ended"])
    assert len(qemus(far)) == 1  # no process there looks after it
    far_cluster.remove()
    assert not qemus(far)


def test_the_way_to_a_computer_that_breaks_takes_its_machines(far_cluster: Cluster, far: FarHost) -> None:
    node = far_cluster.nodes[0]
    node.start()
    (way,) = processes_that_mention("ControlMaster=yes")
    os.kill(way, signal.SIGKILL)
    assert eventually(lambda: far_cluster.status()["nodes"][0]["state"] == "off")
    assert far_cluster.status()["nodes"][0]["ended"] == f"the connection to {far.uri} broke"
    assert eventually(lambda: not qemus(far))
    node.start()
    assert eventually(lambda: connections(far_cluster) == 2)


def test_faults_of_disks_are_laid_by_the_monitor_as_with_the_other_driver(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.start()
    with node.disk.errors(), node.disk.slow(iops=20):
        assert len(cluster.ask(Faults())) == 2
    assert cluster.ask(Faults()) == ()


def test_a_switch_for_nodes_here_and_there(user: Path, far: FarHost, short: Path, image: Path) -> None:
    with libvirt_cluster(image, f"qemu:///embed?root={short}/e", far.uri) as made:
        for node in made.nodes:
            node.start()
        assert Process.of(pid(made)) is not None
        assert made.status()["nodes"][1]["pid"] is None
        assert [connections(made, index) for index in (0, 1)] == [1, 1]


def survey(uri: str) -> subprocess.CompletedProcess[str]:
    """As an ordinary user, in a process of its own."""
    code = """
import sys
from cluster.machines import hosts
from cluster.model import connection_uri
from terminal import Failure
place = connection_uri.parse(sys.argv[1])
try:
    print(hosts.survey(place, "amd64", "auto"), hosts.require_connection(place))
except Failure as failure:
    sys.exit(str(failure))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", code, uri], env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_computer_elsewhere_is_surveyed_before_it_is_used(user: Path, far: FarHost) -> None:
    done = survey(far.uri)
    assert done.returncode == 0, done.stderr
    assert "accelerator=Accelerator(name=" in done.stdout
    assert "free_memory_mib=" in done.stdout
    assert f"folder=PosixPath('{far.home}/s/flotilla/guests'), free_disk_bytes=" in done.stdout
    assert not list(far.home.glob("s/flotilla/guests/*"))
    write_program(far.home / "bin" / "qemu-system-x86_64", "echo QEMU emulator version 7.2.22\n")
    assert (
        "QEMU 7.2 is too old: without KVM, guests are emulated, which needs QEMU 10.0 or newer"
        in survey(far.uri).stderr
    )
    (far.home / "bin" / "qemu-system-x86_64").write_text("#!/bin/sh\necho this is not it\n")
    assert "this is not QEMU: it calls itself" in survey(far.uri).stderr
    (far.home / "bin" / "qemu-system-x86_64").unlink()
    unreachable = "qemu+ssh://tester@127.0.0.1:1/session"
    assert (
        "no ssh to 127.0.0.1: ssh: connect to host 127.0.0.1 port 1: Connection refused" in survey(unreachable).stderr
    )


def test_a_computer_that_does_not_let_us_in_is_reported(user: Path, far: FarHost, image: Path) -> None:
    key = far.home / "key.pub"
    key.rename(far.home / "kept")
    with libvirt_cluster(image, far.uri) as made:
        with pytest.raises(Failure, match=r"no ssh to 127.0.0.1: .*Permission denied") as caught:
            made.nodes[0].start()
        assert "must log in without a question" in (caught.value.hint or "")
        with pytest.raises(Failure, match=r"127\.0\.0\.1"):
            made.remove()  # what is there cannot be removed, so the cluster is not forgotten
        assert made.layout.state.exists()
        (far.home / "kept").rename(key)
