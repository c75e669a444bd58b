"""fleetd's settings: ``/etc/fleet/fleet.conf`` and ``FLEET_*`` in the environment, which wins.

Names are the original's.

The file has one ``name=value`` a line, no sections, ``#`` and ``;`` for comments; a value may be in double quotes.
Durations are Go's (``30s``, ``1m30s``); lists are ``a,b`` or ``["a","b"]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from etcd import credentials
from fleet.model.registry import PREFIX
from terminal import Failure

CONFIG_FILE = Path("/etc/fleet/fleet.conf")
_ETCD = "127.0.0.1:2379"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_CHARS_MAX = 100
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")

IGNORED = frozenset(
    {
        "authorized_keys_file",
        "disable_watches",
        "enable_grpc",
        "etcd_password",
        "etcd_username",
        "systemd_user",
        "token_limit",
        "verify_units",
    }
)
"""Settings of the original that mean nothing here: accepted with a warning, so that an old file still works."""


class ConfigError(Failure):
    """A setting is unknown, or its value makes no sense."""


@dataclass(frozen=True, slots=True)
class Config:
    """fleetd's settings, checked. Times are in seconds."""

    etcd_servers: tuple[str, ...] = (f"http://{_ETCD}",)
    etcd_cafile: str = ""
    etcd_certfile: str = ""
    etcd_keyfile: str = ""
    etcd_key_prefix: str = PREFIX
    etcd_request_timeout: float = 5.0
    engine_reconcile_interval: float = 1.0
    agent_ttl: int = 30
    public_ip: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    api_listen: tuple[str, ...] | None = None
    """URLs; None is the usual one (:mod:`fleet.api.doors`), none at all keeps to unix sockets."""
    disable_engine: bool = False
    verbosity: int = 0
    units_directory: str = "/run/fleet"
    ignored: tuple[str, ...] = ()

    @property
    def leader_ttl_s(self) -> int:
        """The leader's lease: five intervals, as in the original, and never so short that a slow machine loses it."""
        return max(5, round(5 * self.engine_reconcile_interval))


def load(path: Path | None, environment: Mapping[str, str], certificates: Path = credentials.FOLDER) -> Config:
    """Settings of a file and the environment. ``path`` ``None`` is the usual file, which may be missing.

    Towards etcd the node's own ``certificates`` are used, unless a setting names others. Raises :class:`ConfigError`
    with file and line, or with the variable, and Failure if some of the node's certificates are missing.
    """
    given: dict[str, tuple[str, str]] = {}
    if path is not None or CONFIG_FILE.exists():
        given.update(_read(path or CONFIG_FILE))
    for variable, value in sorted(environment.items()):
        if variable.startswith("FLEET_"):
            given[variable.removeprefix("FLEET_").lower()] = (value, variable)
    return _made(given, certificates)


def _read(path: Path) -> dict[str, tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot read the configuration", where=str(path)) from error
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", ";")):
            continue
        name, equals, value = stripped.partition("=")
        where = f"{path} line {number}"
        if not equals:
            raise ConfigError(
                f"{stripped[:40]!r} is no setting", where=where, hint="write name=value; there are no sections"
            )
        found[name.strip()] = (_unquoted(value.strip()), where)
    return found


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _made(given: Mapping[str, tuple[str, str]], certificates: Path) -> Config:
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for name, (value, where) in given.items():
        if name in IGNORED:
            ignored.append(name)
            continue
        parse = _PARSERS.get(name)
        if parse is None:
            import difflib  # lazily: a node's start-up does not need it

            near = difflib.get_close_matches(name, _PARSERS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"there is no setting {name}", where=where, hint=f"the nearest is {near}")
        try:
            values[name] = parse(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}", where=where) from None
    if not values.keys() & {"etcd_cafile", "etcd_certfile", "etcd_keyfile"}:
        values = _with_own(values, certificates)
    config = Config(**values, ignored=tuple(sorted(ignored)))
    if (config.etcd_certfile and not config.etcd_keyfile) or (config.etcd_keyfile and not config.etcd_certfile):
        raise ConfigError("etcd_certfile and etcd_keyfile need each other", hint="give both, or neither")
    if config.etcd_certfile and not config.etcd_cafile:
        raise ConfigError(
            "a client certificate without etcd_cafile would trust any server", hint="give etcd_cafile too"
        )
    return config


def _with_own(values: dict[str, Any], certificates: Path) -> dict[str, Any]:
    """``values`` and the node's certificates, if it has some, and one of the servers demands them."""
    servers = values.get("etcd_servers", (f"https://{_ETCD}",))
    if not any(server.startswith("https://") for server in servers):
        return values
    own = credentials.client(certificates)
    if own is None:
        return values
    files = {"etcd_cafile": own.authority, "etcd_certfile": own.certificate, "etcd_keyfile": own.key}
    return {**values, "etcd_servers": servers, **files}


def duration(text: str) -> float:
    """Seconds of a duration such as ``1m30s`` or ``2.5``; raises ValueError."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if len(text) > _DURATION_CHARS_MAX or not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no duration such as 30s or 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def _ttl(text: str) -> int:
    seconds = duration(text)
    if not 1 <= seconds <= 86400:
        raise ValueError(f"{text} is not between 1s and 24h")
    return round(seconds)


def _interval(text: str) -> float:
    seconds = duration(text)
    if not 0.1 <= seconds <= 3600:
        raise ValueError(f"{text} is not between 100ms and 1h")
    return seconds


def _endpoints(text: str) -> tuple[str, ...]:
    found = tuple(each.strip().strip("\"'") for each in text.strip().removeprefix("[").removesuffix("]").split(","))
    for each in found:
        parts = urlsplit(each)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{each!r} is no address such as http://127.0.0.1:2379")
    return found


def _listen(text: str) -> tuple[str, ...]:
    if text.strip().lower() == "none":
        return ()
    import ipaddress  # most nodes have no such setting

    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        try:
            parts = urlsplit(each)
            ipaddress.ip_address((parts.hostname or "").partition("%")[0])
            is_right = parts.scheme in ("http", "https") and parts.port != 0 and parts.path in ("", "/")
        except ValueError:
            is_right = False
        if not is_right:
            raise ValueError(f"{each[:80]!r} is neither none nor an address such as https://10.0.0.1:2378")
    return found


def _metadata(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if not pair.strip():
            continue
        if not equals or not key.strip():
            raise ValueError(f"{pair!r} is not key=value")
        found[key.strip()] = value.strip()
    return dict(sorted(found.items()))


def _truth(text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on", "t"):
        return True
    if text.lower() in ("false", "no", "0", "off", "f", ""):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _prefix(text: str) -> str:
    if not text.startswith("/") or len(text) < 2:
        raise ValueError(f"{text!r} does not begin with a slash")
    return text if text.endswith("/") else f"{text}/"


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "agent_ttl": _ttl,
    "api_listen": _listen,
    "disable_engine": _truth,
    "engine_reconcile_interval": _interval,
    "etcd_cafile": str,
    "etcd_certfile": str,
    "etcd_key_prefix": _prefix,
    "etcd_keyfile": str,
    "etcd_request_timeout": _interval,
    "etcd_servers": _endpoints,
    "metadata": _metadata,
    "public_ip": str,
    "units_directory": str,
    "verbosity": int,
}
NAMES: Sequence[str] = tuple(_PARSERS)
"""Settings that mean something."""
