"""Settings of cloud-init that become files and links: timezone, locale, ntp, ca_certs, ssh_keys.

And docker's registries, and the issuer of the node's certificates.

Each function reads one key and returns what is to be written; what depends on the image (is there such a time zone?)
comes back as a need.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from cloudconfig.text import addresses, yamltree
from cloudconfig.text.reader import Fields, Reader
from cloudconfig.text.schema import Enrolment, Need, Symlink, Unit, WriteFile
from cloudconfig.text.yamltree import Scalar
from terminal import Failure

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CERTIFICATES_MAX = 256
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")
_LOCALE = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,255}")
_REGISTRY = re.compile(r"(?:https://)?[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
_MIRROR = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_UTC = ("UTC", "Etc/UTC", "Universal", "Etc/Universal", "Zulu", "Etc/Zulu", "UCT", "Etc/UCT", "GMT", "Etc/GMT")
_ENROLMENT = ("issuer", "fingerprint", "secret", "addresses")
_ADDRESSES_MAX = 100
_JOINING = re.compile(r"[0-9a-f]{8}\.[0-9a-f]{32}\Z")
_KEY_TYPES = ("rsa", "ecdsa", "ed25519")


def _file(path: str, text: str, at: str, mode: int = 0o644, merge: str = "", owner: str = "root:root") -> WriteFile:
    return WriteFile(path, text.encode(), mode, owner, at, merge=merge)


def timezone(reader: Reader, top: Fields) -> tuple[tuple[Symlink, ...], tuple[Need, ...]]:
    """The link /etc/localtime; UTC needs no file."""
    zone = reader.text(top, "timezone")
    if not zone:
        return (), ()
    path, node = top["timezone"]
    if not _ZONE.fullmatch(zone):
        reader.error(node, path, "not the name of a time zone", "for example: Etc/UTC")
        return (), ()
    # A link to nothing is UTC (localtime(5)), which is what nodes without the data of zones have.
    needs = () if zone in _UTC else (Need("zone", zone, path),)
    return (Symlink("/etc/localtime", f"/usr/share/zoneinfo/{zone}", path),), needs


def locale(reader: Reader, top: Fields) -> tuple[tuple[WriteFile, ...], tuple[Need, ...]]:
    """/etc/locale.conf, which systemd gives to all, and Debian's /etc/default/locale leads to."""
    name = reader.text(top, "locale")
    if not name or name.lower() in ("false", "no", "off"):
        return (), ()
    path, node = top["locale"]
    if not _LOCALE.fullmatch(name):
        reader.error(node, path, "not the name of a locale", "for example: C.UTF-8")
        return (), ()
    return (_file("/etc/locale.conf", f"LANG={name}\n", path),), (Need("locale", name, path),)


def ntp(reader: Reader, top: Fields) -> tuple[tuple[WriteFile, ...], tuple[Unit, ...]]:
    """Servers for systemd-timesyncd; ``enabled: false`` masks it."""
    section = reader.section(top, "ntp", ("enabled", "servers", "pools", "ntp_client", "peers", "allow"), ("config",))
    if not section:
        return (), ()
    client = reader.text(section, "ntp_client")
    if client not in ("", "auto", "systemd-timesyncd"):
        path, node = section["ntp_client"]
        reader.error(
            node, path, "this image has systemd-timesyncd only", "leave it away; another one runs in a container"
        )
    for key in ("peers", "allow"):
        if key in section and reader.words(section, key):
            reader.error(
                section[key][1], section[key][0], "systemd-timesyncd asks servers, it is none", "leave it away"
            )
    if reader.bool(section, "enabled") is False:
        return (), (Unit("systemd-timesyncd.service", None, False, False, True, "", (), "ntp.enabled"),)
    servers: list[str] = []
    for key in ("servers", "pools"):
        for index, server in enumerate(reader.words(section, key)):
            if not _HOST.fullmatch(server):
                reader.error(section[key][1], f"{section[key][0]}[{index}]", "not a name or address")
            servers.append(server)
    if not servers:
        return (), ()
    return (
        _file("/etc/systemd/timesyncd.conf.d/50-cloudconfig.conf", f"[Time]\nNTP={' '.join(servers)}\n", "ntp"),
    ), ()


def ca_certs(reader: Reader, top: Fields) -> tuple[WriteFile, ...]:
    """Trusted certificates after those of the image, or instead of them.

    They are in the bundle that OpenSSL, Go, curl and Python read."""
    section = reader.section(top, "ca_certs", ("trusted", "remove_defaults"))
    found: list[str] = []
    for index, text in enumerate(reader.words(section, "trusted")):
        pieces = _PEM.findall(text)
        if not pieces or _PEM.sub("", text).strip():
            # Comments around are common in bundles, but half a certificate looks the same.
            reader.error(
                section["trusted"][1],
                f"ca_certs.trusted[{index}]",
                "not certificates in PEM",
                "-----BEGIN CERTIFICATE-----, base64, -----END CERTIFICATE-----",
            )
        elif "PRIVATE KEY" in text:
            reader.error(section["trusted"][1], f"ca_certs.trusted[{index}]", "this is a private key")
        found += pieces
    if len(found) > CERTIFICATES_MAX:
        reader.error(section["trusted"][1], "ca_certs.trusted", f"more than {CERTIFICATES_MAX} certificates")
    alone = reader.bool(section, "remove_defaults") or False
    if not found and not alone:
        return ()
    text = "".join(piece + "\n" for piece in found)
    return (WriteFile(BUNDLE, text.encode(), 0o644, "root:root", "ca_certs", append=not alone),)


def ssh_keys(reader: Reader, top: Fields) -> tuple[WriteFile, ...]:
    """The host's own SSH keys and certificates. sshd is configured to use those that the image does not have."""
    names = [f"{type_}_{part}" for type_ in _KEY_TYPES for part in ("private", "public", "certificate")]
    section = reader.section(
        top, "ssh_keys", names, tuple(f"dsa_{part}" for part in ("private", "public", "certificate"))
    )
    files: list[WriteFile] = []
    options: list[str] = []
    for type_ in _KEY_TYPES:
        base = f"/etc/ssh/ssh_host_{type_}_key"
        private, public, certificate = (
            reader.text(section, f"{type_}_{part}").strip() for part in ("private", "public", "certificate")
        )
        if not private and (public or certificate):
            reader.error(
                section[f"{type_}_{'public' if public else 'certificate'}"][1],
                f"ssh_keys.{type_}_private",
                "the private key is missing",
            )
            continue
        if not private:
            continue
        at = f"ssh_keys.{type_}_private"
        if not private.startswith("-----BEGIN ") or not private.endswith(" PRIVATE KEY-----"):
            reader.error(
                section[f"{type_}_private"][1],
                at,
                "not a private key in PEM",
                "the text of the file that ssh-keygen wrote",
            )
        files.append(_file(base, private + "\n", at, 0o600))
        options.append(f"HostKey {base}")
        if public:
            files.append(_file(f"{base}.pub", public + "\n", f"ssh_keys.{type_}_public"))
        if certificate:
            files.append(_file(f"{base}-cert.pub", certificate + "\n", f"ssh_keys.{type_}_certificate"))
            options.append(f"HostCertificate {base}-cert.pub")
    if options:
        files.append(_file("/etc/ssh/sshd_config.d/05-cloudconfig-keys.conf", "\n".join(options) + "\n", "ssh_keys"))
    return tuple(files)


def docker(reader: Reader, top: Fields) -> tuple[WriteFile, ...]:
    """docker's registries: mirrors and insecure ones go into daemon.json, beside what is there.

    Credentials are for root, which runs units, and core."""
    import base64
    import json

    section = reader.section(top, "docker", ("registry_mirrors", "insecure_registries", "credentials"))
    files: list[WriteFile] = []
    daemon: dict[str, list[str]] = {}
    for key, shape, example in (
        ("registry_mirrors", _MIRROR, "https://mirror.example.org"),
        ("insecure_registries", _REGISTRY, "registry.example.org:5000"),
    ):
        values = reader.words(section, key)
        for index, value in enumerate(values):
            if not shape.fullmatch(value):
                reader.error(section[key][1], f"docker.{key}[{index}]", "not a registry", f"for example: {example}")
        if values:
            daemon[key.replace("_", "-")] = list(values)
    if daemon:
        files.append(_file("/etc/docker/daemon.json", json.dumps(daemon), "docker", merge="json"))
    auths: dict[str, dict[str, str]] = {}
    for path, node in reader.items(section, "credentials"):
        fields = reader.struct(node, path, ("registry", "username", "password"))
        keys = ("registry", "username", "password")
        registry, username, password = (reader.required(fields, key, path, node) for key in keys)
        if registry and not _REGISTRY.fullmatch(registry):
            reader.error(
                fields["registry"][1], f"{path}.registry", "not a registry", "for example: registry.example.org:5000"
            )
        if ":" in username:
            reader.error(fields["username"][1], f"{path}.username", "has a colon in it")
        if registry in auths:
            reader.error(node, path, "the registry stands here twice")
        auths[registry] = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
    if auths:
        text = json.dumps({"auths": auths})
        files.append(_file("/root/.docker/config.json", text, "docker.credentials", 0o600, "json"))
        files.append(_file("/home/core/.docker/config.json", text, "docker.credentials", 0o600, "json", "core"))
    return tuple(files)


def growpart(reader: Reader, top: Fields) -> None:
    """The state partition always grows in the initrd; a value of no has no effect, and is reported."""
    section = reader.section(top, "growpart", ("mode", "devices", "ignore_growroot_disabled"))
    if (
        "mode" in section
        and isinstance(section["mode"][1], Scalar)
        and reader.text(section, "mode").lower() in ("off", "false", "no")
    ):
        reader.warn(section["mode"][1], "growpart.mode", "the state partition takes all of its disk in any case")
    devices = section.get("devices", ("", None))[1]
    if isinstance(devices, yamltree.Sequence) and any(
        isinstance(item, Scalar) and item.text != "/" for item in devices.items
    ):
        reader.warn(devices, "growpart.devices", "only the state partition grows")


def enrolment(reader: Reader, top: Fields) -> tuple[Enrolment, ...]:
    """Ours: flotilla.trust, where the node gets its certificates, and with which join secret (docs/trust.md).

    What is wrong is named without its value: it may be the secret."""
    if "flotilla" not in top:
        return ()
    from enrolment.target import checked

    section = reader.section(top, "flotilla", ("trust",))
    if "trust" not in section:
        return ()
    path, node = section["trust"]
    fields = reader.struct(node, path, _ENROLMENT)
    issuer, fingerprint, secret = (reader.required(fields, key, path, node) for key in _ENROLMENT[:3])
    if not (issuer and fingerprint and secret):
        return ()
    for key, url, digits in (("issuer", issuer, "0" * 64), ("fingerprint", "https://issuer", fingerprint)):
        try:
            checked(url, digits)
        except Failure as failure:
            reader.error(fields[key][1], fields[key][0], failure.message, failure.hint or "")
    if not _JOINING.match(secret):
        reader.error(fields["secret"][1], fields["secret"][0], "not a join secret", "what 'trust secret new' prints")
    own = reader.words(fields, "addresses")
    if len(own) > _ADDRESSES_MAX:
        reader.error(fields["addresses"][1], fields["addresses"][0], f"more than {_ADDRESSES_MAX} addresses")
    for index, text in enumerate(own[:_ADDRESSES_MAX]):
        if not _is_address(text):
            message, hint = "not an IP address of this node", "for example: $private_ipv4"
            reader.error(fields["addresses"][1], f"{fields['addresses'][0]}[{index}]", message, hint)
    return (Enrolment(issuer, fingerprint, secret, own),)


def _is_address(text: str) -> bool:
    if addresses.used(text):
        return True  # on the host; on the node it is an address by now
    try:
        return not ip_address(text).is_unspecified
    except ValueError:
        return False
