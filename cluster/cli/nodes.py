"""Reaching single nodes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from cluster.cli.verbs import Verbs
from cluster.client.cluster import Cluster
from cluster.client.ssh import USER
from cluster.lifecycle.up import load, require_archive
from terminal import Failure, Phases

PUSH_EXAMPLES = """\
examples:
  docker save redis:7 -o redis.tar && cluster push redis.tar
  cluster push build/container/redis/redis.tar --as redis:mine
  cluster ssh node-1 docker run -d registry:5000/redis:mine
"""
SSH_CONFIG_EXAMPLES = """\
example:
  cluster ssh-config > nodes.conf
  ssh -F nodes.conf node-2             also scp, sftp, rsync -e "ssh -F nodes.conf"
  ssh -F nodes.conf node-2.default     the same node, distinguished from those of other clusters
"""
ENV_EXAMPLES = """\
examples:
  eval "$(cluster env)"                this shell's fleetctl talks to the cluster
  cluster env --context                every shell's does, until 'fleetctl context use OTHER' or 'cluster down'
"""


def add(verbs: Verbs) -> None:
    """``ssh``, ``ssh-config``, ``env``, ``load-image`` and ``push``."""
    sub = verbs.add("ssh", "a shell, or one command, on a node", _ssh)
    sub.add_argument("node", metavar="NODE", help="node-2, or just 2")
    sub.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="run this instead of a shell")
    verbs.add(
        "ssh-config", "print an ssh configuration that knows the nodes", _ssh_config, examples=SSH_CONFIG_EXAMPLES
    )
    text = "print shell exports with which fleetctl talks to a cluster"
    sub = verbs.add("env", text, _env, examples=ENV_EXAMPLES)
    sub.add_argument("--context", action="store_true", help="instead, keep them as a context of fleetctl, and use it")
    sub = verbs.add("load-image", "give a docker-archive to every node's docker", _load_image)
    sub.add_argument("file", metavar="FILE", type=Path)
    sub = verbs.add("push", "put container images into the cluster's registry", _push, examples=PUSH_EXAMPLES)
    sub.add_argument("file", metavar="IMAGE", type=Path, help="a docker-archive, or an OCI layout (a tar or a folder)")
    sub.add_argument("--as", dest="image", metavar="NAME", help="instead of the image's own name: redis:7")


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


def _ssh_config(arguments: argparse.Namespace) -> int:
    print(ssh_config(Cluster.open(arguments.name)))
    return 0


def ssh_config(cluster: Cluster) -> str:
    """OpenSSH's configuration (ssh_config(5)) for the cluster's nodes.

    A percent sign in a path is written twice there.
    """
    hosts = []
    for node in cluster.nodes:
        settings = {
            "HostName": "127.0.0.1",
            "Port": str(node.ssh_port),
            "User": USER,
            "IdentityFile": _quoted(cluster.layout.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": _quoted(cluster.layout.known_hosts),
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "LogLevel": "ERROR",
        }
        lines = [
            f"Host {node.name} {node.name}.{cluster.name}",
            *(f"    {key} {value}" for key, value in settings.items()),
        ]
        hosts.append("\n".join(lines))
    return "\n\n".join(hosts)


def _quoted(path: Path) -> str:
    return f'"{path}"'.replace("%", "%%")


def _become(argv: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _env(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    if arguments.context:
        from cluster.cli import context  # lazily: fleetctl's modules are for this alone

        context.keep(cluster)
        print(f"fleetctl uses the context {cluster.name}; 'fleetctl context use' without a name ends that")
    else:
        print(cluster.exports_text())
    return 0


def _push(arguments: argparse.Namespace) -> int:
    if not arguments.file.exists():
        raise Failure("there is no such file or folder", where=str(arguments.file))
    cluster = Cluster.open(arguments.name)
    phases = Phases()
    with phases.phase(f"pushing {arguments.file.name}"):
        names = cluster.push(arguments.file, arguments.image, phases.detail)
    for name in names:
        print(name)
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
