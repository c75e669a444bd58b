"""The definition of an image: one commented model, read from YAML, with errors that name file, line and column.

The model is the reference: each field documents its purpose, and :mod:`builder.cli.schema` makes a page and a schema
for editors from that. ``packages`` and its neighbours define what to lock; everything after that defines how the tree
is finished. A definition is data only; it never holds an address of a mirror.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from builder.core.architecture import HOST, ArchitectureName, known
from builder.core.document import Node
from builder.core.verity import hash_bytes
from builder.definition import include
from builder.definition.include import Named, Whole
from terminal import Failure

Words = Annotated[tuple[str, ...], Whole.WHOLE]
"""The words of a command line."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Suite(_Model):
    """One suite of an archive that packages may come from."""

    suite: str
    """Name below ``dists/``: ``trixie``, ``trixie-security``."""
    archive: Literal["debian", "debian-security"] = "debian"
    """Which of Debian's two archives serves it."""
    components: tuple[str, ...] = ("main",)
    """Which of its parts."""
    pin_only: bool = False
    """Take from here only packages that ask for it with ``from``."""


class Pinned(_Model):
    """A package that comes from a suite of its own."""

    name: str
    """Of the package."""
    from_: str = Field(alias="from")
    """The suite; it is one of ``suites``."""


class Account(_Model):
    """An account of ours; those that packages declare come with them. Its own group has the same number; no account has a
    password.
    """

    name: str
    """To log in with."""
    uid: int = Field(ge=1, lt=60000)
    """Number of the account and of its own group."""
    groups: tuple[str, ...] = ()
    """Further groups that it is in."""
    home: str
    """Its home folder, an absolute path."""
    shell: str = "/bin/bash"
    """What a login starts."""
    gecos: str = ""
    """The person's name."""


class Kernel(_Model):
    """Which modules the node has, and which of them the initrd needs to find its root."""

    modules: dict[str, tuple[str, ...]]
    """What each is for, to a list of them: names, which the kernel has to have, or shell patterns of names or of paths below `kernel/`, which may match nothing. What they depend on comes along, and what the initrd loads; all others go."""
    initrd: tuple[str, ...]
    """Names, loaded in this order, what they depend on first."""
    initrd_drivers: tuple[str, ...] = ()
    """Names, loaded too if the disks are not found without them: what plain hardware needs and most virtual machines do not."""
    consoles: tuple[str, ...] = ()
    """Devices that the kernel writes to, each a ``console=`` in front of the command line; the last is what ``/dev/console`` is."""
    command_line: str
    """Parameters of the kernel."""

    def parameters(self) -> str:
        """The whole command line."""
        return " ".join([*(f"console={device}" for device in self.consoles), self.command_line])


class Presets(_Model):
    """systemd units: all are disabled but those listed."""

    enable: tuple[str, ...] = ()
    """Units to start, with all that their ``[Install]`` sections say."""
    mask: tuple[str, ...] = ()
    """Units that nothing can start."""
    default_target: str = "multi-user.target"
    """What a boot leads to."""


class Identity(_Model):
    """What ``os-release`` says; its ID is the name in small letters."""

    name: str
    """Of the system."""
    version: str
    """Of the system, in quotes."""


class Filesystem(_Model):
    """How the root is packed."""

    type: Literal["squashfs", "erofs"]
    """The file system; both are read-only."""
    fast: Words
    """Options of the writer for everyday builds."""
    release: Words
    """Options of the writer under ``--release``: slower, smaller."""


MIB: Final = 1 << 20
_ESP_MIN: Final = 16 * MIB
"""Below, FAT16 has too few clusters to be FAT16."""
_SIZE_MAX: Final = 1 << 40


def _size(given: object) -> int:
    """Bytes, of text with a unit (``64MiB``). Raises ValueError for what a partition cannot have."""
    found = re.fullmatch(r"([1-9][0-9]*)(MiB|GiB)", given) if isinstance(given, str) else None
    if found is None:
        raise ValueError("a size is whole MiB or GiB, as in 64MiB or 2GiB")
    size = int(found[1]) * (MIB if found[2] == "MiB" else 1024 * MIB)
    if size > _SIZE_MAX:
        raise ValueError("at most 1024GiB")
    return size


def size_text(size: int) -> str:
    """The text that the size ``size`` (bytes) has in a definition."""
    return f"{size // MIB}MiB" if size % (1024 * MIB) else f"{size // (1024 * MIB)}GiB"


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*(MiB|GiB)$"}),
    PlainSerializer(size_text, return_type=str),
]
"""Bytes, written as text with a unit."""


class Disk(_Model):
    """The partitions of a node's disk; each size is whole MiB or GiB (``64MiB``). Root and verity are there twice, for this version and the next."""

    esp: Size = 128 * MIB
    """EFI system partition: boot loader, and a kernel with initrd for each version; 16MiB at least."""
    root: Size = 512 * MIB
    """A root's file system."""
    verity: Size = 8 * MIB
    """The hashes of a root: a 126th of its size."""
    state: Size = 1024 * MIB
    """What is the node's own; its first boot grows it to the end of the disk."""

    @field_validator("esp")
    @classmethod
    def _esp(cls, size: int) -> int:
        if size < _ESP_MIN:
            raise ValueError(f"an EFI system partition has at least {size_text(_ESP_MIN)}")
        return size

    @model_validator(mode="after")
    def _hashes_fit(self) -> Disk:
        needed = hash_bytes(self.root)
        if self.verity < needed:
            raise ValueError(
                f"the hashes of a root of {size_text(self.root)} need a verity of {size_text(-(-needed // MIB) * MIB)}"
            )
        return self


class Limits(_Model):
    """Sizes that fail a build which is larger, and name the ten owners that grew most (``osbuild budget``). Its key is ``release``, for builds with ``--release`` and for containers, or ``fast``. A size is as ``120 MB``, or in MiB, GB and so on."""

    model_config = ConfigDict(strict=False)  # for the units

    root: ByteSize | None = None
    """Of the root, packed, with its hashes."""
    boot: ByteSize | None = None
    """Of kernel and initrds together."""
    archive: ByteSize | None = None
    """Of a container's archive."""


class Container(_Model):
    """What makes a definition a container instead of a node: docker's image configuration."""

    repository: str
    """Name docker knows it by: ``dockerfile/redis``."""
    tag: str = "latest"
    """What stands after the colon."""
    user: str = ""
    """Account that it runs as; root if empty."""
    entrypoint: Words = ()
    """Words that begin its command line, whatever ``docker run`` is given."""
    cmd: Words = ()
    """Words of its command line that ``docker run`` may replace."""
    exposed_ports: tuple[str, ...] = ()
    """As ``6379/tcp``."""
    volumes: tuple[str, ...] = ()
    """Paths whose contents outlive the container."""
    working_dir: str = "/"
    """Folder that it starts in."""
    environment: dict[str, str] = {}
    """Variables by name."""


class Definition(_Model):
    """A whole image."""

    include: str | None = None
    """Another definition that this one is added to: the bare name of one of ours (``node``), or a path relative to this file."""
    version: Literal[1]
    """Of this format."""
    name: str
    """Of what is built."""
    architecture: ArchitectureName = HOST
    """Debian's name of what is built if ``--arch`` does not say."""
    architectures: dict[ArchitectureName, dict[str, object]] = {}
    """What is different for an architecture: any other key of this page but ``include``, ``version`` and ``name``, merged over the rest of the file."""
    suites: Annotated[tuple[Suite, ...], Named("suite")] = Field(min_length=1)
    """Where packages may come from."""
    packages: Annotated[tuple[str | Pinned, ...], Named("name")] = Field(min_length=1)
    """The packages to install, with their dependencies, without their recommendations."""
    assume: tuple[str, ...] = ()
    """Packages taken for installed, so that they and what only they need stay out: no maintainer script ever runs here."""
    remove: tuple[str, ...] = ()
    """Shell patterns of paths to leave out, after everything is merged."""
    accounts: Annotated[tuple[Account, ...], Named("name")] = ()
    """Accounts of ours."""
    groups: tuple[str, ...] = ()
    """Groups that no package declares in sysusers.d, ours and those that a maintainer script would have made."""
    ids: dict[str, int] = {}
    """Numbers for accounts and groups that have no fixed one yet (builder/finish/accounts.py holds the list)."""
    kernel: Kernel | None = None
    """For a node: its kernel, which a package brings."""
    presets: Presets = Presets()
    """Which units start."""
    aliases: dict[str, str] = {}
    """Further names of units, enabled or not: new name to unit."""
    identity: Identity | None = None
    """What the system calls itself."""
    directories: dict[str, str] = {}
    """Empty directories to make: path to octal mode, and the account that owns it if not root (``0755 redis``)."""
    links: dict[str, str] = {}
    """Symbolic links to make: path to target."""
    overlay: str | tuple[str, ...] | None = None
    """Folder (or several) beside the definition whose files are copied verbatim, same paths; it wins over packages, a later one over earlier ones."""
    node_code: tuple[str, ...] = ()
    """Our own Python packages that the node runs."""
    root: Filesystem | None = None
    """For a node: how its root is packed."""
    disk: Disk = Disk()
    """For a node: the sizes of its disk's partitions."""
    budget: dict[Literal["release", "fast"], Limits] = {}
    """How large it may be, by the way to build."""
    container: Container | None = None
    """Instead of ``kernel`` and ``root``: a container."""

    def overlays(self) -> tuple[Path, ...]:
        """The folders of ``overlay``, first to last; :func:`load` has made them paths that hold from anywhere."""
        folders = (self.overlay,) if isinstance(self.overlay, str) else self.overlay or ()
        return tuple(map(Path, folders))

    def wants(self) -> list[tuple[str, str | None]]:
        """(package, suite or None) pairs, in the definition's order."""
        return [(entry, None) if isinstance(entry, str) else (entry.name, entry.from_) for entry in self.packages]


FORBIDDEN: Final = "extra_forbidden"
_UNION_PARTS: Final = ("str", "Pinned", "tuple[str, ...]")
"""What pydantic puts into a location to say which type of a union it tried."""


def load(path: Path, architecture: str | None = None) -> Definition:
    """Read and check a definition for an ``architecture`` (by default the one that it says), with what it includes merged into it.

    The sections of other architectures are checked, too. Raises :class:`Failure` for an architecture that there is not, and naming file, line,
    column, what was expected, and the nearest known key for a misspelt one.
    """
    files = include.read(path)
    if architecture is not None:
        wanted = known(architecture, "--arch")
    else:
        own = include.said(files, "architecture")
        wanted = known(str(own.value), own.where) if own is not None else HOST
    for other in sorted(include.sections(files) - {wanted}):
        _checked(include.fold(files, RULES, other))
    return _checked(include.fold(files, RULES, wanted)).model_copy(update={"architecture": wanted})


def _checked(node: Node) -> Definition:
    """The model of a definition that is one node."""
    try:
        return Definition.model_validate(node.plain())
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling is what helps.
        first = min(error.errors(), key=lambda found: found["type"] != FORBIDDEN)
        location = [part for part in first["loc"] if isinstance(part, int) or part not in _UNION_PARTS]
        where = node.find(location)
        path_text = ".".join(str(part) for part in location)
        if first["type"] == FORBIDDEN:
            raise Failure(f"unknown key {path_text!r}", where=where, hint=_nearest(str(location[-1]))) from None
        message = first["msg"].removeprefix("Value error, ")
        raise Failure(
            f"{path_text}: {message[0].lower()}{message[1:]}",
            where=where,
            hint="docs/definition.md lists every key",
        ) from None


def _rules(model: type[BaseModel], at: include.Location = ()) -> Iterator[tuple[include.Location, Whole | Named]]:
    """How the lists of ``model`` and of its sections are merged, as their annotations say."""
    for name, field in model.model_fields.items():
        here = (*at, field.alias or name)
        yield from ((here, rule) for rule in field.metadata if isinstance(rule, Whole | Named))
        for section in sections(field.annotation):
            yield from _rules(section, here)


def sections(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that ``annotation`` names, lists of models left out: a section is merged, a list's item is not."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    if get_origin(annotation) is not tuple:
        for argument in get_args(annotation):
            yield from sections(argument)


RULES: Final[include.Rules] = dict(_rules(Definition))
"""How definitions merge, beyond the rules that hold everywhere (:func:`builder.definition.include.merge`)."""


def _nearest(key: str) -> str:
    known = {
        field.alias or name
        for model in (
            Definition,
            Suite,
            Pinned,
            Account,
            Kernel,
            Presets,
            Identity,
            Filesystem,
            Disk,
            Limits,
            Container,
        )
        for name, field in model.model_fields.items()
    }
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else "docs/definition.md lists every key"
