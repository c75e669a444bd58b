"""The definition of an image: one commented model, read from YAML, with errors that name file, line and column.

The model is the reference: each field says what it is for, and :mod:`builder.schema` makes a page and a schema for editors of that. ``packages`` and its neighbours say what to lock; everything after says
how the tree is finished. A definition is data only; it never holds an address of a mirror.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from terminal import Failure

Epoch = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


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
    """An account of ours; those that packages declare come with them. Its own group has the same number; nobody has a password."""

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

    modules: tuple[str, ...]
    """Names or shell patterns; what they depend on comes along, all others go."""
    initrd: tuple[str, ...]
    """Names, loaded in this order, what they depend on first."""
    command_line: str
    """Parameters of the kernel."""


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
    fast: tuple[str, ...]
    """Options of the writer for everyday builds."""
    release: tuple[str, ...]
    """Options of the writer under ``--release``: slower, smaller."""


class Container(_Model):
    """What makes a definition a container instead of a node: docker's image configuration."""

    repository: str
    """Name docker knows it by: ``dockerfile/redis``."""
    tag: str = "latest"
    """What stands after the colon."""
    user: str = ""
    """Account that it runs as; root if empty."""
    entrypoint: tuple[str, ...] = ()
    """Words that begin its command line, whatever ``docker run`` is given."""
    cmd: tuple[str, ...] = ()
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

    version: Literal[1]
    """Of this format."""
    name: str
    """Of what is built."""
    architecture: Literal["amd64"] = "amd64"
    """Debian's name of it."""
    suites: tuple[Suite, ...] = Field(min_length=1)
    """Where packages may come from."""
    packages: tuple[str | Pinned, ...] = Field(min_length=1)
    """What is asked for; what these depend on comes along, recommendations do not."""
    assume: tuple[str, ...] = ()
    """Packages taken for installed, so that they and what only they need stay out: no maintainer script ever runs here."""
    remove: tuple[str, ...] = ()
    """Shell patterns of paths to leave out, after everything is merged."""
    accounts: tuple[Account, ...] = ()
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
    overlay: str | None = None
    """Folder beside the definition whose files are copied verbatim, same paths; it wins over packages."""
    node_code: tuple[str, ...] = ()
    """Our own Python packages that the node runs."""
    root: Filesystem | None = None
    """For a node: how its root is packed."""
    container: Container | None = None
    """Instead of ``kernel`` and ``root``: a container."""

    def wants(self) -> list[tuple[str, str | None]]:
        """(package, suite or None) pairs, in the definition's order."""
        return [(entry, None) if isinstance(entry, str) else (entry.name, entry.from_) for entry in self.packages]


FORBIDDEN: Final = "extra_forbidden"
BYTES_MAX: Final = 1 << 20


def load(path: Path) -> Definition:
    """Read and check a definition.

    Raises :class:`Failure` naming file, line, column, what was expected, and the nearest known key for a misspelt one.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Failure(f"this is not YAML: {error.problem}", where=f"{path}:{line}:{column}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Failure(f"this is not YAML: {error}", where=str(path)) from None
    _refuse_twice(node, path)
    if not isinstance(data, dict) or node is None:
        raise Failure("a definition is a mapping of keys", where=f"{path}:1:1", hint="see image/node.yaml")
    try:
        # Lists become tuples on the way: strict mode takes JSON's lists for them.
        return Definition.model_validate(_tuples(data))
    except ValidationError as error:
        # A misspelt key is also a missing one; the misspelling is what helps.
        first = min(error.errors(), key=lambda found: found["type"] != FORBIDDEN)
        location = [part for part in first["loc"] if isinstance(part, int) or part not in ("str", "Pinned")]
        line, column = _mark(node, location)
        path_text = ".".join(str(part) for part in location)
        if first["type"] == FORBIDDEN:
            raise Failure(
                f"unknown key {path_text!r}", where=f"{path}:{line}:{column}", hint=_nearest(str(location[-1]))
            ) from None
        raise Failure(
            f"{path_text}: {first['msg'][0].lower()}{first['msg'][1:]}",
            where=f"{path}:{line}:{column}",
            hint="docs/definition.md lists every key",
        ) from None


def _read(path: Path) -> str:
    hint = "give its path; image/node.yaml is one"
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"cannot read the definition: {error.strerror}", where=str(path), hint=hint) from None
    if len(content) > BYTES_MAX:
        raise Failure(f"this is no definition: more than {BYTES_MAX} bytes", where=str(path), hint=hint)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Failure("this is not text in UTF-8", where=f"{path}:{line}", hint=hint) from None


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    """Raise :class:`Failure` if a mapping has a key twice: YAML forbids it, and the reader would silently take the last."""
    for child in _children(node):
        _refuse_twice(child, path)
    seen: set[str] = set()
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value in seen:
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            raise Failure(
                f"the key {key.value!r} is there twice", where=f"{path}:{line}:{column}", hint="keep one of them"
            )
        seen.add(key.value)


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _tuples(value: object) -> object:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _nearest(key: str) -> str:
    known = {
        field.alias or name
        for model in (Definition, Suite, Pinned, Account, Kernel, Presets, Identity, Filesystem, Container)
        for name, field in model.model_fields.items()
    }
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else "docs/definition.md lists every key"


def _mark(node: yaml.Node, location: Sequence[int | str]) -> tuple[int, int]:
    """Line and column (from 1) of the deepest node on the way to ``location``."""
    mark = node.start_mark
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            mark, node = found[0][0].start_mark, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
    return mark.line + 1, mark.column + 1
