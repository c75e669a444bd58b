"""The commands ``cluster``, ``cluster-up`` and ``cluster-down``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from builder.architecture import HOST, NAMES
from cluster import accelerator, preflight, qemu
from cluster import cluster as clusters
from cluster.cluster import Cluster
from cluster.layout import Layout, cache_root
from cluster.ssh import USER
from cluster.up import Options, load, require_archive, up
from terminal import Failure, Phases, UsageFailure, command, table

EXAMPLES = """\
examples:
  cluster up 3                         three nodes; builds the image if it is missing or stale
  eval "$(cluster env)"                a plain fleetctl now talks to that cluster
  cluster status                       what runs, and where
  cluster ssh node-2                   a shell on a node
  cluster ssh node-2 docker ps         or one command
  cluster console node-2               the last lines of its console
  cluster fault kill node-2            pull its plug
  cluster start node-2                 switch it on again, with the disk it has
  cluster up 3 --name lab              another cluster beside the first
  cluster down                         remove every process and file of it
"""
UP_EXAMPLES = """\
examples:
  cluster-up 3                                       three nodes of the cluster "default"
  cluster-up 3 --load-image build/container/redis/redis.tar
  cluster-up 5 --name lab --memory 768               five small ones, beside it
  cluster-up 3 --image build/qemu --user-data my.yaml.j2
  cluster-up 3 --ssh-port 3001 --keep                ports 3001 to 3003; a failed start is left to look at
"""
DOWN_EXAMPLES = """\
examples:
  cluster-down               remove the cluster "default"
  cluster-down --name lab    remove the cluster "lab"
"""


def main() -> int:
    """Entry point of ``cluster``."""
    return command("cluster", lambda argv: _run(_parser(), argv), remote=("ssh",))


def main_up() -> int:
    """Entry point of ``cluster-up``."""
    parser = _up_parser()
    return command("cluster-up", lambda argv: _run(parser, argv))


def check_up() -> int:
    """For ``scripts/cluster-up``, before anything is installed: are these arguments of ``cluster-up`` right?

    Needs nothing but the standard library.
    """
    parser = _up_parser()
    parser.set_defaults(run=_check)
    return command("cluster-up", lambda argv: _run(parser, argv))


def main_down() -> int:
    """Entry point of ``cluster-down``."""
    parser = _new_parser("cluster-down", "Remove every process and file of a cluster.", DOWN_EXAMPLES)
    _name_argument(parser)
    parser.set_defaults(run=_down)
    return command("cluster-down", lambda argv: _run(parser, argv))


def _up_parser() -> argparse.ArgumentParser:
    parser = _new_parser("cluster-up", "Bring up a cluster of virtual machines on this computer.", UP_EXAMPLES)
    _up_arguments(parser)
    return parser


def _run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _new_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _parser() -> argparse.ArgumentParser:
    parser = _new_parser("cluster", "Clusters of virtual machines on this computer.", EXAMPLES)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, text: str, examples: str | None = None) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _name_argument(sub)
        return sub

    sub = verbs.add_parser(
        "up",
        help="bring up a cluster",
        description="Bring up a cluster.",
        epilog=UP_EXAMPLES.replace("cluster-up", "cluster up"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _up_arguments(sub)
    verb("down", "remove every process and file of a cluster").set_defaults(run=_down)
    sub = verb("status", "show a cluster's nodes")
    sub.add_argument("--json", action="store_true", help="for machines")
    sub.set_defaults(run=_status)
    sub = verbs.add_parser("list", help="show all clusters", description="Show all clusters of yours.")
    sub.add_argument("--json", action="store_true", help="for machines")
    sub.set_defaults(run=_list)
    sub = verb("ssh", "a shell, or one command, on a node")
    sub.add_argument("node", metavar="NODE", help="node-2, or just 2")
    sub.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="run this instead of a shell")
    sub.set_defaults(run=_ssh)
    verb(
        "env", "print shell exports with which fleetctl talks to a cluster", 'example:\n  eval "$(cluster env)"'
    ).set_defaults(run=_env)
    sub = verb("console", "print the last lines of a node's console")
    sub.add_argument("node", metavar="NODE")
    sub.add_argument("--lines", type=int, default=50, metavar="N", help="how many (50)")
    sub.set_defaults(run=_console)
    for name, text in (
        ("start", "switch a node on, with the disk it has"),
        ("stop", "press a node's power button and wait"),
    ):
        sub = verb(name, text)
        sub.add_argument("node", metavar="NODE")
        sub.set_defaults(run=_power, verb=name)
    fault = verbs.add_parser("fault", help="break something on purpose", description="Break something on purpose.")
    faults = fault.add_subparsers(title="faults", metavar="FAULT", required=True)
    for name, text in (
        ("kill", "pull a node's plug; 'cluster start' boots it again"),
        ("pause", "stop a node's time"),
        ("resume", "let a paused node's time go on"),
    ):
        sub = faults.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _name_argument(sub)
        sub.add_argument("node", metavar="NODE")
        sub.set_defaults(run=_power, verb=name)
    sub = verb("load-image", "give a docker-archive to every node's docker")
    sub.add_argument("file", metavar="FILE", type=Path)
    sub.set_defaults(run=_load_image)
    sub = verbs.add_parser(
        "doctor", help="say what this computer can do", description="Say what this computer can do, and why."
    )
    sub.add_argument("--json", action="store_true", help="for machines")
    sub.set_defaults(run=_doctor)
    return parser


def _name_argument(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("FLOTILLA_CLUSTER") or "default"
    parser.add_argument("--name", default=default, help=f"the cluster ({default}; FLOTILLA_CLUSTER sets it)")


def _up_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("size", metavar="N", type=int, help="how many nodes")
    _name_argument(parser)
    parser.add_argument(
        "--image", type=Path, metavar="DIR", help="a built image; without it, it is built if missing or stale"
    )
    parser.add_argument(
        "--user-data", type=Path, metavar="FILE.j2", help="a template for user-data instead of the packaged one"
    )
    parser.add_argument(
        "--load-image",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a docker-archive for every node (may be repeated), instead of the redis that units/examples runs",
    )
    parser.add_argument("--bare", action="store_true", help="give the nodes no docker image at all: up a minute sooner")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="memory of each node (1024)")
    parser.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto uses KVM if a guest really runs with it"
    )
    parser.add_argument(
        "--arch", choices=NAMES, default=HOST, help=f"the nodes' architecture ({HOST}; others are emulated)"
    )
    parser.add_argument("--ssh-port", type=int, metavar="BASE", help="ssh ports on 127.0.0.1 from here (free ones)")
    parser.add_argument(
        "--discovery-port", type=int, metavar="P", help="port of the discovery service on 127.0.0.1 (a free one)"
    )
    parser.add_argument(
        "--agent-ttl", default="30s", metavar="TIME", help="how long fleet waits for a silent machine (30s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave a cluster that failed to come up as it is")
    parser.set_defaults(run=_up)


def _check(arguments: argparse.Namespace) -> int:
    _options(arguments).validate()
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        size=arguments.size,
        name=arguments.name,
        image=arguments.image,
        user_data=arguments.user_data,
        load_images=tuple(arguments.load_image),
        examples=not (arguments.bare or arguments.load_image or arguments.image),
        memory_mib=arguments.memory,
        accel=arguments.accel,
        arch=arguments.arch,
        ssh_port=arguments.ssh_port,
        discovery_port=arguments.discovery_port,
        agent_ttl=arguments.agent_ttl,
        keep=arguments.keep,
    )


def _up(arguments: argparse.Namespace) -> int:
    outcome = up(_options(arguments), Phases())
    cluster = outcome.cluster
    if not outcome.changed:
        off = [node["name"] for node in cluster.status()["nodes"] if node["state"] == "off"]
        print(f"cluster {cluster.name!r} is up already with {len(cluster.nodes)} nodes; nothing was changed")
        for name in off:
            print(f"  {name} is off: {_with_name('cluster start ' + name, cluster.name)}")
    else:
        print(f"cluster {cluster.name!r} is up: {len(cluster.nodes)} nodes, fleet lists them all")
    print(next_steps(cluster))
    return 0


def next_steps(cluster: Cluster) -> str:
    """What to type now."""
    # A shell that has not activated the virtual environment does not know our commands yet; the exports add them to PATH.
    env = _with_name(str(Path(sys.executable).parent / "cluster") + " env", cluster.name)
    return f"""
next:
  eval "$({env})"
  fleetctl list-machines
  fleetctl start units/examples/redis.service
  {_with_name("cluster ssh node-1", cluster.name)}
  {_with_name("cluster-down", cluster.name)}"""


def _with_name(text: str, name: str) -> str:
    return text if name == "default" else f"{text} --name {name}"


def _down(arguments: argparse.Namespace) -> int:
    layout = Layout.of(arguments.name)
    with clusters.changing(layout):
        if not layout.state.exists():
            print(f"there is no cluster {arguments.name!r}; nothing to do")
            return 0
        phases = Phases()
        with phases.phase(f"removing cluster {arguments.name!r}"):
            clusters.remove(layout)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    status = Cluster.open(arguments.name).status()
    if arguments.json:
        print(json.dumps(status))
        return 0
    how = status["accelerator"]
    print(
        f"cluster {status['name']!r} is {status['state']} ({how['name']}, {status['memory_mib']} MiB a node, files in {status['folder']})"
    )
    rows = [
        [n["name"], n["state"], n["address"], n["role"], f"127.0.0.1:{n['ssh_port']}", n["ended"] or "-"]
        for n in status["nodes"]
    ]
    print(table(rows, ["NODE", "STATE", "ADDRESS", "ROLE", "SSH", "LAST END"]))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    states = [cluster.status() for cluster in Cluster.list()]
    if arguments.json:
        print(json.dumps(states))
    else:
        print(
            table(
                [[s["name"], s["state"], str(len(s["nodes"])), s["folder"]] for s in states],
                ["CLUSTER", "STATE", "NODES", "FOLDER"],
            )
        )
    return 0


def _ssh(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    node = cluster.node(arguments.node)
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    program = shutil.which("ssh")
    if program is None:
        if not words:
            raise Failure("a shell on a node needs the ssh client", hint="sudo apt-get install openssh-client")
        result = node.run(" ".join(words))
        sys.stdout.write(result.out)
        sys.stderr.write(result.err)
        return result.rc
    options = [
        f'UserKnownHostsFile="{cluster.layout.known_hosts}"',
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
    ]
    argv = [program, "-F", "none", "-i", str(cluster.layout.key), "-p", str(node.ssh_port)]
    argv += [word for option in options for word in ("-o", option)]
    return _become([*argv, f"{USER}@127.0.0.1", *words])


def _become(argv: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _env(arguments: argparse.Namespace) -> int:
    print(Cluster.open(arguments.name).exports_text())
    return 0


def _console(arguments: argparse.Namespace) -> int:
    if arguments.lines < 1:
        raise UsageFailure(f"--lines {arguments.lines}: at least 1")
    print(Cluster.open(arguments.name).node(arguments.node).console_tail(arguments.lines))
    return 0


def _power(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    node = cluster.node(arguments.node)
    {"start": node.start, "stop": node.stop, "kill": node.kill, "pause": node.pause, "resume": node.resume}[
        arguments.verb
    ]()
    return 0


def _load_image(arguments: argparse.Namespace) -> int:
    require_archive(arguments.file)
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    with Phases().phase(f"loading {arguments.file.name} on {len(cluster.nodes)} nodes"):
        said = load(cluster, arguments.file)
    for node, text in zip(cluster.nodes, said, strict=True):
        print(f"{node.name}: {text}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    program = qemu.find()
    (cache_root() / "accelerator.json").unlink(missing_ok=True)
    chosen, trouble = None, None
    try:
        chosen = accelerator.remembered(program, cache_root() / "accelerator.json")
    except Failure as failure:
        trouble = failure  # told last, after what was found
    found = {
        "qemu": str(program.path),
        "version": program.version_text,
        "accelerator": chosen and chosen.name,
        "why": chosen and chosen.reason,
        "factor": chosen and chosen.factor,
        "free_memory_mib": preflight.free_memory_mib(),
        "free_disk_mib": preflight.free_disk_bytes(Layout.of("default").state) // preflight.MIB,
        "ssh_client": shutil.which("ssh"),
    }
    if arguments.json:
        print(json.dumps(found))
    else:
        print(table([[key, "-" if value is None else str(value)] for key, value in found.items()]))
    if trouble is not None:
        raise trouble
    return 0
