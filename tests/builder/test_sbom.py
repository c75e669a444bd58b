"""The list of packages for scanners: that the SPDX project's own tool takes it, and that it says what the lock says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.about import sbom
from builder.debian.deb import Package
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.tools import Tools
from tests.builder.smallworld import EPOCH, World

PLAIN = LockedPackage("tool", "1:1.0+b1", "amd64", "debian", "test", "pool/t/tool.deb", "a" * 64, 9, "tools", "1:1.0")
PLUS = replace(PLAIN, name="libtool++6", version="2~rc1", sha256="b" * 64)
LOCK = Lock("amd64", EPOCH, "c" * 64, (), (PLUS, PLAIN))


def paragraph(name: str, maintainer: str) -> Package:
    return Package(
        name, f"Package: {name}\nMaintainer: {maintainer}\nDescription: x\n Maintainer: no\n", {}, (), (), Path()
    )


PACKAGES = [
    paragraph("tool", "Ann Ö. Somebody (she) <ann@example.org>"),
    paragraph("libtool++6", "Tool Makers <tools@lists.example.org>"),
]


def validated(path: Path) -> dict[str, Any]:
    """The document at ``path``, once the SPDX project's own tool has nothing to say against it."""
    tool = Path(sys.executable).parent / "pyspdxtools"
    assert tool.exists(), "spdx-tools is of the 'dev' extra: run scripts/setup"
    done = subprocess.run([tool, "--infile", path, "--version", "SPDX-2.3"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    parsed: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return parsed


def test_the_official_tool_takes_it(tmp_path: Path) -> None:
    sbom.write(tmp_path, "one", "node", "qemu", LOCK, PACKAGES, has_ours=True)
    document = validated(tmp_path / sbom.NAME)
    found = {package["SPDXID"]: package for package in document["packages"]}
    assert set(found) == {
        "SPDXRef-Image",
        "SPDXRef-Flotilla",
        "SPDXRef-Package-tool",
        "SPDXRef-Package-libtool-2B--2B-6",
        "SPDXRef-Source-tools-5F-1-3A-1.0",
    }
    tool = found["SPDXRef-Package-tool"]
    assert (tool["name"], tool["versionInfo"]) == ("tool", "1:1.0+b1")
    assert tool["supplier"] == "Person: Ann Ö. Somebody she (ann@example.org)"
    assert tool["checksums"] == [{"algorithm": "SHA256", "checksumValue": "a" * 64}]
    assert tool["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/tool@1:1.0%2Bb1?arch=amd64"
    assert {tool["licenseConcluded"], tool["licenseDeclared"]} == {"NOASSERTION"}
    source = found["SPDXRef-Source-tools-5F-1-3A-1.0"]
    assert source["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/tools@1:1.0?arch=source"
    plus = found["SPDXRef-Package-libtool-2B--2B-6"]["externalRefs"][0]["referenceLocator"]
    assert plus == "pkg:deb/debian/libtool%2B%2B6@2~rc1?arch=amd64"


def test_every_package_is_contained_and_comes_from_a_source() -> None:
    document = sbom.compose("one", "node", "qemu", LOCK, PACKAGES, has_ours=True)
    relations = {
        (each["spdxElementId"], each["relationshipType"], each["relatedSpdxElement"])
        for each in document["relationships"]
    }
    assert relations == {
        ("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
        ("SPDXRef-Image", "CONTAINS", "SPDXRef-Flotilla"),
        ("SPDXRef-Image", "CONTAINS", "SPDXRef-Package-tool"),
        ("SPDXRef-Image", "CONTAINS", "SPDXRef-Package-libtool-2B--2B-6"),
        ("SPDXRef-Package-tool", "GENERATED_FROM", "SPDXRef-Source-tools-5F-1-3A-1.0"),
        ("SPDXRef-Package-libtool-2B--2B-6", "GENERATED_FROM", "SPDXRef-Source-tools-5F-1-3A-1.0"),
    }


def test_its_time_is_the_locks_and_its_name_the_builds() -> None:
    one, again, two = (
        sbom.compose(build, "node", "qemu", LOCK, PACKAGES, has_ours=True) for build in ("one", "one", "two")
    )
    assert one == again
    assert one["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert one["documentNamespace"] != two["documentNamespace"]


@pytest.mark.parametrize(
    ("maintainer", "expected"),
    [
        ("Ann <ann@debian.org>", "Person: Ann (ann@debian.org)"),
        ("Some Team <team+some@tracker.debian.org>", "Organization: Some Team (team+some@tracker.debian.org)"),
        ("Some <some@packages.debian.org>", "Organization: Some (some@packages.debian.org)"),
        ("Some, Inc. <some@example.org>", "Person: Some, Inc. (some@example.org)"),
        ("Debian QA Group <packages@example.org>", "Organization: Debian QA Group (packages@example.org)"),
        ("Ann", "Person: Ann"),
        ("", "NOASSERTION"),
        ("Ann \udcf6 <ann@debian.org>", "Person: Ann \N{REPLACEMENT CHARACTER} (ann@debian.org)"),
    ],
)
def test_who_supplied_it(maintainer: str, expected: str) -> None:
    assert sbom.supplier(maintainer) == expected


@pytest.mark.slow
def test_every_build_has_one(tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    for build, purpose in ((world.container, "CONTAINER"), (world.image, "OPERATING_SYSTEM")):
        assert build("--quiet") == 0
        document = validated(world.output / sbom.NAME)
        assert document["packages"][0]["primaryPackagePurpose"] == purpose
        assert "flotilla" not in [package["name"] for package in document["packages"]], "nothing of ours runs in it"
        listed = json.loads((world.output / "manifest.json").read_text())["artifacts"]
        assert sbom.NAME in [artifact["name"] for artifact in listed]
