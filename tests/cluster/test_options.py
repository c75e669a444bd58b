"""What `cluster-up` makes of its options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster.cli import lifecycle
from cluster.lifecycle.up import Options
from terminal import Failure, UsageFailure


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
    lifecycle.up_arguments(parser)
    options = lifecycle._options(parser.parse_args(words))
    assert options.examples is examples
    assert options.load_images == ((Path("mine.tar"),) if "mine.tar" in words else ())


def test_hardware_runs_only_its_own_kind() -> None:
    Options(size=1, arch="arm64").validate()
    with pytest.raises(UsageFailure, match="KVM runs amd64 nodes only, not arm64"):
        Options(size=1, arch="arm64", accel="kvm").validate()


def test_an_image_of_another_architecture_is_refused(image: Path) -> None:
    Options(size=1, arch="arm64", image=image).validate()
    (image / "manifest.json").write_text('{"architecture": "amd64"}')
    Options(size=1, image=image).validate()
    with pytest.raises(Failure, match="this image is amd64, not arm64") as caught:
        Options(size=1, arch="arm64", image=image).validate()
    assert caught.value.hint == "--arch amd64"


def test_connections_are_for_libvirt_and_checked_at_once() -> None:
    assert Options(size=1).connections == ()
    assert Options(size=1, driver="libvirt").connections == ("qemu:///session",)
    two = ("qemu:///embed?root=/run/lab", "qemu+ssh://me@far/session")
    options = Options(size=1, driver="libvirt", connect=two)
    options.validate()
    assert options.connections == two
    with pytest.raises(UsageFailure, match="only libvirt connects") as caught:
        Options(size=1, connect=two).validate()
    assert caught.value.hint == "--driver libvirt"
    with pytest.raises(UsageFailure, match="no such libvirt connection"):
        Options(size=1, driver="libvirt", connect=("xen:///",)).validate()
