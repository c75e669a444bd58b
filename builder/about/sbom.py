"""``sbom.spdx.json``: the contents of an image in SPDX 2.3, for scanners and for the question "do we ship this?".

The document describes one package, the image; it *contains* the Debian packages of the lock, and each of those is
*generated from* its source package. Everything comes from the lock and from the packages' own control paragraphs; no
clock or random number is involved. Licences are ``NOASSERTION``: we have not read them, and a guessed list is worse
than none.

Format: SPDX specification 2.3, clauses 6 (document), 7 (packages), 11 (relationships); package URLs: purl
specification, type ``deb``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from builder.core.store import identify
from builder.debian import deb
from builder.debian.deb import Package
from builder.debian.lockfile import Lock, LockedPackage
from terminal.version import VERSION

NAME: Final = "sbom.spdx.json"

_DOCUMENT: Final = "SPDXRef-DOCUMENT"
_IMAGE: Final = "SPDXRef-Image"
_OURS: Final = "SPDXRef-Flotilla"
_UNKNOWN: Final = "NOASSERTION"


def write(
    folder: Path, build: str, name: str, target: str, lock: Lock, packages: Sequence[Package], *, has_ours: bool
) -> None:
    """Write the document of :func:`compose` into ``folder`` under :data:`NAME`."""
    document = compose(build, name, target, lock, packages, has_ours=has_ours)
    (folder / NAME).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def compose(
    build: str, name: str, target: str, lock: Lock, packages: Sequence[Package], *, has_ours: bool
) -> dict[str, Any]:
    """The document's value for the image ``name``.

    ``build`` is the id of the build, from which the document's namespace is made; ``packages`` are the unpacked
    packages of ``lock``, in any order; with ``has_ours`` the image contains the node's part of Flotilla, too.
    """
    control = {package.name: deb.fields(package.control) for package in packages}
    sources = sorted({(package.source, package.source_version) for package in lock.packages})
    relations = [_relation(_DOCUMENT, "DESCRIBES", _IMAGE)]
    if has_ours:
        relations.append(_relation(_IMAGE, "CONTAINS", _OURS))
    for package in lock.packages:
        relations.append(_relation(_IMAGE, "CONTAINS", _package_id(package.name)))
        source = _source_id(package.source, package.source_version)
        relations.append(_relation(_package_id(package.name), "GENERATED_FROM", source))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",  # of this document, as the specification demands, not of what it lists
        "SPDXID": _DOCUMENT,
        "name": f"{name} ({target})",
        # A name, not an address: the specification requires a unique URI, which need not lead anywhere.
        "documentNamespace": f"https://flotilla.invalid/spdx/{name}/{identify('sbom', 1, build)}",
        "creationInfo": {
            "created": datetime.fromtimestamp(lock.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: osbuild-{VERSION}"],
        },
        "packages": [
            _record(_IMAGE, name, primaryPackagePurpose="CONTAINER" if "container" in target else "OPERATING_SYSTEM"),
            *([_record(_OURS, "flotilla", versionInfo=VERSION)] if has_ours else []),
            *(_binary(package, control.get(package.name, {})) for package in lock.packages),
            *(_source(source, version) for source, version in sources),
        ],
        "relationships": relations,
    }


def purl(name: str, version: str, architecture: str) -> str:
    """The package URL of a Debian package; ``architecture`` is ``source`` for source packages."""
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe=':')}?arch={architecture}"


def supplier(maintainer: str) -> str:
    """SPDX's form of the ``Maintainer`` of a control paragraph; ``NOASSERTION`` if there is none.

    SPDX requires whether that is a person. Debian does not record it, but teams have "team" in their names or use the
    addresses of lists and packages, which people do not.
    """
    text = maintainer.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name, _, address = text.rstrip("> ").partition("<")
    # SPDX puts the address in brackets, so a name cannot have any.
    name = re.sub(r"[()\s]+", " ", name).strip()
    if not name:
        return _UNKNOWN
    host = address.rpartition("@")[2]
    is_team = host.startswith(("lists.", "alioth-lists.", "tracker.", "packages.")) or name.lower().endswith(
        ("team", "group", "maintainers")
    )
    return f"{'Organization' if is_team else 'Person'}: {name}" + (f" ({address})" if address else "")


def _binary(package: LockedPackage, control: dict[str, str]) -> dict[str, Any]:
    return _record(
        _package_id(package.name),
        package.name,
        versionInfo=package.version,
        supplier=supplier(control.get("Maintainer", "")),
        packageFileName=package.path.rpartition("/")[2],
        checksums=[{"algorithm": "SHA256", "checksumValue": package.sha256}],
        externalRefs=_reference(purl(package.name, package.version, package.architecture)),
    )


def _source(name: str, version: str) -> dict[str, Any]:
    return _record(
        _source_id(name, version),
        name,
        versionInfo=version,
        primaryPackagePurpose="SOURCE",
        externalRefs=_reference(purl(name, version, "source")),
    )


def _record(spdx_id: str, name: str, **more: object) -> dict[str, Any]:
    return {
        "SPDXID": spdx_id,
        "name": name,
        **more,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _reference(locator: str) -> list[dict[str, str]]:
    return [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}]


def _relation(what: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": what, "relationshipType": kind, "relatedSpdxElement": other}


def _package_id(name: str) -> str:
    return f"SPDXRef-Package-{_escaped(name)}"


def _source_id(name: str, version: str) -> str:
    return f"SPDXRef-Source-{_escaped(f'{name}_{version}')}"


def _escaped(text: str) -> str:
    """``text`` as part of an SPDX id: a character that is not allowed becomes its number, ``-2B-`` for a plus sign."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"-{ord(found[0]):02X}-", text)
