#!/usr/bin/env python3
"""Draws docs/story.svg, the README's picture, from a real run: the commands of the story are run here and their words are taken as they are.

Needs a cluster of three that is up (``./scripts/cluster-up 3 --load-image build/container/redis/redis.tar``) and rich, of the ``dev`` extra.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

CHECKOUT = Path(__file__).parent.parent
PICTURE = CHECKOUT / "docs" / "story.svg"
LINK = CHECKOUT / "units" / "examples" / "polop@redis.service"
PATIENCE_S = 300.0


def main() -> int:
    """Run the story and draw it; returns the exit code."""
    from cluster.client.cluster import Cluster

    cluster = Cluster.open()
    environment = {**os.environ, **cluster.exports()}
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)

    def run(command: str) -> str:
        """Show a command and what it prints."""
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        done = subprocess.run(
            shlex.split(command), env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        if done.stdout:
            console.print(Text(done.stdout.rstrip()))
        return done.stdout

    def home() -> str:
        units = subprocess.run(
            ["fleetctl", "list-units", "--no-legend"], env=environment, capture_output=True, text=True, check=False
        ).stdout
        return units.split()[1].partition("/")[2] if "running" in units else ""

    try:
        run("fleetctl list-machines")
        run(f"ln -sf redis.service {LINK.relative_to(CHECKOUT)}")
        run(f"fleetctl start {LINK.relative_to(CHECKOUT)}")
        run("fleetctl list-units")
        address = home()
        node = next(node for node in cluster.nodes if node.address == address)
        run(f"cluster fault kill {node.name}")
        begin = time.monotonic()
        while home() in ("", address) and time.monotonic() < begin + PATIENCE_S:
            time.sleep(1)
        console.print(Text(f"# {time.monotonic() - begin:.0f} seconds later", "dim"))
        run("fleetctl list-machines")
        run("fleetctl list-units")
        other = next(node for node in cluster.nodes if node.address == home())
        run(f"cluster ssh {other.name} docker exec redis-polop redis-cli ping")
    finally:
        LINK.unlink(missing_ok=True)
    svg = console.export_svg(title="three machines, one story")
    # rich names fonts of a server far away; the reader's own do.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
