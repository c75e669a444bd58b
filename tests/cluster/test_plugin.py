"""The pytest plugin as a user meets it: a test file of theirs, run by pytest in a process of its own, on nodes of the
stand-in.
"""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Protocol

import pytest

from cluster.client.cluster import Cluster

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

PANIC = "[   93.1] Kernel panic - not syncing: VFS: no root"
SAY_PANIC = f"""
    with (cluster.nodes[0].folder / "console.log").open("a") as file:
        file.write({PANIC!r} + "\\n")
"""


class Run(Protocol):
    """What the fixture ``run`` gives."""

    def __call__(self, code: str, *options: str) -> pytest.RunResult: ...


@pytest.fixture
def run(pytester: pytest.Pytester, standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(code, *options)`` is pytest's result for a test file with ``code``."""
    monkeypatch.delenv("FLOTILLA_SEED", raising=False)

    def run_pytest(code: str, *options: str) -> pytest.RunResult:
        if not (pytester.path / "tox.ini").exists():
            pytester.makeini("[pytest]\n")
        pytester.makepyfile(test_users=f"import pytest\n{code}")
        fixed = ["-p", "no:cacheprovider", "--strict-markers", "--cluster-cold", f"--cluster-image={image}"]
        return pytester.runpytest_subprocess(*fixed, *options)

    return run_pytest


def text(result: pytest.RunResult) -> str:
    return result.stdout.str()


def test_a_cluster_for_each_test_and_none_afterwards(run: Run) -> None:
    result = run(
        """
names = set()

@pytest.mark.cluster(size=2, memory=512, agent_ttl="9s")
def test_one(cluster):
    assert [node.name for node in cluster.nodes] == ["node-1", "node-2"]
    assert cluster.description.memory_mib == 512
    assert cluster.description.agent_ttl == "9s"
    assert cluster.nodes[0].run("true").rc == 0
    names.add(cluster.name)

@pytest.mark.cluster(size=1)
def test_two(cluster, net, chaos):
    assert net is not None
    names.add(cluster.name)
    assert len(names) == 2
    plan = chaos.plan(30)
    assert plan == chaos.plan(30, seed=7)
    assert chaos.plan(30).seed == 9

def test_three(cold_cluster):
    first, second = cold_cluster(size=1), cold_cluster(size=2)
    assert first.name != second.name
    assert (len(first.nodes), len(second.nodes)) == (1, 2)
""",
        "--cluster-seed=7",
        "--cluster-size=1",
    )
    result.assert_outcomes(passed=3)
    assert Cluster.names() == []


def test_a_storm_leaves_all_whole(run: Run) -> None:
    """Real processes, switch and supervisor; what a plan breaks is broken, and is healed though the test fails in the
    middle.
    """
    result = run(
        """
MENU = ["kill", "pause", "isolate", "partition", "bridge", "cut", "degrade"]

def test_it(cluster, chaos):
    with chaos.storm(4, menu=MENU, gap_s=0.2, length_s=(0.2, 1), boot_s=0) as storm:
        assert storm.wait(60)
    assert len(storm.felt) == len(storm.plan.steps) > 3
    assert all(end is not None for _, end in storm.felt.values())
    with pytest.raises(ZeroDivisionError):
        with chaos.storm(60, menu=["kill", "isolate"], gap_s=0.05, length_s=(30, 40), boot_s=0, keep_majority=False) as storm:
            while len(storm.felt) < 2:
                pass
            1 / 0
    assert [node["state"] for node in cluster.status()["nodes"]] == ["running"] * 3
    assert cluster.net.faults() == []
    assert cluster.faults() == []
""",
        "--cluster-seed=5",
    )
    result.assert_outcomes(passed=1)


def test_a_failure_reports_all_it_knows(run: Run, pytester: pytest.Pytester, image: Path) -> None:
    result = run(
        """
@pytest.mark.cluster(size=1)
def test_it(cluster, net, tmp_path):
    cluster.mark("here it comes")
    with net.pcap(1, tmp_path / "card.pcap"):
        pass
    cluster.nodes[0].pause()
    assert cluster.nodes == []
""",
        "--cluster-seed=41",
        "--junit-xml=junit.xml",
        "--cluster-report=out/page.html",
    )
    result.assert_outcomes(failed=1)
    said = text(result)
    for each in (
        "seed:        41",
        f"reproduce:   pytest --cluster-seed=41 --cluster-image={image} --cluster-cold test_users.py::test_it",
        f"attach:      pytest --cluster-seed=41 --cluster-image={image} --cluster-cold --cluster-keep test_users.py::test_it",
        "accelerator: tcg",
        "qemu:        10.0.2",
        "here it comes",
        "pcap:        /",
        "/card.pcap",
        "pause node-1",
        "machine: paused",
        "[  OK  ] Stand-in reached target",
    ):
        assert each in said, each
    (case,) = ET.parse(pytester.path / "junit.xml").iter("testcase")
    properties = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
    assert properties["flotilla.seed"] == "41"
    assert re.fullmatch("[0-9a-f]{64}", properties["flotilla.image"])
    assert {"flotilla.commit", "flotilla.qemu", "flotilla.accelerator", "flotilla.nodes", "flotilla.reproduce"} <= set(
        properties
    )
    page = (pytester.path / "out/page.html").read_text()
    assert "test_users.py::test_it" in page
    assert "pause node-1" in page
    assert "clusters of 1 test: out/page.html" in said
    assert Cluster.names() == []


def test_a_kept_cluster_can_be_attached_to(run: Run) -> None:
    result = run("@pytest.mark.cluster(size=1)\ndef test_it(cluster):\n    assert False\n", "--cluster-keep")
    result.assert_outcomes(failed=1)
    (name,) = Cluster.names()
    assert f"cluster ssh node-1 --name {name}" in text(result)
    kept = Cluster.open(name)
    assert kept.is_running
    # The next session cleans up after dead ones, but not this.
    run("def test_it(cluster):\n    pass\n", "--cluster-size=1").assert_outcomes(passed=1)
    assert Cluster.names() == [name]
    kept.remove()


def test_what_a_killed_session_left_is_removed_by_the_next(run: Run) -> None:
    result = run(
        """
import os, signal
@pytest.mark.cluster(size=1)
def test_it(cluster):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert result.ret == -9
    assert len(Cluster.names()) == 1
    run("def test_it(cluster):\n    pass\n", "--cluster-size=1").assert_outcomes(passed=1)
    assert Cluster.names() == []


def test_trouble_on_the_nodes_fails_a_test_unless_waived(run: Run, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("known.yaml").write_text(
        "- {pattern: no root, reason: issue 41, until: 2999-01-31, test: test_waived_by_the_file}\n"
    )
    pytester.makeini("[pytest]\ncluster_waivers = known.yaml\ncluster_size = 1\n")
    result = run(
        f"""
def test_passed_itself(cluster):{SAY_PANIC}

def test_failed_itself(cluster):{SAY_PANIC}
    assert 1 == 2

@pytest.mark.waive("no root", reason="issue 41", until="2999-01-31")
def test_waived_by_its_marker(cluster):{SAY_PANIC}

def test_waived_by_the_file(cluster):{SAY_PANIC}
"""
    )
    result.assert_outcomes(failed=2, passed=2)
    said = text(result).partition("short test summary info")[0]  # which is longer where CI is in the environment
    assert said.count("1 signs of trouble on the nodes") == 1
    assert said.count("panic on node-1 (console, line 2): Kernel panic - not syncing: VFS: no root") == 3, said
    assert "assert 1 == 2" in said


def test_a_cluster_of_the_users_own_fixture_is_watched_from_test_to_test(run: Run) -> None:
    result = run(
        f"""
from pathlib import Path
from cluster.lifecycle.up import Options, up

@pytest.fixture(scope="session")
def cluster(pytestconfig):
    made = up(Options(size=1, name="mine", image=Path(pytestconfig.getoption("cluster_image")))).cluster
    yield made
    made.remove()

def test_one(cluster, chaos):{SAY_PANIC}

def test_two(cluster, chaos):
    pass
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert "FAILED test_users.py::test_one" in text(result)
    assert Cluster.names() == []


def test_mistakes_are_reported(run: Run) -> None:
    mistakes = {
        'waive("x", reason="issue 41: fix it", until="2026-01-31")': "ended on 2026-01-31",
        'waive("x", until="2999-01-31")': "needs a reason",
        'waive("x", reason="r")': "needs the last day",
        "cluster(nodes=3)": "has no option 'nodes'",
        "cluster(3)": "takes options by name",
        "cluster(size=0)": "1 to 99 nodes, not 0",
    }
    code = "".join(f"@pytest.mark.{marker}\ndef test_{at}(cluster):\n    pass\n" for at, marker in enumerate(mistakes))
    result = run(code)
    result.assert_outcomes(errors=len(mistakes))
    for complaint in mistakes.values():
        assert complaint in text(result)
    assert Cluster.names() == []


def test_no_cluster_is_said_plainly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_QEMU", "/nonexistent/qemu")
    result = run("def test_it(cluster):\n    pass\n")
    result.assert_outcomes(errors=1)
    assert "no cluster for this test" in text(result)
    assert "Traceback" not in text(result)


def test_a_seed_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_SEED", "often")
    assert "FLOTILLA_SEED=often is no number" in text(run("def test_it(cluster):\n    pass\n"))


def test_without_clusters_nothing_of_ours_is_loaded() -> None:
    program = "import sys, cluster.testing.plugin; print(*sorted(name for name in sys.modules if name.split('.')[0] in ('builder', 'cluster', 'paramiko', 'yaml', 'cloudconfig')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cluster", "cluster.testing", "cluster.testing.plugin"]


def test_help_and_fixtures_are_listed(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")
    result.stdout.fnmatch_lines(["*--cluster-image=DIR*", "*--cluster-keep*"])
    result = pytester.runpytest_subprocess("--fixtures")
    for name in ("cluster", "cold_cluster", "net", "chaos"):
        result.stdout.fnmatch_lines([f"{name} -- *"])
    result = pytester.runpytest_subprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.cluster(*", "@pytest.mark.waive(*"])


@pytest.mark.parametrize(
    ("mark", "options", "complaint"),
    [
        ('needs("wings")', (), "no test needs 'wings'"),
        ('needs("clock")', ("--cluster-driver=namespaces",), "clock: a clock of its own"),
        ("needs()", ("--cluster-driver=vmware",), "there are auto, qemu, libvirt, namespaces"),
    ],
)
def test_needs_and_drivers_that_do_not_fit_are_reported_before_anything_boots(
    run: Run, mark: str, options: tuple[str, ...], complaint: str
) -> None:
    result = run(f"@pytest.mark.{mark}\ndef test_one(cluster): pass\n", *options)
    result.assert_outcomes(errors=1)
    assert complaint in text(result)
    assert Cluster.names() == []


def test_a_test_that_needs_a_machine_gets_one_where_the_driver_is_left_open(run: Run) -> None:
    code = """
@pytest.mark.needs("clock")
def test_one(cluster):
    assert cluster.description.driver == "qemu"

def test_two(cluster):  # says nothing
    assert cluster.description.driver == "qemu"
"""
    run(code, "--cluster-driver=auto", "--cluster-size=1").assert_outcomes(passed=2)
