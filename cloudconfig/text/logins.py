"""Logins beyond ``users``' names: top-level groups, passwords (chpasswd, password), sudo rules, ssh_pwauth.

Where cloud-init and coreos-cloudinit differ, the latter counts: an account with ``passwd`` may log in unless
``lock_passwd: true`` is set.
"""

from __future__ import annotations

import re

from cloudconfig.text import yamltree
from cloudconfig.text.reader import Fields, Reader, kind
from cloudconfig.text.schema import CORE, Group, Password, WriteFile
from cloudconfig.text.yamltree import Node, Scalar

_TYPES = ("hash", "text")
_RANDOM = ("R", "RANDOM")
# sudoers(5): HOSTS = (RUNAS) TAG: COMMANDS. A line of it, no more: no backslash at the end, no comment, no second line.
_RULE = re.compile(
    r"[A-Za-z0-9_!@+%.,/:-]+[ \t]*=[ \t]*"
    r"(\([A-Za-z0-9_ ,:#%+!-]*\)[ \t]*)?(?P<commands>[^#\x00-\x1f\x7f]*[^\\\x00-\x1f\x7f# \t])"
)
_TAG = re.compile(r"(?:(?:NO)?(?:PASSWD|EXEC|SETENV|MAIL|LOG_INPUT|LOG_OUTPUT|FOLLOW|INTERCEPT)[ \t]*:[ \t]*)*")
_COMMAND = re.compile(r"!*[ \t]*(?:ALL|[A-Z][A-Z0-9_]*|sudoedit([ \t].*)?|/[^\"]*)")


def groups(reader: Reader, top: Fields) -> tuple[Group, ...]:
    """Top-level ``groups``: a list of names or of ``name: [members]``, such a mapping, or names with commas."""
    if "groups" not in top:
        return ()
    path, node = top["groups"]
    if isinstance(node, Scalar):
        return tuple(Group(name.strip(), (), path) for name in node.text.split(",") if name.strip())
    if isinstance(node, yamltree.Mapping):
        return tuple(_group(reader, path, key, value) for key, value in node.pairs)
    found: list[Group] = []
    for inner, item in reader.items(top, "groups"):
        reader.mark(inner, item)
        if isinstance(item, Scalar) and not item.null:
            found.append(Group(item.text.strip(), (), inner))
        elif isinstance(item, yamltree.Mapping):
            found += [_group(reader, inner, key, value) for key, value in item.pairs]
        else:
            reader.error(item, inner, f"must be a name or 'name: [members]', is {kind(item)}")
    return tuple(found)


def _group(reader: Reader, path: str, key: Scalar, value: Node) -> Group:
    at = f"{path}.{key.text}"
    reader.mark(at, key)
    if isinstance(value, Scalar):
        return Group(
            key.text, tuple(name.strip() for name in value.text.split(",") if name.strip() and not value.null), at
        )
    return Group(key.text, reader.words({key.text: (at, value)}, key.text), at)


def passwords(reader: Reader, top: Fields) -> tuple[Password, ...]:
    """``password`` (of core) and ``chpasswd`` with ``users`` and the older ``list``."""
    section = reader.section(top, "chpasswd", ("expire", "list", "users"))
    expire = reader.bool(section, "expire")
    must_change = expire is None or expire
    found: list[Password] = []
    if "password" in top:
        path, node = top["password"]
        found.append(_password(reader, CORE, reader.text(top, "password"), must_change, (path, node)))
    lines: list[tuple[str, Node, str]] = []
    if "list" in section:
        path, node = section["list"]
        if isinstance(node, Scalar):
            lines = [(path, node, line) for line in node.text.splitlines() if line.strip()]
        else:
            lines = [
                (inner, item, item.text) for inner, item in reader.items(section, "list") if isinstance(item, Scalar)
            ]
    for path, node, line in lines:
        user, colon, secret = line.strip().partition(":")
        reader.mark(path, node)
        if not colon or not user:
            reader.error(node, path, "a line is name:password")
            continue
        found.append(_password(reader, user, secret, must_change, (path, node)))
    for path, node in reader.items(section, "users"):
        fields = reader.struct(node, path, ("name", "password", "type"))
        user = reader.required(fields, "name", path, node)
        type_ = reader.choice(fields, "type", (*_TYPES, "RANDOM")) or "hash"
        secret = "R" if type_ == "RANDOM" else reader.required(fields, "password", path, node)
        if secret:
            place = fields.get("password", (path, node))
            found.append(_password(reader, user, secret, must_change, place, type_))
    return tuple(found)


def _password(
    reader: Reader, user: str, secret: str, expire: bool, place: tuple[str, Node], type_: str = ""
) -> Password:
    path, node = place
    if (not type_ and secret in _RANDOM) or type_ == "RANDOM":
        reader.error(
            node,
            path,
            "a random password would have to be shown on the console",
            "make a hash: mkpasswd --method=yescrypt",
        )
    is_hash = type_ == "hash" or (not type_ and bool(re.match(r"\$(1|2a|2y|5|6|y)(\$.+){2}", secret)))
    return Password(user, secret if is_hash else "", "" if is_hash else secret, expire, path)


def sudo(reader: Reader, fields: Fields, user: str, at: str) -> tuple[WriteFile, ...]:
    """``users[].sudo`` (text, list, false) as a file of sudoers.d, mode 0440."""
    if "sudo" not in fields:
        return ()
    path, node = fields["sudo"]
    rules: tuple[str, ...]
    if isinstance(node, Scalar):
        rules = () if node.text.lower() in ("false", "no", "off") else (node.text.strip(),)
        places = [(path, node)]
    else:
        rules = reader.words(fields, "sudo")
        places = [(inner, item) for inner, item in reader.items(fields, "sudo") if isinstance(item, Scalar)]
    for rule, (inner, item) in zip(rules, places, strict=False):
        problem = rule_problem(rule)
        if problem:
            reader.error(item, inner, problem, "for example: ALL=(ALL) NOPASSWD:ALL")
    if not rules or not user:
        return ()
    text = "".join(f"{user} {rule}\n" for rule in rules)
    return (WriteFile(f"/etc/sudoers.d/90-cloudconfig-{user}", text.encode(), 0o440, "root:root", f"{at}.sudo"),)


def rule_problem(rule: str) -> str:
    """What is wrong with a rule of sudoers(5) without its user.

    Empty if nothing. Aliases and quoted blanks are no part of it."""
    found = _RULE.fullmatch(rule) if len(rule) <= 4096 else None
    if found is None:
        return "not a rule of sudoers"
    for piece in re.split(r"(?<!\\),", found["commands"]):
        command = piece.strip()[_TAG.match(piece.strip()).end() :]  # type: ignore[union-attr]  # matches nothing, too
        if not _COMMAND.fullmatch(command):
            return "not a rule of sudoers: a command is ALL or an absolute path"
    return ""


def ssh_pwauth(reader: Reader, top: Fields) -> tuple[WriteFile, ...]:
    """``ssh_pwauth: true`` lets passwords in, which the image does not."""
    if reader.text(top, "ssh_pwauth").lower() in ("unchanged", "") or not reader.bool(top, "ssh_pwauth"):
        return ()
    # The first file that sets an option counts, and the image's is 10-flotilla.conf.
    text = "AuthenticationMethods any\nPasswordAuthentication yes\n"
    return (
        WriteFile(
            "/etc/ssh/sshd_config.d/05-cloudconfig-passwords.conf", text.encode(), 0o644, "root:root", "ssh_pwauth"
        ),
    )
