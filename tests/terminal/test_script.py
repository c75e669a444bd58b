"""The outcome of a command becomes an exit code and a text on stderr, and nothing else."""

import errno
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from terminal import Failure, UsageFailure, command
from terminal.version import VERSION


def outcome(error: BaseException | None) -> int:
    def run(_arguments: Sequence[str]) -> int:
        if error is not None:
            raise error
        return 0

    return command("prog", run, [])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (Failure("no"), 1, "prog: error: no\n"),
        (UsageFailure("no", hint="prog --help"), 2, "prog: error: no\n\nhint: prog --help\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted\n"),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], error: BaseException | None, code: int, text: str) -> None:
    assert outcome(error) == code
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_a_full_disk_is_reported_with_a_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(OSError(errno.ENOSPC, "No space left on device", "/tmp/root.img")) == 1
    err = capsys.readouterr().err
    assert err.startswith("prog: error: /tmp/root.img: No space left on device\n")
    assert "hint: free some space" in err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(ZeroDivisionError())
    with pytest.raises(OSError, match="denied"):
        outcome(PermissionError(errno.EACCES, "denied"))


def test_a_broken_pipe_that_is_not_stdout_is_a_bug() -> None:
    with pytest.raises(BrokenPipeError):
        outcome(BrokenPipeError())


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: Sequence[str]) -> int:
        assert list(arguments) == ["image"]
        raise Failure("no")

    with pytest.raises(Failure):
        command("prog", run, ["image", "--debug"])
    monkeypatch.setenv("FLOTILLA_DEBUG", "1")
    with pytest.raises(Failure):
        command("prog", run, ["image"])


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (["run", "--", "tool", "--debug"], ["run", "--", "tool", "--debug"]),
        (["--debug", "run", "--", "--debug"], ["run", "--", "--debug"]),
        (["ssh", "node-1", "tool", "--debug"], ["ssh", "node-1", "tool", "--debug"]),
        (["--debug", "ssh", "node-1", "tool", "--debug"], ["ssh", "node-1", "tool", "--debug"]),
    ],
)
def test_words_for_another_program_are_left_alone(given: list[str], seen: list[str]) -> None:
    arguments: list[str] = []

    def run(words: Sequence[str]) -> int:
        arguments.extend(words)
        return 0

    assert command("prog", run, given, remote=("ssh",)) == 0
    assert arguments == seen


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prog", lambda _: 1, ["--version"]) == 0
    assert capsys.readouterr().out == f"prog {VERSION}\n"


def test_the_signal_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    outcome(None)
    assert signal.getsignal(signal.SIGTERM) is before


def script(body: str, *, before: str = "", shell: str = 'exec "$@"') -> subprocess.Popen[str]:
    """A real process whose ``run`` has ``body``: signals and pipes are tested with the real thing.

    ``before`` is run first; ``shell`` starts it, so that streams can be closed.
    """
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    program = f"import os, signal, sys, time\nfrom terminal import Phases, UsageFailure, command\n{before}\n"
    program += f"def run(_):\n{lines}\nsys.exit(command('prog', run, []))\n"
    pipe = subprocess.PIPE
    argv = ["sh", "-c", shell, "sh", sys.executable, "-c", program]
    return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_runs_the_clean_up_of_an_interrupt(number: signal.Signals) -> None:
    process = script(
        "try:\n    print('begun', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned', flush=True)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "cleaned\n", "prog: interrupted\n")


@pytest.mark.parametrize("lines", [1, 100_000], ids=["seen at the flush", "seen while printing"])
def test_a_reader_that_goes_away_is_no_error(lines: int) -> None:
    process = script(f"sys.stdin.readline()\nfor _ in range({lines}):\n    print('line')\nreturn 0")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_nohup_is_respected() -> None:
    process = script(
        "os.kill(os.getpid(), signal.SIGHUP)\nreturn 0", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    )
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("closed", "body", "code"),
    [
        ("", "print('x')\nreturn 0", 0),
        (">&-", "print('x')\nreturn 0", 0),
        ("2>&-", "raise UsageFailure('no')", 2),
        ("<&- >&- 2>&-", "print('x', file=sys.stderr)\nassert os.open('/dev/null', os.O_RDONLY) > 2\nreturn 0", 0),
        ("2>&-", "with Phases().phase('work'):\n    return 0", 0),
    ],
)
def test_a_closed_stream_is_no_error(closed: str, body: str, code: int) -> None:
    process = script(body, shell=f'exec "$@" {closed}')
    process.communicate(timeout=60)
    assert process.returncode == code


def test_closed_output_for_progress_and_errors_stops_nothing() -> None:
    body = "sys.stdin.readline()\nwith Phases().phase('work'):\n    pass\nraise UsageFailure('no')"
    process = script(body)
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    process.communicate("now\n", timeout=60)
    assert process.returncode == 2
