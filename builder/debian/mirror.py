"""The addresses of the archives: from the host's own apt sources, or from the user.

This project contains no mirror address. The locks hold paths relative to an archive's root; a :class:`Mirror` maps an
archive (``debian``, ``debian-security``) to the address of that root on this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from terminal import Failure

VARIABLE: Final = "OSBUILD_MIRROR"
SNAPSHOT_VARIABLE: Final = "OSBUILD_SNAPSHOT"
SCHEMES: Final = ("http", "https", "file")

_HINT: Final = (
    "give a mirror's root with --mirror URL or OSBUILD_MIRROR=URL (http, https or file; 'debian' and 'debian-security' are "
    "looked for below it, or write {archive} where the name goes)"
)


class MirrorFailure(Failure):
    """No usable address for an archive."""


@dataclass(frozen=True, slots=True)
class Source:
    """One line (or stanza) of apt's sources: an address and the suites that are taken from it."""

    uri: str
    suites: tuple[str, ...]
    file: str = ""


@dataclass(frozen=True)
class Mirror:
    """The address of each archive's root, without a trailing slash.

    ``origin`` is the source of the addresses, for messages. ``apt_options`` are the host's own apt settings for its
    sources: a proxy, and whether the dates of an archive that is no longer updated are checked. ``snapshot`` provides
    packages that this mirror no longer has.
    """

    roots: Mapping[str, str]
    origin: str = ""
    apt_options: Mapping[str, str] = field(default_factory=dict)
    snapshot: Mirror | None = None

    def root(self, archive: str) -> str:
        """The address of ``archive``'s root. Raises :class:`MirrorFailure` when it is not known."""
        try:
            return self.roots[archive]
        except KeyError:
            raise MirrorFailure(
                f"no address is known for the archive '{archive}'", where=self.origin or None, hint=_HINT
            ) from None

    def url(self, archive: str, path: str) -> str:
        """The address of the file ``path`` (relative to the archive's root)."""
        return f"{self.root(archive)}/{path}"


def find(
    override: str | None = None,
    snapshot: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    apt: Path = Path("/etc/apt"),
) -> Mirror:
    """The mirror to use, with its snapshot.

    The mirror is ``override`` (``--mirror``), else ``OSBUILD_MIRROR`` of ``environment`` (the process's own by
    default), else that of the host's apt sources in ``apt``. The snapshot is ``snapshot`` (``--snapshot``), else
    ``OSBUILD_SNAPSHOT``, if one is named.

    Raises :class:`MirrorFailure` for an invalid address, or if the host's sources name no Debian archive.
    """
    variables = os.environ if environment is None else environment
    first = _named(override, "--mirror", variables, VARIABLE)
    if first is None:
        first = replace(from_sources(read_sources(apt), str(apt)), apt_options=read_options(apt))
    return replace(first, snapshot=_named(snapshot, "--snapshot", variables, SNAPSHOT_VARIABLE))


def _named(address: str | None, option: str, variables: Mapping[str, str], variable: str) -> Mirror | None:
    if address:
        return from_root(address, option)
    return from_root(variables[variable], variable) if variables.get(variable) else None


def from_root(address: str, origin: str) -> Mirror:
    """The mirror whose archives live under ``address``, or at ``address`` with ``{archive}`` filled in."""
    text = address.strip().rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES or not (parts.netloc or (parts.scheme == "file" and parts.path)):
        raise MirrorFailure(f"'{address}' is not the address of a mirror", where=origin, hint=_HINT)
    if parts.username or parts.password:
        raise MirrorFailure(
            "a mirror's address must hold no password", where=origin, hint="see apt_auth.conf(5), or use a local proxy"
        )
    shape = text if "{archive}" in text else text + "/{archive}"
    return Mirror({name: shape.replace("{archive}", name) for name in ("debian", "debian-security")}, origin)


def from_sources(sources: Iterable[Source], origin: str) -> Mirror:
    """The mirror that the host itself uses. The first source of each archive wins.

    ``debian-security`` is the source that serves a suite ``*-security`` (or ``*/updates``); ``debian`` the one whose
    address ends in ``/debian``. When a host lists only ``debian``, security is expected beside it, as on every full
    mirror.
    """
    roots: dict[str, str] = {}
    for source in sources:
        uri = source.uri.rstrip("/")
        if urlsplit(uri).scheme not in SCHEMES:
            continue
        name = uri.rsplit("/", 1)[-1]
        if name == "debian-security" or (name != "debian" and any(_is_security(suite) for suite in source.suites)):
            roots.setdefault("debian-security", uri)
        elif name == "debian":
            roots.setdefault("debian", uri)
    if "debian" not in roots:
        raise MirrorFailure("no Debian archive among the host's apt sources", where=origin, hint=_HINT)
    roots.setdefault("debian-security", roots["debian"] + "-security")
    return Mirror(roots, origin)


def read_sources(apt: Path) -> list[Source]:
    """All enabled binary sources under the directory ``apt``, in apt's order; files that cannot be read are skipped."""
    parts = apt / "sources.list.d"
    names = sorted(parts.iterdir()) if parts.is_dir() else []
    found: list[Source] = []
    for path in [apt / "sources.list", *names]:
        if path.suffix not in (".list", ".sources"):
            continue
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
        found.extend(Source(source.uri, source.suites, str(path)) for source in parse(text))
    return found


# sources.list(5): "deb [ option1=value1 option2=value2 ] uri suite [component1] [component2] [...]"
_ONE_LINE = re.compile(r"deb\s+(?:\[[^\]]*\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)")


def parse_one_line(text: str) -> Iterator[Source]:
    """The ``deb`` lines of a ``*.list`` file; options in brackets are ignored."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match:
            yield Source(match["uri"], (match["suite"],))


def parse_deb822(text: str) -> Iterator[Source]:
    """The enabled ``Types: deb`` stanzas of a ``*.sources`` file."""
    for stanza in stanzas(text):
        enabled = stanza.get("enabled", "yes").lower() not in ("no", "false", "0", "off", "without", "disable")
        if enabled and "deb" in stanza.get("types", "").split():
            suites = tuple(stanza.get("suites", "").split())
            for uri in stanza.get("uris", "").split():
                yield Source(uri, suites)


OPTIONS: Final = (
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
)
_OPTION = re.compile(r'^\s*(?P<name>[A-Za-z:-]+)\s+"?(?P<value>[^";]*)"?\s*;', re.MULTILINE)


def read_options(apt: Path) -> dict[str, str]:
    """Those of :data:`OPTIONS` that the host's ``apt.conf`` files set, each written in one line with its full name."""
    parts = apt / "apt.conf.d"
    names = sorted(parts.iterdir()) if parts.is_dir() else []
    known = {name.lower(): name for name in OPTIONS}
    found: dict[str, str] = {}
    for path in [*names, apt / "apt.conf"]:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        for match in _OPTION.finditer(text):
            if match["name"].lower() in known:
                found[known[match["name"].lower()]] = match["value"]
    return found


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822(5) text: lower-case field names to values, continuation lines joined by newlines."""
    stanza: dict[str, list[str]] = {}
    value: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield {name: "\n".join(lines) for name, lines in stanza.items()}
            stanza, value = {}, []
        elif line[0] in " \t":
            value.append(line.strip())
        else:
            key, _, first = line.partition(":")
            value = [first.strip()]
            stanza[key.strip().lower()] = value


def _is_security(suite: str) -> bool:
    return suite.endswith(("-security", "/updates"))
