#!/usr/bin/env python3
"""How long a build takes, against mmdebstrap with mksquashfs and against mkosi, on the same packages, on the same disk,
in the same run.

All packages are downloaded before any clock starts: ours lie in the store, theirs in an archive on the local disk, in
the same versions (see bench/rivals.py). Each case is a process of its own, from start to end:

* **nothing built yet**: the packages are there, and nothing that was made of them.
* **one overlay file changed**, **one line of node code changed**: the same again; of mkosi, an incremental build.
* **nothing changed**: the same again.

mmdebstrap keeps nothing: every change costs it the whole. It needs root, or user namespaces; so does mkosi.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.report import machine, report, spread
from bench.rivals import install, prepare
from bench.timed import Taken, said, timed
from builder.core import data
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.fetch import fetch
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools

COLD, OVERLAY, CODE, UNCHANGED = (
    *("nothing built yet", "one overlay file changed", "one line of node code changed", "nothing changed"),
)
OVERLAY_FILE, CODE_FILE = "etc/docker/daemon.json", "fleet/scheduler/schedule.py"

Seconds = dict[str, dict[str, list[Taken]]]
"""By tool, then by case."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="times that each is measured (default: 3)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where downloads and tools are (default: the user's)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a folder for all results (default: TMPDIR)")
    arguments = parser.parse_args()
    facts = machine()
    store = Store(arguments.store)
    tools = Tools.ours(store)
    seconds: Seconds = {"osbuild": {}, "mkosi": {}, "mmdebstrap": {}}
    with tempfile.TemporaryDirectory(prefix="bench-build-", dir=arguments.work) as name:
        work = Path(name)
        work.chmod(0o755)
        install("mmdebstrap")
        lock = Lock.load(data.image() / "node.lock")
        fetch(lock.packages, store, mirror.find)
        checkout = copy_checkout(work / "checkout")
        mmdebstrap, mkosi = prepare(work, store, tools)
        for number in range(arguments.repeat):
            add(seconds["osbuild"], ours(work, checkout, store, number))
            add(seconds["mkosi"], {COLD: mkosi.cold()})
            if number == 0:
                mkosi.fill()
            add(seconds["mkosi"], {OVERLAY: mkosi.changed(OVERLAY_FILE, "\n")})
            add(seconds["mkosi"], {CODE: mkosi.changed(f"usr/lib/flotilla/{CODE_FILE}", "# changed\n")})
            add(seconds["mkosi"], {UNCHANGED: mkosi.unchanged()})
            add(seconds["mmdebstrap"], mmdebstrap.build())
        sizes = {
            "osbuild": sum(path.stat().st_blocks * 512 for path in (work / "out").iterdir() if path.is_file()),
            "mkosi": mkosi.bytes,
            "mmdebstrap": (work / "mmdebstrap/root.img").stat().st_size,
        }
        versions = {
            "mkosi": mkosi.version,
            "mmdebstrap": said("mmdebstrap", "--version"),
            "apt": said("apt-get", "--version").split("(")[0],
        }
    header = ["what", "osbuild s", "CPU s", "mkosi s", "CPU s", "times", "mmdebstrap + mksquashfs s", "CPU s", "times"]
    counts = {"osbuild": len(lock.packages), "mmdebstrap": len(mmdebstrap.lock.packages)}
    report(
        header,
        [row(case, seconds) for case in dict.fromkeys([*seconds["osbuild"], *seconds["mmdebstrap"]])],
        {**facts, "seconds": seconds, "packages": counts, "bytes": sizes, "versions": versions},
    )
    return 0


def row(case: str, seconds: Seconds) -> list[str]:
    """Of each tool the seconds on the wall, median (min-max), and of processors; of the others also how many times ours
    that is.
    """
    base = seconds["osbuild"].get(case, [])
    cells = [case, *cells_of(base)]
    for name in ("mkosi", "mmdebstrap"):
        taken = seconds[name].get(case, [])
        cells += cells_of(taken)
        cells.append(f"{median(taken) / median(base):.1f}" if base and taken else "-")
    return cells


def cells_of(taken: Sequence[Taken]) -> list[str]:
    """Wall and CPU of one case."""
    return [
        spread([each.wall for each in taken]),
        f"{statistics.median(each.cpu for each in taken):.1f}" if taken else "-",
    ]


def median(taken: Sequence[Taken]) -> float:
    """On the wall."""
    return statistics.median(each.wall for each in taken)


def add(into: dict[str, list[Taken]], found: dict[str, Taken]) -> None:
    """One more measurement of each case."""
    for case, taken in found.items():
        into.setdefault(case, []).append(taken)


def copy_checkout(target: Path) -> Path:
    """This checkout's packages, image and units: a place to change code and files in."""
    source = data.root()
    for name in ("builder", "cloudconfig", "discovery", "etcd", "fleet", "terminal", "unitfile"):
        shutil.copytree(data.packages(name), target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("image", "units"):
        shutil.copytree(source / name, target / name, symlinks=True)
    # As pip does with a wheel, and the packages of the others have done.
    subprocess.run([sys.executable, "-m", "compileall", "-q", target], check=True)
    return target


def ours(work: Path, checkout: Path, store: Store, number: int) -> dict[str, Taken]:
    """Our cases, with a store that has downloads and tools only."""
    fresh, output = work / "store", work / "out"
    for folder in (fresh, output):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir()
    for kind in ("downloads", "tools"):
        (fresh / kind).symlink_to(store.path(kind, ""))
    # The copy's code runs, and the copy's code is what the node gets.
    program = ["env", f"PYTHONPATH={checkout}", sys.executable, "-P", "-c"]
    program += ["from builder.cli import main; raise SystemExit(main())", "image"]
    command = [*program, "--store", fresh, "--output", output, "--quiet"]
    found = {COLD: timed(command)}
    with (checkout / "image/overlay" / OVERLAY_FILE).open("a") as file:
        file.write("\n")
    found[OVERLAY] = timed(command)
    with (checkout / CODE_FILE).open("a") as file:
        file.write(f"# changed {number}\n")
    found[CODE] = timed(command)
    found[UNCHANGED] = timed(command)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
