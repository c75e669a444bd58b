"""cloud-init's everyday keys, read into the values that they become.

Each key has a function in the module of its subject; this is the list of them."""

from __future__ import annotations

from typing import NamedTuple

from cloudconfig.text import refused, yamltree
from cloudconfig.text.reader import Fields, Reader
from cloudconfig.text.schema import CloudConfig, Need, Password, WriteFile
from cloudconfig.text.yamltree import Node, Scalar

_KEYS = (
    "bootcmd ca_certs chpasswd disk_setup docker final_message flotilla fqdn fs_setup groups growpart locale "
    "mount_default_fields mounts ntp password phone_home "
    "power_state runcmd ssh_keys ssh_pwauth swap timezone"
)
KEYS = frozenset(_KEYS.split())


class UserRest(NamedTuple):
    """The contents of an entry of ``users`` besides the account itself."""

    files: tuple[WriteFile, ...]
    passwords: tuple[Password, ...]


def read(reader: Reader, top: Fields) -> CloudConfig:
    """All top-level keys of cloud-init's but those that coreos-cloudinit has, too."""
    if not KEYS & top.keys():
        return CloudConfig()
    # Texts of CoreOS's kind have none of these, and every module costs boot time where processors are emulated.
    from cloudconfig.text import logins, settings, stages, storage

    links, zones = settings.timezone(reader, top)
    locales, locale_needs = settings.locale(reader, top)
    times, time_units = settings.ntp(reader, top)
    mounted, mount_needs = storage.mounts(reader, top)
    formatted, format_needs = storage.fs_setup(reader, top)
    settings.growpart(reader, top)
    return CloudConfig(
        fqdn=reader.text(top, "fqdn"),
        groups=logins.groups(reader, top),
        passwords=logins.passwords(reader, top),
        write_files=(
            *logins.ssh_pwauth(reader, top),
            *settings.ssh_keys(reader, top),
            *settings.ca_certs(reader, top),
            *locales,
            *times,
            *settings.docker(reader, top),
        ),
        links=links,
        units=(*time_units, *storage.swap(reader, top), *mounted),
        bootcmd=stages.commands(reader, top, "bootcmd"),
        runcmd=stages.commands(reader, top, "runcmd"),
        disks=(*storage.disk_setup(reader, top), *formatted),
        phone_home=stages.phone_home(reader, top),
        final_message=reader.text(top, "final_message"),
        power_state=stages.power_state(reader, top),
        enrolment=settings.enrolment(reader, top),
        needs=(*zones, *locale_needs, *mount_needs, *format_needs),
    )


def needs_of(reader: Reader, root: Node) -> tuple[Need, ...]:
    """The needs that no image meets: one for each package, and one for each other such key of a cloud-config."""
    if not isinstance(root, yamltree.Mapping):
        return ()
    found: list[Need] = []
    for key, value in root.pairs:
        name = key.text.replace("-", "_")
        if name not in refused.INSTEAD or _says_no(value):
            continue
        reader.mark(name, key)
        if name == "packages" and isinstance(value, yamltree.Sequence):
            for index, item in enumerate(value.items):
                # A package, or [package, version].
                first = item.items[0] if isinstance(item, yamltree.Sequence) and item.items else item
                reader.mark(f"packages[{index}]", item)
                text = first.text if isinstance(first, Scalar) else ""
                found.append(Need("package", text.partition("=")[0].partition("/")[0].strip(), f"packages[{index}]"))
        else:
            found.append(Need("refused", name, name))
    return tuple(found)


def user(reader: Reader, fields: Fields, name: str, path: str) -> UserRest:
    """What ``sudo``, ``plain_text_passwd`` and the like of one user become."""
    plain = reader.text(fields, "plain_text_passwd")
    passwords = (Password(name, "", plain, False, f"{path}.plain_text_passwd"),) if plain and name else ()
    if "sudo" not in fields:
        return UserRest((), passwords)
    from cloudconfig.text import logins

    return UserRest(logins.sudo(reader, fields, name, path), passwords)


def _says_no(value: Node) -> bool:
    if isinstance(value, Scalar):
        return value.null or value.text.lower() in ("false", "no", "off")
    return not (value.items if isinstance(value, yamltree.Sequence) else value.pairs)
