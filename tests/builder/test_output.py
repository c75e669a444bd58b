"""The folder of a build: one holder at a time, and whoever waits gets a folder that is there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.pipeline.output import held


def test_a_build_that_waits_outlives_one_that_delivers_nothing_and_removes_the_folder(tmp_path: Path) -> None:
    """All of these make the folder, hold it and may remove it; each of 400 must be able to write."""
    folder = tmp_path / "out"

    def build(number: int) -> None:
        with held(folder) as work:
            (work / str(number)).touch()
            assert [path.name for path in work.iterdir()] == [str(number)]

    with ThreadPoolExecutor(4) as builds:
        for done in [builds.submit(build, number) for number in range(400)]:
            done.result()
