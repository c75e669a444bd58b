"""What `cluster-up` makes of its options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster import cli


@pytest.mark.parametrize(
    ("words", "examples"),
    [
        (["3"], True),
        (["3", "--bare"], False),
        (["3", "--load-image", "mine.tar"], False),
        (["3", "--image", "elsewhere"], False),
    ],
)
def test_the_example_can_be_started_at_once_unless_one_says_otherwise(words: list[str], examples: bool) -> None:
    parser = argparse.ArgumentParser()
    cli._up_arguments(parser)
    options = cli._options(parser.parse_args(words))
    assert options.examples is examples
    assert options.load_images == ((Path("mine.tar"),) if "mine.tar" in words else ())
