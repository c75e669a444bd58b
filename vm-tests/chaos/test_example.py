"""The example of docs/testing.md, as it stands there, on real nodes; and what the plugin says of nodes that are well."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.net import Net
from cluster.client.unit import UnitFailed
from cluster.testing.watch import Watch

from ..conftest import TTL_S

pytestmark = [pytest.mark.cluster(size=3, agent_ttl=f"{TTL_S}s", examples=True), pytest.mark.needs()]

WEB = """\
[Unit]
Description=Says hello

[Service]
ExecStart=/usr/bin/python3 -m http.server 8000
"""
# Without Type=oneshot it is active for the moment between its start and its end.
BROKEN = "[Service]\nType=oneshot\nExecStart=/usr/bin/sh -c 'echo no such port >&2; exit 3'\n"


def test_web_survives_a_partition(cluster: Cluster, net: Net, tmp_path: Path) -> None:
    (tmp_path / "web.service").write_text(WEB)
    node, other, _ = cluster.nodes
    node.put(tmp_path / "web.service", "/tmp/web.service")
    node.check("sudo cp /tmp/web.service /run/systemd/system/ && sudo systemctl start web.service")
    node.unit("web.service").wait_active(within=20)
    with net.isolate(node):
        assert other.run(f"timeout 5 bash -c '</dev/tcp/{node.address}/8000'").rc != 0
        assert node.unit("web.service").state().active == "active"  # read without network
    other.poll(f"timeout 5 bash -c '</dev/tcp/{node.address}/8000'", within=20)


def test_a_unit_that_fails_is_reported_at_once_with_its_journal(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "broken.service").write_text(BROKEN)
    node = cluster.nodes[1]
    node.put(tmp_path / "broken.service", "/tmp/broken.service")
    node.check("sudo cp /tmp/broken.service /run/systemd/system/")
    with pytest.raises(UnitFailed, match="inactive, and no job is queued"):
        node.unit("broken.service").wait_active()
    node.check("sudo systemctl start --no-block broken.service")
    begin = time.monotonic()
    with pytest.raises(UnitFailed, match="no such port") as caught:
        node.unit("broken.service").wait_active(within=60)
    assert "it has failed: exit-code" in str(caught.value)
    assert time.monotonic() - begin < 60
    with pytest.raises(UnitFailed, match="cannot be loaded: not-found"):
        node.unit("nowhere.service").wait_active()


def test_files_and_journals_come_back(cluster: Cluster, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "there").write_bytes(content)
    node = cluster.nodes[2]
    node.put(tmp_path / "there", "/tmp/bytes")
    node.get("/tmp/bytes", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    node.check("echo hello from a test | systemd-cat -t flotilla-test")
    cluster.eventually(lambda: "hello from a test" in node.journal(since="-5min"), within=10)
    assert len(node.journal(unit="etcd.service", lines=3).splitlines()) <= 3


@pytest.mark.needs("kernel")
@pytest.mark.waive(r"made_up\.c", reason="the test itself writes it", until="2099-12-31")
def test_a_killed_node_is_no_trouble_but_a_kernel_warning_is(cluster: Cluster) -> None:
    watch = Watch.begun(cluster)
    node = cluster.nodes[0]
    with node.kill():
        pass
    cluster.eventually(lambda: node.run("true").rc == 0, within=60, what="the node is back")
    assert watch.look() == []
    node.ask("echo '<1>WARNING: CPU: 0 PID: 1 at kernel/made_up.c:1 by_a_test+0x1/0x2' > /dev/kmsg")
    found = cluster.eventually(watch.look, within=10)
    assert [(finding.kind, finding.node) for finding in found] == [("warning", "node-1")]
