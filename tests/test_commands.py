"""What all commands have in common: help that lists the same options, suggestions, and the exit codes of
docs/exit-codes.md.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import builder.cli
import cloudconfig.cli
import cluster.cli
import discovery.cli
import enrolment.cli
import fleet.ctl.cli
import fleet.daemon
import install.cli
import trust.cli
from terminal import Failure, command
from tests.cluster.commands import call
from tests.ports import free_ports

ROOT = Path(__file__).parent.parent
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
ENTRIES: dict[str, Callable[[], int]] = {
    "osbuild": builder.cli.main,
    "cloudconfig": cloudconfig.cli.main,
    "discovery": discovery.cli.main,
    "fleetd": fleet.daemon.main,
    "fleetctl": fleet.ctl.cli.main,
    "trust": trust.cli.main,
    "cluster": cluster.cli.main,
    "cluster-up": cluster.cli.main_up,
    "cluster-down": cluster.cli.main_down,
    "flotilla-install": install.cli.main,
    "flotilla-trust": enrolment.cli.main,
}
NOWHERE = "/nowhere/at.all"
CODES: list[tuple[str, int]] = [
    ("osbuild image --definition {}", 1),
    ("osbuild inspect {}", 1),
    ("osbuild image --nonsense", 2),
    ("osbuild", 2),
    ("cloudconfig validate {}", 1),
    ("cloudconfig render default --vars {}", 1),
    ("cloudconfig apply --datasource nonsense", 2),
    ("cloudconfig", 2),
    ("discovery serve --state {}", 1),
    ("discovery serve --listen nonsense", 2),
    ("discovery", 2),
    ("fleetd --check-config --config {}", 1),
    ("fleetd --nonsense", 2),
    ("fleetctl --endpoint unix://{} list-units", 1),
    ("fleetctl nonsense", 2),
    ("fleetctl", 0),
    ("trust show {}", 1),
    ("trust serve {}", 1),
    ("trust serve {} --listen nonsense", 2),
    ("trust secret list {}", 1),
    ("trust secret new {} --ttl nonsense", 2),
    ("trust restore {0} {0} --lists", 1),
    ("trust nonsense", 2),
    ("trust", 2),
    ("cluster up 1 --user-data {}", 1),
    ("cluster up 1 --load-image {}", 1),
    ("cluster up 1 --files {}", 1),
    ("cluster up 1 --image {}", 1),
    ("cluster push {}", 1),
    ("cluster status", 1),
    ("cluster up 0", 2),
    ("cluster", 2),
    ("cluster-up 1 --user-data {}", 1),
    ("cluster-up", 2),
    ("cluster-down", 0),
    ("cluster-down --nonsense", 2),
    ("flotilla-install {}", 1),
    ("flotilla-install", 2),
    ("flotilla-trust --folder {} show", 1),
    ("flotilla-trust --orders {0} --folder {0} enrol", 1),
    ("flotilla-trust", 2),
]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without clusters and caches."""
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("FLOTILLA_CLUSTER", raising=False)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """``parser`` and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from parsers(sub)


PARSERS = [
    *parsers(builder.cli.new_parser()),
    *parsers(cloudconfig.cli.new_parser()),
    *parsers(discovery.cli.new_parser()),
    *parsers(trust.cli.new_parser()),
    *parsers(enrolment.cli.new_parser()),
    *parsers(fleet.ctl.cli.whole_parser()),
    fleet.ctl.cli._parser(),
    *(fleet.ctl.cli._command_parser(each.name) for each in fleet.ctl.cli.COMMANDS),
    fleet.ctl.cli._command_parser("context"),
    fleet.daemon._parser(),
    *parsers(cluster.cli._parser()),
    cluster.cli._up_parser(),
    cluster.cli._down_parser(),
    install.cli._parser(),
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_each_help_lists_the_common_options(parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()
    assert re.search(r"^  --version +\S", text, re.MULTILINE)
    assert re.search(r"^  --debug +\S", text, re.MULTILINE)


@pytest.mark.parametrize(("words", "hint"), [("osbuild imgae", "image"), ("cluster snapsot", "snapshot"), ("discovery serv", "serve"), ("trust isue", "issue"), ("fleetctl strat", "start"), ("cluster fault disk-slo", "disk-slow"), ("cluster up 1 --driver qmeu", "qemu")])  # fmt: skip
def test_a_mistyped_word_gets_a_suggestion(words: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *rest = words.split()
    assert call(ENTRIES[name], *rest) == 2
    assert capsys.readouterr().err.endswith(f"\n\nhint: did you mean {hint}?\n")


def test_a_word_that_is_near_to_none_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(discovery.cli.main, "xyzzy") == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), CODES, ids=[words for words, _ in CODES])
def test_exit_codes(words: str, code: int) -> None:
    name, *rest = words.format(NOWHERE).split()
    assert call(ENTRIES[name], *rest) == code


def test_settings_that_cannot_work_have_a_code_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_DISCOVERY", "nonsense")
    assert call(ENTRIES["discovery"], "join", "--dry-run") == 78


@pytest.mark.parametrize("name", ENTRIES)
def test_help_and_version_are_no_failure(name: str) -> None:
    assert call(ENTRIES[name], "--help") == 0
    assert call(ENTRIES[name], "--version") == 0


@pytest.mark.parametrize("words", ["cluster --debug ssh node-1 true", "cluster ssh --debug node-1 true", "cluster ssh node-1 --debug"])  # fmt: skip
def test_debug_is_ours_before_the_words_of_another_program(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_DEBUG", "0")
    name, *rest = words.split()
    if words.endswith("--debug"):
        assert call(ENTRIES[name], *rest) == 1
    else:
        with pytest.raises(Failure, match="no cluster"):
            call(ENTRIES[name], *rest)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_command(number: signal.Signals) -> None:
    def run(_arguments: Sequence[str]) -> int:
        signal.raise_signal(number)
        return 0

    assert command("prog", run, []) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_stopped_has_not_failed(number: signal.Signals, tmp_path: Path) -> None:
    """``fleetd`` is stopped in tests/fleet/test_daemon.py."""
    program = "import sys; from discovery.cli import main; sys.exit(main())"
    words = ["serve", "--listen", f"127.0.0.1:{free_ports(1)[0]}", "--state", str(tmp_path / "tokens.json")]
    with subprocess.Popen([sys.executable, "-c", program, *words], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"https://")
            process.send_signal(number)
            assert process.wait(60) == 0
        finally:
            process.kill()  # or the block would wait for its end


def test_all_commands_and_all_codes_are_in_the_table() -> None:
    assert SCRIPTS.keys() <= ENTRIES.keys()
    assert {words.split()[0] for words, _ in CODES} == ENTRIES.keys()
    page = (ROOT / "docs/exit-codes.md").read_text("utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {code for _, code in CODES} | {78, 130}
