"""Secrets that stand in a unit's ``Environment=``, where any local user can read them (``systemctl show``).

They are known by the variable's name; what only names a secret, or is none, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from unitfile.command import OpenQuoteError, unquoted, words

_SECRET: Final = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|(?:\A|_)PASS|(?:\A|_)(?:API)?KEY)\Z")
# Keys that are no secret: of locks, of tables, of a cache, of a keyboard.
_PUBLIC: Final = re.compile(r"(?:\A|_)(?:PUBLIC|PUB|HOST|PRIMARY|FOREIGN|PARTITION|SORT|ROUTING|CACHE|COMPOSE)_KEY\Z")
_SWITCHES: Final = frozenset({"0", "1", "yes", "no", "true", "false", "on", "off", "none", "null"})
# A path, a specifier or a variable alone (%d/name is a credential), a public key, a block of one.
_NO_SECRET: Final = re.compile(
    r"(?:[/~].*|%[A-Za-z](?:/.*)?|\$\{?\w+\}?|(?:sk-)?(?:ssh|ecdsa)-.*|-----BEGIN (?:PUBLIC|CERT).*)", re.DOTALL
)


def exposed(value: str) -> Iterator[str]:
    """Names of the variables in ``value``, of one ``Environment=``, that probably hold a secret."""
    try:
        for word in words(value):
            name, separator, text = unquoted(word).partition("=")
            if separator and _is_secret(name.upper(), text):
                yield name
    except OpenQuoteError:
        return  # systemd ignores the rest


def _is_secret(name: str, text: str) -> bool:
    if not _SECRET.search(name) or _PUBLIC.search(name):
        return False
    return bool(text) and text.lower() not in _SWITCHES and not _NO_SECRET.fullmatch(text)
