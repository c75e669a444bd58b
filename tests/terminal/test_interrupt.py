"""Ctrl-C that waits: it comes after the block, once, and a process started in the block gets nothing of it. One that
comes too late. And one that comes in the instant before a system call, which it does not interrupt.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from terminal import held_back
from terminal.interrupt import SIGNALS, noticed


def test_it_comes_after_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]


def test_without_one_nothing_happens_and_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with held_back():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_failure_in_the_block_is_not_lost() -> None:
    with pytest.raises(ValueError, match="mine"), held_back():
        raise ValueError("mine")


def test_a_process_started_in_it_can_be_interrupted() -> None:
    asks = "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    with held_back():
        done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_in_a_thread_it_does_nothing() -> None:
    """Python's signals reach the main thread only."""
    said: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with held_back():
            said.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [True]


@pytest.mark.parametrize("number", SIGNALS)
def test_what_comes_after_success_is_too_late_even_while_the_interpreter_shuts_down(number: signal.Signals) -> None:
    code = f"""
import signal, sys
from terminal import command, settled

class Late:
    def __del__(self):  # a module's values are dropped last
        signal.raise_signal({int(number)})

late = Late()
def run(arguments):
    settled()
    signal.raise_signal({int(number)})
    return 0

code = command("late", run)
signal.raise_signal({int(number)})
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


WAITS = {
    "a pipe to be read": "os.read(os.pipe()[0], 1)",
    "a pipe to be written": "os.write(os.pipe()[1], bytes(1 << 20))",
    "a process": "subprocess.run(['sleep', '60'])",
    "a lock": "lock.acquire()",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("number", SIGNALS)
def test_what_comes_just_before_a_wait_ends_it(number: signal.Signals, wait: str) -> None:
    """PyErr_SetInterruptEx does all that a signal does, but for interrupting the system call that the main thread is
    in: as if it had come before.
    """
    code = f"""
import ctypes, os, subprocess, sys, threading
from terminal import command

lock = threading.Lock()
lock.acquire()

def run(arguments):
    threading.Timer(0.3, ctypes.pythonapi.PyErr_SetInterruptEx, [{int(number)}]).start()
    {wait}
    return 0

sys.exit(command("waits", run))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "waits: interrupted\n")


def test_afterwards_nothing_is_left_of_the_nudging() -> None:
    before = signal.getsignal(signal.SIGURG), threading.enumerate()
    with pytest.raises(KeyboardInterrupt), noticed():
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGURG), threading.enumerate()) == before
    assert signal.set_wakeup_fd(-1) == -1
