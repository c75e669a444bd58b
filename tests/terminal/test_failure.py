"""A failure says what is wrong, where, why, and what to do next: each once."""

from terminal import Failure, UsageFailure
from terminal.failure import render


def chain(outer: Exception, *causes: Exception) -> Exception:
    current = outer
    for cause in causes:
        current.__cause__ = cause
        current = cause
    return outer


def test_a_failure_alone_is_one_line() -> None:
    assert render(Failure("no such unit"), "fleetctl") == "fleetctl: error: no such unit"


def test_where_comes_before_what() -> None:
    assert (
        render(Failure("unknown key", where="node.yaml:3:5"), "osbuild") == "osbuild: error: node.yaml:3:5: unknown key"
    )


def test_causes_follow_in_order_and_hints_come_last() -> None:
    error = chain(
        Failure("cannot boot node-1", hint="run ./scripts/setup"),
        Failure("QEMU ended early", where="node-1"),
        FileNotFoundError(2, "No such file or directory", "vmlinuz"),
    )
    assert render(error, "cluster") == (
        "cluster: error: cannot boot node-1\n"
        "  caused by: node-1: QEMU ended early\n"
        "  caused by: [Errno 2] No such file or directory: 'vmlinuz'\n"
        "\n"
        "hint: run ./scripts/setup"
    )


def test_a_hint_that_two_causes_share_is_given_once() -> None:
    error = chain(Failure("a", hint="same"), Failure("b", hint="same"), Failure("c", hint="other"))
    assert render(error, "x").splitlines()[-2:] == ["hint: same", "hint: other"]


def test_an_exception_without_text_is_named() -> None:
    assert render(chain(Failure("it did not answer"), TimeoutError()), "x").endswith("caused by: TimeoutError")


def test_exit_codes() -> None:
    assert (Failure("x").exit_code, UsageFailure("x").exit_code) == (1, 2)
