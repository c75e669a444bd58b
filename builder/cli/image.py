"""``osbuild image`` and ``osbuild container``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder.about import timings
from builder.cli.verb import Verb, add_common, add_mirror
from builder.core.architecture import NAMES
from builder.pipeline import build
from builder.pipeline.order import CONTAINER, NODE, BuildResult, Settings
from builder.targets import TARGETS
from terminal import Phases, UsageFailure

EXAMPLES: Final = {
    "image": """
  osbuild image --target qemu            build the node image into build/qemu/
  osbuild image --output /srv/image      the same, elsewhere
  osbuild image --arch arm64             for 64-bit ARM, into build/qemu-arm64/
  osbuild image --definition image/containers/redis.yaml
                                         a container: its target is 'container' by default""",
    "container": """
  osbuild container image/containers/redis.yaml
                                         the same as with image, by a shorter name""",
}


def add_verbs(verb: Verb) -> None:
    """Add the parsers of both."""
    image = verb("image", "build an image of a node, or a container, for a target", _targets())
    image.add_argument(
        "--target",
        choices=[*TARGETS],
        help=f"what to deliver (default: {NODE}, {CONTAINER} of a container)",
    )
    image.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    image.add_argument(
        "--release",
        action="store_true",
        help="compress for size instead of for time; refused while security updates wait",
    )
    image.add_argument(
        "--allow-outdated",
        action="store_true",
        help="release also if security updates wait or cannot be queried; the manifest records it",
    )
    image.set_defaults(run=_image)
    container = verb("container", "build a container for 'docker load'")
    container.add_argument("definition", type=Path, metavar="DEFINITION")
    container.set_defaults(run=_container)
    for each in (image, container):
        each.add_argument("--arch", choices=NAMES, help="build for this one (default: the definition's, amd64)")
        each.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts go (default: build/...)")
        each.add_argument("--force", action="store_true", help="build even if the output is up to date")
        each.add_argument("--timings", action="store_true", help="print where the time went (--json always does)")
        each.add_argument("--offline", action="store_true", help="build from the store alone; use no mirror")
        each.add_argument("--no-cache", action="store_true", help="do every step again; only downloads are kept")
        add_mirror(each)
        add_common(each)


def _targets() -> str:
    """All targets, one per line."""
    width = max(map(len, TARGETS))
    return (
        "\n".join(["targets:", *(f"  {name:{width}}  {target.summary}" for name, target in TARGETS.items())]) + "\n\n"
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        definition=arguments.definition,
        target=getattr(arguments, "target", None),
        output=arguments.output,
        store=arguments.store,
        mirror=arguments.mirror,
        snapshot=arguments.snapshot,
        architecture=arguments.arch,
        release=getattr(arguments, "release", False),
        outdated="allow" if getattr(arguments, "allow_outdated", False) else "refuse",
        force=arguments.force,
        offline=arguments.offline,
        cache="replace" if arguments.no_cache else "use",
        phases=Phases(quiet=arguments.quiet),
    )


def _image(arguments: argparse.Namespace) -> int:
    if arguments.allow_outdated and not arguments.release:
        raise UsageFailure("--allow-outdated is for a release", hint="add --release, or leave both out")
    return _report(build.build_image(_settings(arguments)), arguments)


def _container(arguments: argparse.Namespace) -> int:
    return _report(build.build_container(_settings(arguments)), arguments)


def _report(result: BuildResult, arguments: argparse.Namespace) -> int:
    if arguments.json:
        fields = {"directory": str(result.directory), "changed": result.changed, "seconds": result.seconds}
        print(json.dumps({**fields, "spans": [asdict(span) for span in result.spans], "total": result.total}))
    elif result.changed:
        print(f"built {result.directory}")
    else:
        print(f"{result.directory} is up to date")
    if arguments.timings and not arguments.json:
        print(timings.describe(result.total, result.spans))
    return 0
