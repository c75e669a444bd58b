"""``cluster completion``: scripts with which a shell completes our commands' words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.cli.verbs import Verbs
from terminal import UsageFailure

SHELLS = ("bash", "zsh")
EXAMPLES = """\
examples:
  cluster completion bash > ~/.local/share/bash-completion/completions/cluster
  cluster completion bash fleetctl > ~/.local/share/bash-completion/completions/fleetctl
  cluster completion zsh > ~/.zfunc/_cluster            with 'fpath+=~/.zfunc' in ~/.zshrc, before compinit
  eval "$(cluster completion bash)"                     for this shell
"""
# Words that change: the shell itself looks them up in our folders, since starting Python takes longer than people wait
# for a completion.
_CLUSTERS = "${XDG_STATE_HOME:-$HOME/.local/state}/flotilla/clusters"
PREAMBLE = {
    "bash": f"""\
_flotilla_clusters() {{ compgen -W "$(cd "{_CLUSTERS}" 2>/dev/null && ls)" -- "$1"; }}
_flotilla_nodes() {{ compgen -W "$(cd "{_CLUSTERS}/${{FLOTILLA_CLUSTER:-default}}" 2>/dev/null && ls -d node-*)" -- "$1"; }}
""",
    "zsh": f"""\
_flotilla_clusters() {{ compadd -- ${{(f)"$(cd "{_CLUSTERS}" 2>/dev/null && ls)"}} }}
_flotilla_nodes() {{ compadd -- ${{(f)"$(cd "{_CLUSTERS}/${{FLOTILLA_CLUSTER:-default}}" 2>/dev/null && ls -d node-*)"}} }}
""",
}
# Names for fleetctl come from its cluster, so fleetctl lists them, with short timeouts for a cluster that is far away.
# bash compares the names and never expands them: other people chose them. In bash, '@' is part of a word, as in
# systemctl's completion.
_FLEETCTL = "fleetctl --request-timeout 2 --ssh-timeout 4"
_UNITS = f"{_FLEETCTL} list-unit-files --no-legend --fields unit 2>/dev/null"
_MACHINES = f"{_FLEETCTL} list-machines --no-legend --full --fields machine,ip 2>/dev/null"
FLEETCTL_PREAMBLE = {
    "bash": f"""\
COMP_WORDBREAKS=${{COMP_WORDBREAKS//@/}}
_flotilla_beginning() {{ local word; while read -r word; do [[ $word == "$1"* ]] && printf '%s\\n' "$word"; done; }}
_flotilla_units() {{ {_UNITS} | _flotilla_beginning "$1"; }}
_flotilla_units_or_files() {{ _flotilla_units "$1"; compgen -f -- "$1"; }}
_flotilla_machines() {{ {_MACHINES} | tr -s ' ' '\\n' | _flotilla_beginning "$1"; }}
_flotilla_machines_or_units() {{ _flotilla_machines "$1"; _flotilla_units "$1"; }}
""",
    "zsh": f"""\
_flotilla_units() {{ compadd -- ${{(f)"$({_UNITS})"}} }}
_flotilla_units_or_files() {{ _flotilla_units; _files }}
_flotilla_machines() {{ compadd -- ${{=:-"$({_MACHINES})"}} }}
_flotilla_machines_or_units() {{ _flotilla_machines; _flotilla_units }}
""",
}
_FLEETCTL_WORDS = {
    "UNIT": "_flotilla_units",
    "UNIT|FILE": "_flotilla_units_or_files",
    "ID": "_flotilla_machines",
    "TARGET [COMMAND...]": "_flotilla_machines_or_units",
}
_NODES = dict.fromkeys(SHELLS, "_flotilla_nodes")
_CLUSTER_NAMES = dict.fromkeys(SHELLS, "_flotilla_clusters")
_FOLDERS = ("DIR", "FOLDER")
Parser = Callable[[], argparse.ArgumentParser]


def add(verbs: Verbs, ours: dict[str, Parser]) -> None:
    """The verb; ``ours`` are the parsers of this room's commands."""
    text = "print a script with which a shell completes our commands"
    sub = verbs.add("completion", text, lambda arguments: _print(arguments, ours), examples=EXAMPLES, named=False)
    sub.add_argument("shell", choices=SHELLS)
    sub.add_argument("command", metavar="COMMAND", nargs="?", default="cluster", help="of ours (cluster)")


def _print(arguments: argparse.Namespace, ours: dict[str, Parser]) -> int:
    parsers = {**ours, **_of_other_rooms()}
    if arguments.command not in parsers:
        raise UsageFailure(f"{arguments.command!r} is no command of ours", hint=", ".join(sorted(parsers)))
    sys.stdout.write(script(parsers[arguments.command](), arguments.shell) + "\n")
    return 0


def _of_other_rooms() -> dict[str, Parser]:
    import builder.cli
    import cloudconfig.cli
    import discovery.cli
    import fleet.ctl.cli

    return {
        "osbuild": builder.cli.new_parser,
        "cloudconfig": cloudconfig.cli.new_parser,
        "discovery": discovery.cli.new_parser,
        "fleetctl": fleet.ctl.cli.whole_parser,
    }


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for ``shell`` ("bash" or "zsh") that completes the words of ``parser``."""
    import shtab

    for action in _actions(parser):
        found = _completion(action, parser.prog)
        if found is not None:
            action.complete = found  # type: ignore[attr-defined]  # where shtab looks for it
    preamble = PREAMBLE[shell] + (FLEETCTL_PREAMBLE[shell] if parser.prog == "fleetctl" else "")
    text: str = shtab.complete(parser, shell, preamble=preamble)
    return text


def _completion(action: argparse.Action, command: str) -> object:
    import shtab

    if command == "fleetctl" and action.metavar in _FLEETCTL_WORDS:
        return dict.fromkeys(SHELLS, _FLEETCTL_WORDS[action.metavar])
    if "--name" in action.option_strings:
        return _CLUSTER_NAMES
    if action.metavar in ("NODE", "A", "B") or action.dest == "node":
        return _NODES
    if action.metavar in _FOLDERS:
        return shtab.DIRECTORY
    if action.type is Path or action.metavar in ("FILE", "PATH"):
        return shtab.FILE
    return None


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All actions of the parser and of its verbs' parsers.

    (argparse has no public name for them; shtab reads the same attributes.)
    """
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
