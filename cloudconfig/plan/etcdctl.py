"""What etcdctl and its like read from their environment on a node with certificates, so that they need no flag.

It names files, and says nothing secret: who may read the key (root and the group ``fleet``) may use it. It names no
endpoint: etcdctl's own default is the node's, and it refuses a flag for what the environment says as well.
"""

from __future__ import annotations

FOLDER = "/etc/flotilla/trust"
CERTIFICATE = f"{FOLDER}/etcd-client.crt"
MANAGER = "/etc/systemd/system.conf.d/20-etcdctl.conf"
"""For units; a login has /etc/environment."""
ENVIRONMENT = (
    f"ETCDCTL_CACERT={FOLDER}/etcd-clients-ca.crt\nETCDCTL_CERT={CERTIFICATE}\nETCDCTL_KEY={FOLDER}/etcd-client.key\n"
)
"""Lines of that file."""


def manager() -> str:
    """The same for all units, as systemd-system.conf(5) has it."""
    return f"[Manager]\nDefaultEnvironment={' '.join(ENVIRONMENT.split())}\n"
