"""What a node gets before its first boot: the image's files, an empty state disk, and user-data on a seed volume."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from cluster.lifecycle import certificates
from cluster.lifecycle.preflight import IMAGE_FILES
from cluster.model.description import Description
from cluster.model.layout import Layout
from cluster.model.machine import PREFIX_BITS, cluster_address, cluster_mac, management_mac
from cluster.services import addresses
from terminal import Failure

PACKAGED = "the packaged template"
STATE_DISK_BYTES = 8 << 30
"""As the node sees it; on this computer only what was written takes room."""
ETCD_TIMES_MS = {"kvm": (100, 1000), "namespaces": (200, 2000), "tcg": (500, 5000)}
"""etcd's heartbeat interval and election timeout.

They are its own defaults, twice that where nodes share a kernel and its disk, or what an emulated CPU shared by several
nodes keeps up with.
"""

RECONCILE_S = {"kvm": 1, "namespaces": 1, "tcg": 2}
"""fleet's ``engine_reconcile_interval``: a fifth of its leader's lease, which an emulated node that stalls must not
lose.
"""


def install_image(source: Path, target: Path) -> None:
    """Make the cluster's own image, which a rebuild of ``source`` does not change.

    Its files are hard links if possible, else copies.
    """
    target.mkdir()
    for name in IMAGE_FILES:
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)


def make_key(layout: Layout) -> str:
    """Make the cluster's ssh key pair; returns the public half as one line of ``authorized_keys``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    line = f"{public.decode()} flotilla-{layout.state.name}"
    layout.key.touch(0o600, exist_ok=False)
    layout.key.write_bytes(text)
    layout.key.with_suffix(".pub").write_text(line + "\n")
    layout.known_hosts.touch(0o600)
    return line


def template_text(path: Path | None) -> str:
    """The user-data template: the file ``path``, else the packaged one.

    Raises :class:`Failure` if it cannot be read.
    """
    if path is None:
        from cloudconfig.host.render import default_template

        return default_template()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "a template is text in UTF-8, see docs/cluster.md"
        raise Failure("the user-data template cannot be read", where=str(path), hint=hint) from error


def variables(
    description: Description, layout: Layout, number: int, *, token: str, public_key: str, initial_cluster: str = ""
) -> dict[str, object]:
    """What a user-data template may use; documented in ``docs/cluster.md``. Issues the node's certificates."""
    heartbeat, election = ETCD_TIMES_MS[description.accelerator.name]
    nodes = [_node(description, each) for each in description.numbers]
    node = nodes[description.numbers.index(number)]
    is_secure = description.services_fingerprint != ""
    return {
        "node": node,
        "nodes": nodes,
        "cluster": {"name": description.name, "size": description.size, "members": description.members},
        "ssh_authorized_keys": [public_key],
        "trust": {"files": certificates.of_node(layout.trust, f"node-{number}", [cluster_address(number)])},
        "discovery": description.discovery_url(token),
        "etcd": {"heartbeat_ms": heartbeat, "election_ms": election, "initial_cluster": initial_cluster},
        "fleet": {
            "agent_ttl": description.agent_ttl,
            "reconcile_s": RECONCILE_S[description.accelerator.name],
            "metadata": {"name": node["name"], "role": node["role"]},
        },
        "services": {
            "address": addresses.SERVICES,
            "domain": addresses.DOMAIN,
            "metadata": addresses.METADATA,
            "registry": f"registry:{addresses.REGISTRY_PORT}",
            **({"certificate": certificates.of_services(layout.services_certificate)} if is_secure else {}),
        },
        "factor": description.accelerator.factor,
    }


def _node(description: Description, number: int) -> dict[str, object]:
    return {
        "name": f"node-{number}",
        "index": number,
        "role": description.role(number),
        "private_ipv4": cluster_address(number),
        "public_ipv4": cluster_address(number),
        "prefix_length": PREFIX_BITS,
        "cluster_mac": cluster_mac(number),
        "management_mac": management_mac(number),
    }


def provision(description: Description, layout: Layout, *, template: Path | None, token: str, public_key: str) -> None:
    """Make the cluster's authorities and the folders of all nodes.

    Raises :class:`Failure` for a template that does not render, or for invalid user-data.
    """
    text = template_text(template)
    certificates.make(layout.trust, layout.operator)
    where = str(template) if template is not None else PACKAGED
    for number in description.numbers:
        found = variables(description, layout, number, token=token, public_key=public_key)
        provision_node(description, layout, number, text, found, where)


def provision_node(
    description: Description,
    layout: Layout,
    number: int,
    template: str,
    variables: dict[str, object],
    where: str = PACKAGED,
) -> None:
    """Make the folder of one node from the text of a ``template``, which came from ``where``.

    Raises :class:`Failure` as above.
    """
    from cloudconfig.host import render, seed

    folder = layout.node(number)
    folder.mkdir()
    try:
        user_data = render.render(template, variables)
    except render.RenderError as error:
        hint = "docs/cluster.md lists what a template may use"
        raise Failure(f"this is no user-data for node-{number}", where=where, hint=hint) from error
    (folder / "user-data").write_text(user_data)
    (folder / "user-data").chmod(0o600)
    instance = f"{description.name}-{number}-{secrets.token_hex(4)}"
    seed.make(folder / "cidata.iso", user_data, seed.meta_data(instance, f"node-{number}"))
    with (folder / "state.img").open("wb") as disk:
        disk.truncate(STATE_DISK_BYTES)
