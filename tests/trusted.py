"""Certificates of a test's own cluster, laid out as a node has them."""

from __future__ import annotations

from pathlib import Path

import trust
from trust import Certificates


def laid(folder: Path, certificates: Certificates) -> Path:
    """The folder, made, with the certificates in it."""
    folder.mkdir(parents=True)
    for name, text in certificates.files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(trust.mode(name))
    return folder


def node(directory: Path, name: str = "node-1", *addresses: str) -> Path:
    """The certificates of a node of the cluster with the trust folder ``directory/authorities``, made if missing."""
    authorities = directory / "authorities"
    if not authorities.exists():
        authorities.parent.mkdir(parents=True, exist_ok=True)
        trust.create(authorities)
    return laid(directory / name, trust.issue_node(authorities, name, addresses or ("10.77.0.11",)))
