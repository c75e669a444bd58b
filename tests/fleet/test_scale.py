"""bench/fleet_scale.py as a test of what is right, on a small cluster: what it measures is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.etcd
@pytest.mark.slow
def test_a_whole_control_plane_fills_and_loses_its_leader(etcd_binary: str) -> None:
    """Real etcd with fsync, three engines, forty agents; the leader is killed under 400 units."""
    argv = [sys.executable, "-m", "bench.fleet_scale", "--machines", "40", "--units", "400", "--runs", "1"]
    argv += ["--phases", "fill,adverse,failover"]
    environment = os.environ | {"FLOTILLA_ETCD": etcd_binary}
    done = subprocess.run([*argv, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    samples = json.loads(done.stdout)["samples"]
    assert {name: found for name, found in samples.items() if name.endswith("violations") and found != [0]} == {}
    assert [name for name, found in samples.items() if found == [None]] == [], "that never happened"
