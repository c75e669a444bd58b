"""Real apt with private state: downloads and verifies indexes, and answers what an installation would need.

apt runs with its own configuration, sources, lists, package status and cache under one directory; it does not read or
change the host's. apt itself checks signatures against one keyring, and no option here can switch that off.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from builder.debian.mirror import Mirror, stanzas
from terminal import Failure


class AptFailure(Failure):
    """apt could not fetch, verify or resolve."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite to take packages from.

    A ``pinned`` suite provides only packages that are requested from it by name, never a dependency.
    """

    name: str
    archive: str = "debian"
    components: tuple[str, ...] = ("main",)
    pinned: bool = False

    @property
    def is_security(self) -> bool:
        """Does it provide security updates?"""
        return self.name.endswith("-security") or self.archive.endswith("-security")


@dataclass(frozen=True)
class Programs:
    """How to start apt: command of ``apt-get``, directory of its methods, the archive's keyring, further settings."""

    apt_get: tuple[str, ...]
    methods: Path
    keyring: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def host_programs(keyrings: Path = Path("/usr/share/keyrings")) -> Programs:
    """The host's own apt and keyring: only for the closure's own lock, when the closure is not available.

    This is the case before the first lock, or when the mirror has dropped a package of it. Raises :class:`AptFailure`
    on a host without them.
    """
    names = [keyrings / f"debian-archive-keyring{suffix}" for suffix in (".pgp", ".gpg")]
    keyring = next((path for path in names if path.exists()), None)
    command = shutil.which("apt-get")
    if keyring is None or command is None:
        raise AptFailure(
            "this host has no apt with the Debian archive's keyring",
            where=str(keyrings),
            hint="do this on a Debian machine, or install the packages apt and debian-archive-keyring",
        )
    return Programs((command,), Path("/usr/lib/apt/methods"), keyring)


@dataclass(frozen=True)
class Index:
    """One verified ``Packages`` file: its suite, its path in the archive, its text and its Release file's date."""

    suite: Suite
    component: str
    path: str
    date: int
    text: str
    sha256: str

    def names(self) -> Iterator[tuple[str, str]]:
        """(package name, stanza) of all packages, in the file's order."""
        for stanza in self.text.split("\n\n"):
            if stanza.startswith("Package: "):
                yield stanza[9 : stanza.index("\n")], stanza


@dataclass(frozen=True, slots=True)
class Chosen:
    """One package that apt would install."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """The packages that apt would install or upgrade, and the names of those that it would remove."""

    installed: tuple[Chosen, ...]
    removed: frozenset[str]


class PrivateApt:
    """apt under the directory ``state``, which it makes and which may be kept between runs to save downloads."""

    def __init__(
        self,
        state: Path,
        programs: Programs,
        mirror: Mirror,
        suites: Sequence[Suite],
        architecture: str,
        pins: Mapping[str, str] | None = None,
        assume: Sequence[str] = (),
        *,
        allow_expired: bool = False,
    ) -> None:
        self._state = state.absolute()
        self._programs = programs
        self._suites = tuple(suites)
        self._mirror = mirror
        settings = {
            **mirror.apt_options,
            **({"Acquire::Check-Valid-Until": "false"} if allow_expired else {}),
            **programs.settings,
        }
        for name in ("etc/sources.list.d", "etc/empty", "lists/partial", "cache/archives/partial", "log"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        self._write("apt.conf", configuration(self._state, programs, architecture, settings))
        self._write("etc/sources.list.d/archives.sources", sources(suites, mirror, programs.keyring, architecture))
        self._write("etc/preferences", preferences(suites, pins or {}, assume))
        self._write("status", "")

    def update(self) -> None:
        """Download the indexes and verify their signatures. Raises :class:`AptFailure`."""
        self._run(
            ["update", "-q", "-o", "APT::Update::Error-Mode=any"],
            "apt could not fetch and verify the archive's indexes",
            _update_hint,
        )

    def indexes(self) -> list[Index]:
        """The verified indexes, in the order of the suites."""
        wanted = "|".join(f"$({name})" for name in ("REPO_URI", "RELEASE", "COMPONENT", "METAKEY", "FILENAME"))
        text = self._run(["indextargets", "--format", wanted, "Identifier: Packages"], "apt could not list its indexes")
        by_name = {suite.name: suite for suite in self._suites}
        found = []
        for line in text.splitlines():
            _, release, component, key, filename = line.split("|")
            path = Path(filename)
            # There may be none, for example in an archive without a binary-all index.
            if not path.exists():
                continue
            raw = path.read_bytes()
            found.append(
                Index(
                    suite=by_name[release],
                    component=component,
                    path=f"dists/{release}/{key}",
                    date=_release_date(path.with_name(path.name.removesuffix(key.replace("/", "_")) + "InRelease")),
                    text=raw.decode("utf-8", errors="replace"),
                    sha256=hashlib.sha256(raw).hexdigest(),
                )
            )
        order = {suite.name: position for position, suite in enumerate(self._suites)}
        return sorted(found, key=lambda index: (order[index.suite.name], index.path))

    def resolve(self, names: Iterable[str], status: str) -> list[Chosen]:
        """What apt would install for ``names`` on a machine whose dpkg status is ``status``.

        Raises :class:`AptFailure`.
        """
        self._write("status", status)
        text = self._run(
            ["install", "-s", "-q", "--no-install-recommends", "--", *sorted(set(names))],
            "apt finds no way to install the packages",
            lambda _: "read apt's output above; a name may be misspelt, or a suite may be missing in the definition",
        )
        return list(parse_simulation(text))

    def upgrade(self, names: Iterable[str], status: str, automatic: Iterable[tuple[str, str]]) -> Transaction:
        """The smallest change by apt to the newest ``names`` on a machine whose dpkg status is ``status``.

        ``automatic`` are (package, architecture) pairs of the status that were not requested: apt removes those that
        nothing needs any more. Raises :class:`AptFailure`.
        """
        self._write("status", status)
        marks = [f"Package: {name}\nArchitecture: {word}\nAuto-Installed: 1\n" for name, word in sorted(automatic)]
        self._write("extended_states", "\n".join(marks))
        text = self._run(
            ["install", "-s", "-q", "--no-install-recommends", "--auto-remove", "--", *sorted(set(names))],
            "apt finds no way to upgrade these packages alone",
            lambda _: "name what stands in the way with --upgrade as well, or upgrade everything: 'osbuild lock'",
        )
        return Transaction(tuple(parse_simulation(text)), frozenset(parse_removals(text)))

    def _write(self, name: str, text: str) -> None:
        (self._state / name).write_text(text, "utf-8")

    def _run(self, arguments: Sequence[str], failure: str, hint: Callable[[str], str] | None = None) -> str:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR") or name.lower().endswith("_proxy")
        }
        environment |= {"APT_CONFIG": str(self._state / "apt.conf"), "HOME": str(self._state), "LC_ALL": "C"}
        environment |= self._programs.environment
        try:
            done = subprocess.run(
                [*self._programs.apt_get, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise AptFailure("apt-get cannot be started", where=self._programs.apt_get[0]) from error
        if done.returncode != 0:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line[:2] in ("E:", "W:", "Er")] or (
                (done.stdout + done.stderr).splitlines()[-12:]
            )
            unmet = done.stdout.partition("unmet dependencies:")[2].splitlines()[:12]
            text = "\n  ".join([*unmet, *said])
            raise AptFailure(
                f"{failure}:\n  {text}", where=self._mirror.origin or None, hint=hint(text) if hint else None
            )
        return done.stdout


def configuration(state: Path, programs: Programs, architecture: str, settings: Mapping[str, str]) -> str:
    """The complete ``apt.conf``: read through ``APT_CONFIG`` before any other, it sets the paths of all other files."""
    values = {
        "APT::Architecture": architecture,
        "APT::Install-Recommends": "false",
        "APT::Install-Suggests": "false",
        # Root on the build host may not have the user _apt; the state is private anyway.
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        "Dir::State": str(state),
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::State::extended_states": str(state / "extended_states"),
        "Dir::Cache": str(state / "cache"),
        "Dir::Cache::archives": str(state / "cache/archives"),
        "Dir::Log": str(state / "log"),
        "Dir::Etc": str(state / "etc"),
        "Dir::Etc::main": str(state / "etc/empty/none"),
        "Dir::Etc::parts": str(state / "etc/empty"),
        "Dir::Etc::netrc": str(state / "etc/empty/none"),
        "Dir::Etc::netrcparts": str(state / "etc/empty"),
        "Dir::Etc::sourcelist": str(state / "etc/empty/none"),
        "Dir::Etc::sourceparts": str(state / "etc/sources.list.d"),
        "Dir::Etc::preferences": str(state / "etc/preferences"),
        "Dir::Etc::preferencesparts": str(state / "etc/empty"),
        "Dir::Etc::trusted": str(state / "etc/empty/none"),
        "Dir::Etc::trustedparts": str(state / "etc/empty"),
        "Dir::Bin::methods": str(programs.methods),
        # Simulation only: dpkg must never run.
        "Dir::Bin::dpkg": "/bin/false",
        "Dir::Ignore-Files-Silently": "~$",
        "Debug::NoLocking": "true",
        **settings,
    }
    lines = [f'{name} "{value}";' for name, value in values.items()]
    lines.append(f'APT::Architectures {{ "{architecture}"; }};')
    return "\n".join(lines) + "\n"


def sources(suites: Iterable[Suite], mirror: Mirror, keyring: Path, architecture: str) -> str:
    """The deb822 sources: every suite signed by ``keyring``, none trusted otherwise."""
    blocks = [
        "\n".join(
            [
                "Types: deb",
                f"URIs: {mirror.root(suite.archive)}",
                f"Suites: {suite.name}",
                f"Components: {' '.join(suite.components)}",
                f"Architectures: {architecture}",
                f"Signed-By: {keyring}",
            ]
        )
        for suite in suites
    ]
    return "\n\n".join(blocks) + "\n"


def preferences(suites: Iterable[Suite], pins: Mapping[str, str], assume: Sequence[str] = ()) -> str:
    """The apt_preferences(5): pinned suites provide nothing (-1), except the packages in ``pins`` (name to suite).

    A package that is assumed to be installed has no candidate in any suite, so that apt does not upgrade it to the real
    package.
    """
    blocks: list[tuple[str, str, int]] = []
    for suite in suites:
        if suite.pinned:
            blocks.append(("*", suite.name, -1))
        if assume:
            blocks.append((" ".join(sorted(assume)), suite.name, -1))
    blocks += [(name, suite, 995) for name, suite in sorted(pins.items())]
    return "\n".join(
        f"Package: {names}\nPin: release n={suite}\nPin-Priority: {level}\n" for names, suite, level in blocks
    )


# "Inst libc6 [2.40-1] (2.41-12 Debian:13.1/stable [amd64]) [waits for ...]"; the first brackets only for an upgrade.
_INST: Final = re.compile(r"Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) .*?\[(?P<architecture>[a-z0-9-]+)\]\)")


def parse_simulation(text: str) -> Iterator[Chosen]:
    """The packages in the output of ``apt-get install -s``."""
    for line in text.splitlines():
        match = _INST.match(line)
        if match:
            yield Chosen(match["name"].partition(":")[0], match["version"], match["architecture"])


def parse_removals(text: str) -> Iterator[str]:
    """The names of the packages to be removed in the output of ``apt-get install -s``: ``Remv name [version]``."""
    for line in text.splitlines():
        if line.startswith("Remv "):
            yield line.split()[1].partition(":")[0]


def compare_versions(left: str, right: str) -> int:
    """Negative, zero or positive if ``left`` is older than, equal to or newer than ``right`` (Debian policy 5.6.12)."""
    for one, two in zip(_split_version(left), _split_version(right), strict=True):
        difference = _compare_part(one, two)
        if difference:
            return difference
    return 0


def _split_version(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _order(character: str) -> int:
    # "~" sorts before the end of a part, letters before all other characters.
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _compare_part(left: str, right: str) -> int:
    # Digits and other characters alternate; a missing run counts as empty, or as zero.
    runs_left, runs_right = re.findall(r"(\D*)(\d*)", left), re.findall(r"(\D*)(\d*)", right)
    for position in range(max(len(runs_left), len(runs_right))):
        text_left, number_left = runs_left[position] if position < len(runs_left) else ("", "")
        text_right, number_right = runs_right[position] if position < len(runs_right) else ("", "")
        keys_left = [*map(_order, text_left), 0]
        keys_right = [*map(_order, text_right), 0]
        if keys_left != keys_right:
            return -1 if keys_left < keys_right else 1
        difference = int(number_left or 0) - int(number_right or 0)
        if difference:
            return difference
    return 0


def _release_date(path: Path) -> int:
    try:
        text = path.read_text("utf-8", errors="replace")
        # A clear-signed text: the stanza after the armour header's own.
        date = next(stanza["date"] for stanza in stanzas(text) if "date" in stanza)
        return int(parsedate_to_datetime(date).timestamp())
    except (OSError, StopIteration, ValueError) as error:
        raise AptFailure("a Release file without a date", where=str(path)) from error


def _update_hint(said: str) -> str:
    low = said.lower()
    if "not valid yet" in low or "is not valid" in low:
        return "the mirror's indexes come from the future: set this machine's clock"
    if "expired" in low:
        return "the mirror is no longer updated (a snapshot?): take another one, or accept its age with --allow-expired"
    if "signature" in low or "not signed" in low or "no_pubkey" in low or "sub-process" in low:
        return "the mirror's indexes are not signed by the Debian archive: do not use it; choose another with --mirror"
    return "is the network up, and the mirror right? choose another with --mirror URL or OSBUILD_MIRROR"
