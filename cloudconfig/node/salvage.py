"""Host name and SSH keys of accounts that can repair a node, from texts that cannot be used as a whole.

Those are ``core`` and every account that gets root by sudo. A text is read whole if its YAML is whole. If not, each
top-level key's lines are read alone, so that a mistake elsewhere does not matter; in a broken ``users`` each entry, in
a broken list of keys each line. Pure; no text makes it raise; the work is bounded: it reads the first few places of
each key, and a limited number of YAML values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from cloudconfig.node import guard
from cloudconfig.text import formats, yamltree
from cloudconfig.text.parse import essentials_of
from cloudconfig.text.schema import CORE, CloudConfig, User
from cloudconfig.text.yamltree import Mapping, Node, Scalar

T = TypeVar("T")

SUDO_GROUPS = frozenset(("sudo", "wheel", "admin", "root"))
"""What distributions call the group that may sudo; on our image it is sudo."""
BLOCKS_MAX = 16
"""So many places of one key are read: a text that has more is not one that a person wrote."""
TEXT_MAX = 1 << 20
NODES_MAX = 3 * yamltree.NODES_MAX
"""Of all texts together; a broken text is read twice, as a whole and in its blocks."""
_WANTED = ("fqdn", "hostname", "ssh_authorized_keys", "users")
_TOP_KEY = re.compile(r"^([A-Za-z][A-Za-z0-9_-]{0,63})[ \t]*:", re.MULTILINE)
_KEY_LINE = re.compile(
    r"""^[ \t]*-[ \t]+["']?((?:ssh|ecdsa|sk)-[a-z0-9@.-]{1,40}[ \t]+[A-Za-z0-9+/=]{40,}[^"'\n]*)""", re.MULTILINE
)
_ENTRY = re.compile(r"^([ \t]*)-(?=[ \t])", re.MULTILINE)
_MARGIN = re.compile(r"^(?![ \t\n#]|-[ \t\n])", re.MULTILINE)
_ALL = re.compile(r"ALL[ \t]*=[ \t]*\([ \t]*ALL[ \t]*(:[ \t]*ALL[ \t]*)?\)[ \t]*(NOPASSWD:[ \t]*|PASSWD:[ \t]*)?ALL")


def essentials(texts: Iterable[str]) -> CloudConfig:
    """The host name in ``texts`` (from the first that has one), core's keys, and accounts that may sudo (``users``).

    The users have a name, keys and ``sudo`` among their groups, and are otherwise as the text describes them.
    """
    hostname = ""
    keys: list[str] = []
    users: dict[str, User] = {}
    work = _Work()
    for text in texts:
        saved = _either(partial(_saved, text[:TEXT_MAX], work), CloudConfig())
        hostname = hostname or saved.hostname
        keys += saved.ssh_authorized_keys
        for user in saved.users:
            if user.name == CORE:
                keys += user.ssh_authorized_keys
            elif user.name:
                users.setdefault(user.name, user)
    return CloudConfig(hostname=hostname, ssh_authorized_keys=tuple(dict.fromkeys(keys)), users=tuple(users.values()))


def readable(data: bytes) -> tuple[str, ...]:
    """``data`` as a text to search for essentials, unless it has another known format (such as a script)."""
    text = data[:TEXT_MAX].decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return () if text.startswith("#!") else (text,)


class _Work:
    """How many values of YAML may still be read."""

    def __init__(self) -> None:
        self.left = NODES_MAX

    def tree(self, text: str) -> Node | None:
        """The root of ``text``, None if its YAML is broken."""
        found = yamltree.read(text, min(self.left, yamltree.NODES_MAX))
        self.left -= found.nodes
        return found.root


def _saved(text: str, work: _Work) -> CloudConfig:
    if formats.JINJA_LINE.match(text):
        text = "#\n" + text.partition("\n")[2]
    if whole := _either(partial(_whole, text, work), None):
        return whole
    hostname = of_fqdn = ""
    keys: tuple[str, ...] = ()
    users: list[User] = []
    for key, block in _blocks(text):
        found = _either(partial(_of_block, key, block, work), CloudConfig())
        if key == "hostname":
            hostname = hostname or found.hostname
        elif key == "fqdn":
            of_fqdn = of_fqdn or found.hostname
        elif key == "ssh_authorized_keys":
            keys = keys or found.ssh_authorized_keys or tuple(match.strip() for match in _KEY_LINE.findall(block))
        else:
            users += found.users
    return CloudConfig(hostname=hostname or of_fqdn, ssh_authorized_keys=keys, users=tuple(users))


def _whole(text: str, work: _Work) -> CloudConfig | None:
    root = work.tree(text)
    return None if root is None else _of_tree(root)


def _of_block(key: str, block: str, work: _Work) -> CloudConfig:
    root = work.tree(block)
    if root is None:
        # What stands below at the margin and is no list is not of this key: the end of a message, a line that lost its
        # colon.
        end = _MARGIN.search(block, block.find("\n") + 1)
        block = block[: end.start()] if end else block
        root = work.tree(block) if end else None
    if root is not None:
        return _of_tree(root)
    return CloudConfig(users=tuple(_entries(block, work)) if key == "users" else ())


def _either(read: Callable[[], T], nothing: T) -> T:
    """What ``read`` returns, ``nothing`` if it raises.

    A bug of ours in one place must not hold back the contents of another."""
    return guard.attempt(read, lambda _: None) or nothing


def _of_tree(root: Node) -> CloudConfig:
    """The essentials of a text whose YAML is whole, whatever is wrong with its values.

    Other keys are not even looked at."""
    if not isinstance(root, Mapping):
        return CloudConfig()
    root = root._replace(pairs=tuple(pair for pair in root.pairs if pair[0].text.replace("-", "_") in _WANTED))
    config = essentials_of(root)
    full = frozenset(_may_do_everything(root))
    users = []
    for user in config.users:
        if user.name == CORE or user.name in full or SUDO_GROUPS.intersection(user.groups):
            groups = tuple(group for group in user.groups if group not in SUDO_GROUPS)
            users.append(user._replace(groups=(*groups, "sudo")))
    return CloudConfig(hostname=config.hostname, ssh_authorized_keys=config.ssh_authorized_keys, users=tuple(users))


def _may_do_everything(root: Node) -> Iterator[str]:
    """The names of the entries of ``users`` whose ``sudo`` is a rule that allows everything.

    An account whose rule allows less than everything cannot repair the node, and must not get more rights.
    """
    for entry in _list(root, "users"):
        name, rule = _value(entry, "name"), _value(entry, "sudo")
        if isinstance(name, Scalar) and rule is not None:
            lines = rule.items if isinstance(rule, yamltree.Sequence) else (rule,)
            if any(isinstance(line, Scalar) and _ALL.fullmatch(line.text.strip()) for line in lines):
                yield name.text


def _list(node: Node, key: str) -> Sequence[Node]:
    value = _value(node, key)
    return value.items if isinstance(value, yamltree.Sequence) else ()


def _value(node: Node, key: str) -> Node | None:
    if isinstance(node, Mapping):
        for name, value in node.pairs:
            if name.text.replace("-", "_") == key:
                return value
    return None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """The lines of each top-level key that is wanted, from its own line to the next key's."""
    left = dict.fromkeys(_WANTED, BLOCKS_MAX)
    start, key = 0, ""
    for match in _TOP_KEY.finditer(text):
        if key:
            yield key, text[start : match.start()]
        start, key = match.start(), match[1].replace("-", "_")
        key = key if left.get(key) else ""
        if key:
            left[key] -= 1
    if key:
        yield key, text[start:]


def _entries(block: str, work: _Work) -> list[User]:
    """The entries of a broken ``users`` that can be read alone."""
    first = _ENTRY.search(block)
    if not first:
        return []
    places = islice(_ENTRY.finditer(block), 16 * BLOCKS_MAX)
    starts = [match.start() for match in places if match[1] == first[1]]
    users: list[User] = []
    for start, end in list(zip(starts, [*starts[1:], len(block)], strict=True))[: 4 * BLOCKS_MAX]:
        text = "users:\n" + block[start:end]
        users += (_either(partial(_whole, text, work), None) or CloudConfig()).users
    return users
