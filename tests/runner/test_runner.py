"""The whole of it on real pytest runs: what fails once, what fails twice, what ends the interpreter, and what is broken
off.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runner.throwaway import ROOT, Folder, is_there, until

pytestmark = pytest.mark.slow

ONE = """
import pytest
from unittest import SkipTest

polluted = []

@pytest.fixture
def shaky():
    if first("shaky"):
        raise OSError("no such luck")

@pytest.fixture
def untidy():
    yield
    assert not first("untidy"), "cannot put it away"

def test_good():
    polluted.append("by another test")

def test_same():
    print("the output of the one that is broken")
    assert False, "always"

def test_by_its_neighbour():
    assert polluted == []

def test_fixture(shaky):
    pass

def test_end_of_fixture(untidy):
    pass

@pytest.mark.parametrize("name", ["a::b [c\\nd]", "\\u00fc \\ud800"])
def test_named(name):
    assert not first(f"named-{ord(name[0])}")

def test_ends_the_interpreter():
    assert not first("ends")
    os._exit(0)

def test_is_skipped_then():
    assert not first("skipped")
    raise SkipTest("not today")

def test_skipped():
    raise SkipTest("never")

def test_unwanted():
    assert False, "deselected"
"""

TWO = """
def test_same():
    print("the first time" if first("same") else "the second time")
    assert (HERE / "same.runs").read_text().count("\\n") == 2
"""


@dataclass
class Done:
    folder: Folder
    code: int
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One run of all kinds of tests, with options that the second runs must apply, or must not."""
    folder = Folder(tmp_path_factory.mktemp("mixed"))
    folder.file("tests/one/test_it.py", ONE)
    folder.file("tests/two/test_it.py", TWO)
    words = (
        "-k",
        "not unwanted",
        "--junitxml=junit.xml",
        "--basetemp=base",
        "--log-file=log",
        "tests/one",
        "tests/two",
    )
    (folder.path / "base").mkdir()
    return Done(folder, *folder.run(*words))


FLAKES = (
    "tests/one/test_it.py::test_by_its_neighbour",
    "tests/one/test_it.py::test_fixture",
    "tests/one/test_it.py::test_end_of_fixture",
    r"tests/one/test_it.py::test_named[a::b [c\nd]]",
    r"tests/one/test_it.py::test_named[\xfc \ud800]",
    "tests/two/test_it.py::test_same",
)


def test_what_passes_alone_is_a_flake_and_the_rest_stays_failed(mixed: Done) -> None:
    assert [line.removeprefix("flake: ") for line in mixed.lines if line.startswith("flake: ")] == list(FLAKES)
    assert "6 flakes: failed first, passed alone" in mixed.lines
    failed = [at for at, line in enumerate(mixed.lines) if "failed twice: " in line]
    assert [mixed.lines[at + 1] for at in failed] == [
        "tests/one/test_it.py::test_same",
        "tests/one/test_it.py::test_ends_the_interpreter",
        "tests/one/test_it.py::test_is_skipped_then",
    ]
    assert mixed.code == 1
    assert mixed.lines[-1] == "7 passed, 3 failed, 1 skipped"


def test_only_the_last_line_is_one_that_ci_reads_for_the_verdict(mixed: Done) -> None:
    """pytest's own line is there before it; nothing that a test printed stands at the beginning of a line."""
    assert [line for line in mixed.lines if re.fullmatch(r"\d+ passed, \d+ failed(, \d+ skipped)?", line)] == [
        mixed.lines[-1]
    ]
    second = mixed.text[mixed.text.index("second run, 1 of 9") :]
    assert "| in setup:" in second
    assert re.search(r"^\| E +OSError: no such luck$", second, re.MULTILINE)


def test_of_a_flake_both_outputs_are_printed(mixed: Done) -> None:
    flake = mixed.text[mixed.text.index(" flake 6 of 6 ") : mixed.text.index(" failed twice: 1 of 3 ")]
    assert "tests/two/test_it.py::test_same" in flake
    at_first, then = flake.split("the second run passed after")
    assert "| Captured stdout call:\n| the first time\n" in at_first
    assert "AssertionError" in at_first
    assert "| Captured stdout call:\n| the second time\n" in then


def test_an_interpreter_that_ends_with_code_0_in_a_test_has_not_passed(mixed: Done) -> None:
    assert re.search(r"^the second run ended the interpreter after \d+\.\d s, exit code 1$", mixed.text, re.MULTILINE)


def test_each_second_run_has_a_process_of_its_own(mixed: Done) -> None:
    runs = [path.read_text().split() for path in mixed.folder.path.glob("tests/*/*.runs")]
    assert [len(pids) for pids in runs] == [2] * 7
    assert len({pids[0] for pids in runs}) == 1
    assert len({pid for pids in runs for pid in pids}) == 1 + 7


def test_files_of_the_first_run_stay_as_they_are(mixed: Done) -> None:
    suite = ET.parse(mixed.folder.path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("11", "7", "2")
    last_failed = (mixed.folder.path / ".pytest_cache/v/cache/lastfailed").read_text()
    assert last_failed.count("test_it.py::") == 9


def test_the_table_has_every_room_the_second_run_and_the_wall(mixed: Done) -> None:
    at = next(at for at, line in enumerate(mixed.lines) if line.startswith("where the time went"))
    table = {line.rsplit(maxsplit=4)[0]: line.split()[-4:] for line in mixed.lines[at + 1 :] if re.search(r"\d$", line)}
    assert table["tests/one"][0] == "10"
    assert table["tests/two"][0] == "1"
    assert table["second run"][0] == "9"
    parts = [float(row[-1]) for name, row in table.items() if name not in ("total",) and row[-1] != "-"]
    assert abs(sum(parts) - float(table["total"][-1])) < 0.05 * (len(parts) + 1)


# --- runs without a second one ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_flakes_only_and_the_run_passes_unless_strict(folder: Folder) -> None:
    path = folder.file("test_it.py", "def test_a(): assert not first('a')\ndef test_b(): pass\n")
    code, text = folder.run("test_it.py", own=("--strict",))
    assert (code, text.splitlines()[-1]) == (1, "1 passed, 1 failed")
    assert "--strict: no second run" in text
    path.with_name("a.runs").unlink()
    # "--" ends pytest's options, and not those that we add for the second run.
    code, text = folder.run("-q", "--", "test_it.py")
    assert (code, text.splitlines()[-1]) == (0, "2 passed, 0 failed")
    assert "1 flake: failed first, passed alone" in text


def test_more_than_ten_failures_are_no_chance(folder: Folder) -> None:
    folder.file(
        "test_it.py", "import pytest\n@pytest.mark.parametrize('n', range(11))\ndef test_a(n): assert not first(n)\n"
    )
    code, text = folder.run()
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 11 failed")
    assert "more than 10 tests failed, which is no chance: no second run" in text
    assert all(path.read_text().count("\n") == 1 for path in folder.path.glob("*.runs"))


def test_a_run_that_stops_early_has_failed_whatever_its_failure_is(folder: Folder) -> None:
    """The tests that were not run may be broken."""
    folder.file("test_it.py", "def test_a(): assert not first('a')\ndef test_b(): assert False\n")
    code, text = folder.run("-x")
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed")
    assert text.splitlines()[-2] == "not run: 1"
    assert (folder.path / "a.runs").read_text().count("\n") == 1


def test_what_cannot_be_collected_is_never_tried_again(folder: Folder) -> None:
    folder.file("test_broken.py", "if first('module'): import nothing_of_that_name\n")
    folder.file("test_it.py", "def test_a(): assert not first('a')\n")
    code, text = folder.run("--continue-on-collection-errors")
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 2 failed")
    assert "not everything could be collected: no second run" in text
    assert (folder.path / "module.runs").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (["--no-such-option"], 4, "no-such-option"),
        (["-k", "nothing"], 5, "1 deselected"),
        (["--collect-only"], 0, "1 test collected"),
    ],
)
def test_where_no_test_runs_pytest_has_the_last_word(folder: Folder, words: list[str], code: int, last: str) -> None:
    folder.file("test_it.py", "def test_a(): pass\n")
    ended, text = folder.run(*words)
    assert ended == code
    assert "passed" not in text
    assert last in text


@pytest.mark.parametrize(("last_words", "code"), [("os._exit(0)", 1), ("os.kill(os.getpid(), 9)", 137)])
def test_an_interpreter_that_ends_is_a_failure_of_its_test(folder: Folder, last_words: str, code: int) -> None:
    folder.file("test_it.py", f"import pytest\ndef test_a(): pass\ndef test_b(): {last_words}\ndef test_c(): pass\n")
    ended, text = folder.run()
    assert (ended, text.splitlines()[-1]) == (code, "1 passed, 1 failed")
    assert "the interpreter ended in: test_it.py::test_b" in text
    assert "not run: 1" in text


def test_a_test_that_has_another_name_each_time_stays_failed(folder: Folder) -> None:
    folder.file(
        "test_it.py", "import pytest\n@pytest.mark.parametrize('n', [os.getpid()])\ndef test_a(n): assert False\n"
    )
    code, text = folder.run()
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed")
    assert "the second run was not found again: its id is another one in each run" in text


def test_a_reader_that_goes_away_changes_no_exit_code(folder: Folder) -> None:
    folder.file("test_it.py", "def test_a(): assert first('nothing') is None\n")
    with folder.start() as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() != 0


def test_chance_is_the_same_in_both_runs(folder: Folder) -> None:
    """Otherwise a defect that one seed of many shows would be taken for a flake."""
    folder.file(
        "test_it.py",
        """
        import pytest, random

        @pytest.fixture
        def seed(request):
            chosen = int(os.environ.get("FLOTILLA_SEED", random.SystemRandom().getrandbits(32)))
            request.node.add_report_section("setup", "seed", f"repeat with FLOTILLA_SEED={chosen}")
            return chosen

        def test_a(seed):
            with (HERE / "seeds").open("a") as file:
                file.write(f"{seed}\\n")
            assert False
        """.replace("\n        ", "\n"),
    )
    code, text = folder.run()
    assert (code, text.splitlines()[-1]) == (1, "0 passed, 1 failed")
    first, second = (folder.path / "seeds").read_text().split()
    assert first == second


# --- broken off ------------------------------------------------------------------------------------------------------

SERVER = """
import pytest, subprocess, time

@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (HERE / "pid").write_text(str(process.pid))
    try:
        yield
    finally:
        process.kill()
        process.wait()
        with (HERE / "put-away").open("a") as file:
            file.write("x")
"""
WAITS = (
    SERVER
    + "def test_a(): pass\ndef test_b(server):\n    (HERE / 'ready').touch()\n    time.sleep(600)\ndef test_c(): pass\n"
)
WAITS_THEN = (
    SERVER + "def test_a(server):\n    assert not first('a')\n    (HERE / 'ready').touch()\n    time.sleep(600)\n"
)


def assert_nothing_is_left(folder: Folder, times: int = 1) -> None:
    assert (folder.path / "put-away").read_text() == "x" * times
    assert not is_there(int((folder.path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_first_run_that_is_interrupted_puts_all_away(folder: Folder, number: signal.Signals) -> None:
    folder.file("test_it.py", WAITS)
    code, text = folder.interrupt(number, folder.path / "ready")
    assert code == 2
    assert text.splitlines()[-1] == "interrupted: 1 passed, 0 failed, 1 broken off, 1 not run"
    assert f"{number.name} ended the run" in text
    assert text.count("KeyboardInterrupt !!!") == 1
    assert_nothing_is_left(folder)


def test_a_second_run_that_is_interrupted_puts_all_away_and_forgives_nothing(folder: Folder) -> None:
    folder.file("test_it.py", WAITS_THEN)
    code, text = folder.interrupt(signal.SIGINT, folder.path / "ready")
    assert code == 2
    assert text.splitlines()[-1] == "interrupted: 0 passed, 1 failed, 0 not run"
    assert "interrupted in the second run: 1 of 1 stay failed untried" in text
    assert_nothing_is_left(folder, times=2)


def test_a_runner_that_is_killed_takes_its_tests_with_it(folder: Folder) -> None:
    folder.file("test_it.py", WAITS)
    with folder.start() as process:
        until((folder.path / "ready").exists)
        process.kill()
        process.communicate()
    until((folder.path / "put-away").exists)
    assert_nothing_is_left(folder)


# --- the foreman -----------------------------------------------------------------------------------------------------


def foreman(code: str) -> str:
    """What a program prints that has a Foreman; in a process of its own, since a Foreman takes all signals."""
    script = f"import os, signal, sys, time\nfrom tests.runner import process\nfrom tests.runner.process import Foreman\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_a_program_that_takes_too_long_gets_sigterm() -> None:
    begin = time.monotonic()
    printed = foreman("with Foreman() as it: print(it.run(['sleep', '600'], limit_s=0.2))")
    assert re.fullmatch(r"Ended\(code=-15, seconds=\S+, interrupted=False, timed_out=True\)\n", printed)
    assert time.monotonic() - begin < 300


def test_who_does_not_listen_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """It is deaf from its first moment, as it inherits that."""
    mark = f"600.{os.getpid()}"
    printed = foreman(f"""
process.GRACE_S = 0.2
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Foreman() as it:
    print(it.run(['bash', '-c', 'sleep {mark} & wait'], limit_s=1))
""")
    assert "code=-9" in printed
    until(lambda: mark not in subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True).stdout)


def test_after_an_interrupt_nothing_more_is_started() -> None:
    printed = foreman("""
with Foreman() as it:
    print(it.run(['true']).code)
    os.kill(os.getpid(), signal.SIGTERM)
    print(it.run(['true']), it.heard.name)
""")
    assert printed == "0\nNone SIGTERM\n"


@pytest.mark.parametrize(("again_s", "heard"), [(1000, 1), (0, 2)])
def test_a_signal_that_comes_again_at_once_is_the_same_one(again_s: float, heard: int) -> None:
    """As ``timeout`` sends it: to us, and to our group."""
    listens = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
print("ready", flush=True)
while signal.sigwait([signal.SIGINT, signal.SIGTERM]) == signal.SIGINT:
    print("heard", flush=True)
"""
    script = f"""
import sys
from tests.runner import process
process.AGAIN_S = {again_s}
with process.Foreman() as it: it.run([sys.executable, "-c", {listens!r}])
"""
    # SIGTERM, which ends it, has the higher number, and so is taken after what came before it.
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "heard\n"
    process.send_signal(signal.SIGINT)
    if heard == 2:
        assert process.stdout.readline() == "heard\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == ""


def test_nohup_means_what_it_says() -> None:
    printed = foreman("""
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with Foreman() as it:
    os.kill(os.getpid(), signal.SIGHUP)
    print(it.run(['true']).code)
""")
    assert printed == "0\n"
