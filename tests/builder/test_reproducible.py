"""The same lock gives the same bytes, under everything that a machine, its user and its past can do about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.debian.tools import Tools
from builder.targets import TARGETS, ContainerTarget
from tests.builder.smallworld import ROOT, Running, World
from tests.builder.test_build import snapshot
from tests.builder.test_kill import PATIENCE

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Surroundings:
    """What a build runs in: variables of the environment, mask of new files, working folder, and the command that
    starts it.
    """

    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    cwd: str = "/"
    through: tuple[str, ...] = ()


def another_user() -> tuple[str, ...]:
    """The start of a command that runs as user 1234 without any rights; nothing where the machine forbids it (some
    containers do).
    """
    command = ("unshare", "--user", "--map-user=1234", "--map-group=1234")
    allowed = subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
    return command if allowed else ()


def hostile(folder: Path) -> Surroundings:
    """All that ``Surroundings()`` is not; no locale can be counted on to be there, so it is one without any letters
    beyond ASCII.
    """
    for name in ("tmp", "home"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Surroundings(
        {
            "TZ": "Asia/Kathmandu",
            "SOURCE_DATE_EPOCH": "1",
            "PYTHONHASHSEED": "7",
            "COLUMNS": "20",
            "LC_ALL": "C",
            "LANG": "tr_TR.UTF-8",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "USER": "somebody",
            "LOGNAME": "somebody",
            "MAKEFLAGS": "-j9",
            "POSIXLY_CORRECT": "1",
            "XZ_DEFAULTS": "-0",
            "ZSTD_CLEVEL": "1",
        },
        umask=0o077,
        cwd=str(folder),
        through=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *another_user()),
    )


def definition_of(world: World, target: str) -> Path:
    """The world's definition that this target is for."""
    return world.small if isinstance(TARGETS[target], ContainerTarget) else world.node


def build(world: World, target: str, around: Surroundings, *words: str) -> dict[str, str]:
    """Build the container of ``world``, or its node for another ``target``, as a process of its own; the hashes of all
    that came out.
    """
    running = world.start(
        *("image", "--definition", definition_of(world, target), "--target", target),
        *words,
        environment=around.environment,
        umask=around.umask,
        cwd=around.cwd,
        through=around.through,
    )
    assert running.wait(PATIENCE) == 0, running.said()
    return snapshot(world.output)


BUILDS = """
import json, os, shutil, sys
import builder.pipeline.build
from builder.cli import main

for task in json.loads(sys.argv[1]):
    # As the arguments of a program are decoded, whatever the locale.
    forgotten, output, kept, *words = [os.fsdecode(word.encode()) for word in task]
    if forgotten:
        shutil.rmtree(forgotten)
    if (pid := os.fork()) == 0:
        sys.argv[1:] = words
        sys.exit(main())
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(code)
    shutil.copytree(output, kept)
"""
"""Builds one after the other, each in a process of its own that has only loaded its code: that takes longer than to
build a small world.
"""


def builds(world: World, target: str, around: Surroundings, wanted: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """The same for several builds in a row, by name, each with these further words.

    One that is not to find the steps of earlier ones says "half a store".
    """
    tasks = [
        (
            str(world.store / "steps") if name == "half a store" else "",
            str(world.output),
            str(world.root / "kept" / name),
            *world.arguments("image", "--definition", definition_of(world, target), "--target", target, *words),
        )
        for name, words in wanted.items()
    ]
    argv = [*around.through, sys.executable, "-c", BUILDS, json.dumps(tasks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **around.environment}
    running = Running(argv, environment, around.umask, around.cwd)
    assert running.wait(PATIENCE) == 0, running.said()
    return {name: snapshot(world.root / "kept" / name) for name in wanted}


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_inputs_give_the_same_bytes(target: str, tmp_path: Path, closure: Tools) -> None:
    """On another day, by another user, elsewhere on the disk, with a store that is empty, full, or not believed.

    If this fails, ``osbuild verify`` in the same surroundings says which file differs.
    """
    here, elsewhere = World(tmp_path / "here", closure), World(tmp_path / "else where/ünter", closure)
    for path in elsewhere.root.rglob("*"):
        if not path.is_symlink() and elsewhere.store not in path.parents:
            os.utime(path, (1, 1))
            path.chmod(0o700 if path.is_dir() else 0o600)
    around = hostile(tmp_path / "hostile")

    expected = build(here, target, Surroundings())
    wanted = {
        "empty store": [],
        "full store": ["--force"],
        "half a store": ["--force", "--offline"],
        "store not believed": ["--no-cache"],
    }
    found = builds(elsewhere, target, around, wanted)
    assert found == dict.fromkeys(found, expected)
    assert list((tmp_path / "hostile/tmp").iterdir()) == list((tmp_path / "hostile/home").iterdir()) == []
