"""Keys of cloud-init that no text can have on an image without a package manager, each with what to do instead.

The host calls them errors; a node applies the rest of the text and warns, since a machine that can be reached can be
repaired.
"""

from __future__ import annotations

_IMAGE = (
    "not on this image, whose root is read-only: run it in a container, or build an image that has it (packages in "
    "image/node.yaml)"
)
_SOURCES = (
    "not on this image, which installs nothing: name archives where the image is built (suites in image/node.yaml)"
)
_UPDATE = "not on this image, which is updated as a whole: boot a newer build"
_MANAGED = "not on this image: a unit in coreos.units, or a container, does it"

# What to do instead of a key; {} in none of them.
INSTEAD = {
    "ansible": _MANAGED,
    "apt": _SOURCES,
    "apt_mirror": _SOURCES,
    "apt_proxy": _SOURCES,
    "apt_sources": _SOURCES,
    "chef": _MANAGED,
    "package_reboot_if_required": _UPDATE,
    "package_update": _UPDATE,
    "package_upgrade": _UPDATE,
    "packages": _IMAGE,
    "puppet": _MANAGED,
    "rh_subscription": _SOURCES,
    "salt_minion": _MANAGED,
    "snap": "not on this image: run it in a container",
    "ssh_import_id": "a node asks no stranger's server who may log in: paste the keys into ssh_authorized_keys",
    "yum_repos": _SOURCES,
    "zypper": _SOURCES,
}
# These request what is the case anyway; nothing is missing, so the host only warns.
HARMLESS = frozenset(("package_reboot_if_required", "package_update", "package_upgrade"))
