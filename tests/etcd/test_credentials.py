"""Which certificates a node has: all, none, or some."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcd import credentials
from terminal import Failure
from tests import trusted


def test_all_of_them(tmp_path: Path) -> None:
    folder = trusted.node(tmp_path)
    assert credentials.client(folder) == (
        f"{folder}/etcd-clients-ca.crt",
        f"{folder}/etcd-client.crt",
        f"{folder}/etcd-client.key",
        f"{folder}/etcd-clients.crl",
    )
    assert credentials.server(folder) is not None
    assert credentials.peer(folder) is not None


def test_none_of_them(tmp_path: Path) -> None:
    assert credentials.client(tmp_path / "missing") is None
    (tmp_path / "fleet-ca.crt").touch()
    assert credentials.client(tmp_path) is None, "fleet's are another thing"


@pytest.mark.parametrize("gone", ["etcd-clients-ca.crt", "etcd-client.crt", "etcd-client.key", "etcd-clients.crl"])
def test_some_of_them(tmp_path: Path, gone: str) -> None:
    folder = trusted.node(tmp_path)
    (folder / gone).unlink()
    with pytest.raises(Failure, match=gone) as refused:
        credentials.client(folder)
    assert refused.value.where == str(folder)
    assert refused.value.hint
