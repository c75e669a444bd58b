"""Making, changing and removing clusters."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from builder.core import data
from builder.core.architecture import HOST, NAMES
from cluster.cli.verbs import Verbs, name_argument, with_name
from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.lifecycle import scale
from cluster.lifecycle.restore import up_cached
from cluster.lifecycle.up import Options, require_archive, up
from cluster.model.layout import Layout
from cluster.model.machine import DATASOURCES
from terminal import Phases, settled

ADD_EXAMPLES = """\
examples:
  cluster add          one more node: a member of etcd if there are too few, else a proxy
  cluster add 2        two more
"""


def add(verbs: Verbs) -> None:
    """``down``, ``add``, ``remove``, ``start`` and ``stop``."""
    verbs.add("down", "remove every process and file of a cluster", down)
    sub = verbs.add("add", "have further nodes join a running cluster", _add, examples=ADD_EXAMPLES)
    sub.add_argument("count", metavar="N", type=int, nargs="?", default=1, help="how many (1)")
    sub.add_argument(
        "--load-image",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a docker-archive for it (may be repeated)",
    )
    sub = verbs.add("start", "switch a node on, with the disk it has, or boot a stopped cluster", _start)
    sub.add_argument("node", metavar="NODE", nargs="?", help="node-2, or just 2; without it, all that are off")
    sub = verbs.add("stop", "press a node's power button and wait, or stop the whole cluster", _stop)
    sub.add_argument("node", metavar="NODE", nargs="?", help="without it, all; 'cluster start' boots them again")
    sub = verbs.add("remove", "take a node out of a running cluster for good", _remove)
    sub.add_argument("node", metavar="NODE", help="node-2, or just 2")


def _add(arguments: argparse.Namespace) -> int:
    for archive in arguments.load_image:
        require_archive(archive)
    for node in scale.add(arguments.name, arguments.count, Phases(), arguments.load_image):
        print(f"{node.name} ({node.address}) has joined; {with_name('cluster ssh ' + node.name, arguments.name)}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    node = scale.remove(arguments.name, arguments.node, Phases())
    print(f"{node.name} is gone; what fleet ran on it goes elsewhere when its time to live is over")
    return 0


def _start(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    if arguments.node is not None:
        cluster.running_node(arguments.node).start()
    elif not cluster.is_running:
        description = cluster.description
        up(Options(size=description.size, name=cluster.name, arch=description.architecture), Phases())
    else:
        off = [entry["name"] for entry in cluster.status()["nodes"] if entry["state"] == "off"]
        for node in cluster.nodes:
            if node.name in off:
                node.start()
        print(f"{len(off)} of {len(cluster.nodes)} nodes were off" if off else "all nodes are on")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    if arguments.node is not None:
        cluster.running_node(arguments.node).stop()
    elif not cluster.is_running:
        print(f"cluster {cluster.name!r} is stopped already")
    else:
        with clusters.changing(cluster.layout), Phases().phase(f"stopping cluster {cluster.name!r}"):
            cluster.stop()
        print(f"its disks are kept: {with_name('cluster start', cluster.name)}")
    return 0


def up_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``cluster up`` and ``cluster-up`` take."""
    parser.add_argument("size", metavar="N", type=int, help="how many nodes")
    name_argument(parser)
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
    parser.add_argument(
        "--driver",
        choices=("qemu", "libvirt", "namespaces"),
        default="qemu",
        help="what runs the nodes (qemu); namespaces need root and no virtual machines: three nodes in seconds",
    )
    parser.add_argument(
        "--connect",
        metavar="URI",
        action="append",
        default=[],
        help="libvirt's, on this computer or another (may be repeated: nodes are dealt in turn; qemu:///session)",
    )
    parser.add_argument("--ssh-port", type=int, metavar="BASE", help="ssh ports on 127.0.0.1 from here (free ones)")
    parser.add_argument(
        "--discovery-port", type=int, metavar="P", help="port of the discovery service on 127.0.0.1 (a free one)"
    )
    parser.add_argument(
        "--agent-ttl", default="30s", metavar="TIME", help="how long fleet waits for a silent machine (30s)"
    )
    parser.add_argument(
        "--cached",
        action="store_true",
        help="go on from a snapshot of such a cluster if there is one, else keep one (some 1.5 GB) for the next time",
    )
    parser.add_argument(
        "--datasource", choices=DATASOURCES, default="nocloud", help="where nodes take their user-data from (nocloud)"
    )
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="a folder that nodes may read at http://10.77.0.1:8080/"
    )
    parser.add_argument("--keep", action="store_true", help="leave a cluster that failed to come up as it is")
    parser.set_defaults(run=_up)


def check(arguments: argparse.Namespace) -> int:
    """Are the arguments of ``up`` right?"""
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
        datasource=arguments.datasource,
        files=arguments.files,
        keep=arguments.keep,
        driver=arguments.driver,
        connect=tuple(arguments.connect),
    )


def _up(arguments: argparse.Namespace) -> int:
    outcome = (up_cached if arguments.cached else up)(_options(arguments), Phases())
    settled()  # an exit code other than 0 means that there is no cluster
    cluster = outcome.cluster
    if not outcome.changed:
        off = [node["name"] for node in cluster.status()["nodes"] if node["state"] == "off"]
        print(f"cluster {cluster.name!r} is up already with {len(cluster.nodes)} nodes; nothing was changed")
        for name in off:
            print(f"  {name} is off: {with_name('cluster start ' + name, cluster.name)}")
    else:
        print(f"cluster {cluster.name!r} is up: {len(cluster.nodes)} nodes, fleet lists them all")
    print(next_steps(cluster.name))
    return 0


def next_steps(name: str) -> str:
    """What to type now, for the cluster called ``name``."""
    # A shell without the activated virtual environment does not find our commands yet; the exports add them to PATH.
    env = with_name(str(Path(sys.executable).parent / "cluster") + " env", name)
    return f"""
next:
  eval "$({env})"
  fleetctl list-machines
  fleetctl start {_shown(data.units() / "examples" / "redis.service")}
  {with_name("cluster ssh node-1", name)}
  {with_name("cluster-down", name)}"""


def _shown(path: Path) -> str:
    """``path`` as it is typed here: relative if it lies below this folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def down(arguments: argparse.Namespace) -> int:
    """``cluster down``."""
    layout = Layout.of(arguments.name)
    with clusters.changing(layout):
        if not layout.state.exists():
            print(f"there is no cluster {arguments.name!r}; nothing to do")
            return 0
        phases = Phases()
        with phases.phase(f"removing cluster {arguments.name!r}"):
            clusters.remove(layout)
    from cluster.cli import context  # lazily: a fresh machine looks at arguments first

    context.forget(layout)
    return 0
