"""Looking into nodes without their network: root shells, serial consoles, journals."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from cluster.cli.verbs import Verbs
from cluster.client import console
from cluster.client.cluster import Cluster
from cluster.client.node import Node, plain_lines
from cluster.model import logs
from terminal import Failure, UsageFailure

CONSOLE_EXAMPLES = """\
examples:
  cluster console node-2                   a root shell, also if network and ssh are dead; Ctrl-] leaves it
  cluster console node-2 ip addr           one command; ends with its exit code
  cluster console node-2 < commands.sh     commands from a file
  cluster console node-2 --log -f          what it writes to its serial console
"""
LOGS_EXAMPLES = """\
examples:
  cluster logs                             the last lines of all nodes' journals, by time
  cluster logs node-2 -f                   of one, and what comes
  cluster logs -u etcd -u fleet --lines 20
"""
FOLLOW_S = 0.2
STAMP = re.compile(r"\d{4}-\d\d-\d\dT")
"""How a line of 'journalctl -o short-iso-precise' begins that does not go on with the one above it."""


def add(verbs: Verbs) -> None:
    """``console`` and ``logs``."""
    text = "a root shell on a node, or one command, that needs no network; or its serial console's log"
    sub = verbs.add("console", text, _console, examples=CONSOLE_EXAMPLES)
    _log_arguments(sub)
    sub.add_argument("node", metavar="NODE", help="node-2, or just 2")
    sub.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="run this instead of a shell")
    sub = verbs.add("logs", "show nodes' journals", _logs, examples=LOGS_EXAMPLES)
    sub.add_argument("nodes", metavar="NODE", nargs="*", help="of these (all)")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    sub.add_argument("-u", "--unit", action="append", default=[], metavar="UNIT", help="of this unit (may be repeated)")
    sub.add_argument("--lines", type=int, default=50, metavar="N", help="how many of each node (50)")


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", action="store_true", help="show what it wrote to its serial console, also if it is off"
    )
    parser.add_argument("--lines", type=int, default=50, metavar="N", help="with --log: how many lines (50)")
    parser.add_argument("-f", "--follow", action="store_true", help="with --log: go on with what comes")


def _console(arguments: argparse.Namespace) -> int:
    words = arguments.words
    if words[:1] == ["--"]:
        words = words[1:]
    elif words and words[0].startswith("-"):  # ours, after the node's name
        parser = argparse.ArgumentParser(prog="cluster console NODE", epilog="see 'cluster console --help'")
        _log_arguments(parser)
        parser.set_defaults(**{name: getattr(arguments, name) for name in ("log", "lines", "follow")})
        arguments, words = parser.parse_args(words, arguments), []
    _require_lines(arguments.lines)
    cluster = Cluster.open(arguments.name)
    node = cluster.node(arguments.node)
    if arguments.log:
        return _console_log(node, arguments.lines, follow=arguments.follow)
    if arguments.follow:
        raise UsageFailure("-f goes with --log")
    cluster.require_running()
    command = " ".join(words) or None
    if sys.stdin.isatty() and sys.stdout.isatty():
        if command is None:
            print(f"root on {node.name}; Ctrl-] leaves", file=sys.stderr)
        return console.attach(node.control, node.number, command)
    source = None if sys.stdin.isatty() else open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115
    if command is None and source is None:
        raise UsageFailure("a shell needs a terminal on both sides", hint="name a command, or give commands as input")
    return console.run(node.control, node.number, command, sys.stdout.buffer, sys.stderr.buffer, source)


def _console_log(node: Node, lines: int, *, follow: bool) -> int:
    print(node.console_tail(lines), flush=True)
    position = node.console_log.stat().st_size if node.console_log.exists() else 0
    rest = b""
    while follow:
        time.sleep(FOLLOW_S)
        if not node.console_log.exists():
            continue
        with node.console_log.open("rb") as file:
            logs.resume(file, position)
            *whole, rest = (rest + file.read()).split(b"\n")
            position = file.tell()
        for line in plain_lines(b"\n".join(whole).decode(errors="replace")):
            print(line, flush=True)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    _require_lines(arguments.lines)
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    nodes = [cluster.node(text) for text in arguments.nodes] or cluster.nodes
    if missing := [node.name for node in nodes if not node.has_shell]:
        raise Failure(
            f"no root shell on {', '.join(missing)}: off, at the beginning of its boot, or an older image",
            hint="'cluster console NODE --log' shows what it wrote to its console",
        )
    words = ["journalctl", "--no-pager", "--boot", "--output=short-iso-precise", f"--lines={arguments.lines}"]
    words += [f"--unit={unit}" for unit in arguments.unit]
    if arguments.follow:
        return _follow(nodes, shlex.join([*words, "--follow"]))
    said = [(node, node.root(shlex.join(words))) for node in nodes]
    for node, result in said:
        if result.rc != 0:
            raise Failure(f"its journal cannot be read: {result.err.strip()}", where=node.name)
    for name, line in merged([(node.name, result.out) for node, result in said]):
        print(line if len(nodes) == 1 else f"{name} | {line}")
    return 0


def merged(journals: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The lines of several journals by time, each with its node's name.

    A line without a time stays below the one above it.
    """
    entries: list[tuple[str, str, list[str]]] = []
    for name, text in journals:
        for line in text.splitlines():
            if STAMP.match(line) or not entries or entries[-1][1] != name:
                entries.append((line.split(" ", 1)[0] if STAMP.match(line) else "", name, [line]))
            else:
                entries[-1][2].append(line)
    for _, name, lines in sorted(entries, key=lambda entry: entry[0]):
        for line in lines:
            yield name, line


class _Prefixed:
    """Whole lines to stdout, each with a prefix; from several threads."""

    _printing = threading.Lock()

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._part = b""

    def write(self, data: bytes) -> None:
        *whole, self._part = (self._part + data).split(b"\n")
        for line in whole:
            with self._printing:
                print(f"{self._prefix}{line.decode(errors='replace')}", flush=True)

    def flush(self) -> None:
        """Each line is printed when it is whole."""


def _follow(nodes: Sequence[Node], command: str) -> int:
    """Print the command's output on each node until all have ended, or until Ctrl-C, which ends them there, too."""

    def listen(node: Node) -> None:
        output = _Prefixed(f"{node.name} | " if len(nodes) > 1 else "")
        try:
            console.run(node.control, node.number, command, output, io.BytesIO(), None)
        except Failure as failure:
            output.write(f"-- {failure.message}\n".encode())

    threads = [threading.Thread(target=listen, args=(node,), daemon=True) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


def _require_lines(lines: int) -> None:
    if lines < 1:
        raise UsageFailure(f"--lines {lines}: at least 1")
