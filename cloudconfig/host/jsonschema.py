"""The JSON schema of a cloud-config, for editors: made from the parser's keys, so that it knows no others.

Draft 2020-12. Editors complete and explain keys with it; what it cannot check (is there such a group?),
``cloudconfig validate`` does.
"""

from __future__ import annotations

import json
from typing import Any

from cloudconfig.text import refused, schema

ID = "user-data.schema.json"
_TEXT: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_BOOL: dict[str, Any] = {"enum": [True, False, "true", "false", "yes", "no", "on", "off"]}
_NUMBER: dict[str, Any] = {"type": ["integer", "number", "string"]}
_WORDS: dict[str, Any] = {"type": "array", "items": _TEXT}
_COMMANDS: dict[str, Any] = {
    "type": "array",
    "items": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _TEXT}]},
}
_MERGE: dict[str, Any] = {
    "type": ["string", "array"],
    "description": "how this part is merged into those before: list(append)+dict()+str()",
}
_OF_KIND = {schema.TEXT: _TEXT, schema.BOOL: _BOOL, schema.INT: _NUMBER, schema.FLOAT: _NUMBER}


def _struct(fields: dict[str, dict[str, Any]], required: tuple[str, ...] = (), description: str = "") -> dict[str, Any]:
    """A mapping with these keys, each spelt with underscores or hyphens; any other key is an error."""
    properties: dict[str, Any] = {}
    for name, value in fields.items():
        properties[name] = value
        if "_" in name:
            properties[name.replace("_", "-")] = value
    whole: dict[str, Any] = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    if required:
        whole["required"] = list(required)
    return whole | ({"description": description} if description else {})


def _list(item: dict[str, Any], description: str = "") -> dict[str, Any]:
    return {"type": ["array", "null"], "items": item} | ({"description": description} if description else {})


def _text(description: str) -> dict[str, Any]:
    return _TEXT | {"description": description}


def _user() -> dict[str, Any]:
    special = {
        "groups": {"anyOf": [_TEXT, _WORDS], "description": "supplementary groups; missing ones are made"},
        "sudo": {
            "anyOf": [{"type": ["string", "boolean", "null"]}, _WORDS],
            "description": "rules of sudoers: ALL=(ALL) NOPASSWD:ALL",
        },
        "ssh_authorized_keys": _WORDS | {"description": "lines of .pub files"},
        "passwd": _text("a hash: mkpasswd --method=yescrypt"),
        "shell": _text("a program of the image: /bin/bash"),
        **dict.fromkeys(("lock_passwd", "no_create_home", "no_log_init", "no_user_group", "system"), _BOOL),
    }
    return _struct({name: special.get(name, _TEXT) for name in schema.USER}, ("name",))


def _write_file() -> dict[str, Any]:
    source = _struct(
        {
            "uri": _text("http or https"),
            "headers": {"type": "object"},
            "sha256": _text("of the content, in hexadecimal"),
        },
        ("uri", "sha256"),
        "fetched once there is a network",
    )
    special = {
        "append": _BOOL,
        "defer": _BOOL,
        "source": source,
        "encoding": {"enum": sorted(name for name in schema.ENCODINGS if name)},
        "permissions": _text("octal: '0644'"),
        "owner": _text("user or user:group"),
    }
    return _struct({name: special.get(name, _TEXT) for name in schema.WRITE_FILE}, ("path",))


def _coreos() -> dict[str, Any]:
    drop_in = _struct(dict.fromkeys(schema.DROP_IN, _TEXT), ("name", "content"))
    unit = {
        **dict.fromkeys(("enable", "mask", "runtime"), _BOOL),
        "command": {"enum": list(schema.COMMANDS)},
        "drop_ins": _list(drop_in),
    }
    etcd = _struct({name: _OF_KIND[kind] for name, kind in schema.ETCD.items()}, (), "options of etcd")
    return _struct(
        {
            "etcd": etcd,
            "etcd2": etcd,
            "fleet": _struct({name: _OF_KIND[kind] for name, kind in schema.FLEET.items()}, (), "options of fleet"),
            "units": _list(
                _struct({name: unit.get(name, _TEXT) for name in schema.UNIT}, ("name",)), "units and files of networkd"
            ),
            "update": _struct(
                {"group": _TEXT, "server": _TEXT, "reboot_strategy": {"enum": [*schema.REBOOT_STRATEGIES, False]}}
            ),
        }
    )


def _others() -> dict[str, dict[str, Any]]:
    """cloud-init's keys."""
    account = _struct({"name": _TEXT, "password": _TEXT, "type": {"enum": ["hash", "text"]}}, ("name", "password"))
    credential = _struct(
        dict.fromkeys(("registry", "username", "password"), _TEXT), ("registry", "username", "password")
    )
    device: dict[str, dict[str, Any]] = {
        "table_type": {"enum": ["gpt"]},
        "layout": {"anyOf": [_BOOL, {"type": "array"}]},
        "overwrite": _BOOL,
    }
    filesystem: dict[str, dict[str, Any]] = {
        **dict.fromkeys(("device", "filesystem", "label", "partition"), _TEXT),
        "extra_opts": {"anyOf": [_TEXT, _WORDS]},
        "overwrite": _BOOL,
    }
    words: dict[str, Any] = {"anyOf": [_TEXT, _WORDS]}
    firewall = _struct(
        {"mode": {"enum": ["open", "strict"]}, **dict.fromkeys(("cluster", "allow", "nodes_only"), words)}
    )
    keys = [f"{type_}_{part}" for type_ in ("rsa", "ecdsa", "ed25519") for part in ("private", "public", "certificate")]
    return {
        "bootcmd": _COMMANDS | {"description": "at each boot, before the services"},
        "ca_certs": _struct({"trusted": _WORDS, "remove_defaults": _BOOL}, (), "certificates to trust, in PEM"),
        "chpasswd": _struct({"expire": _BOOL, "list": {"anyOf": [_TEXT, _WORDS]}, "users": _list(account)}),
        "disk_setup": {
            "type": "object",
            "additionalProperties": _struct(device),
            "description": "a GPT on an empty disk",
        },
        "docker": _struct(
            {"registry_mirrors": _WORDS, "insecure_registries": _WORDS, "credentials": _list(credential)},
            (),
            "docker's registries",
        ),
        "final_message": _text("said on the console at the end; $uptime, $timestamp"),
        "firewall": {
            "anyOf": [{"enum": ["open", "strict"]}, firewall],
            "description": "strict: what units publish or bind is closed but for allow (80, 53/udp, 8000-8100); cluster: who is of the cluster",
        },
        "flotilla": _struct(
            {
                "trust": _struct(
                    {
                        "issuer": _text("https://HOST:7380, as 'trust serve' prints it"),
                        "fingerprint": _text("of the issuer's authority, as 'trust serve' prints it"),
                        "secret": _text("a join secret: 'trust secret new'"),
                        "addresses": _WORDS | {"description": "of the node, for its certificates: $private_ipv4"},
                    },
                    ("issuer", "fingerprint", "secret"),
                    "the node gets its certificates from an issuer, and renews them",
                )
            },
            (),
            "ours",
        ),
        "fqdn": _text("the host name with its domain"),
        "fs_setup": _list(_struct(filesystem, ("device", "filesystem")), "file systems on disks that have none"),
        "groups": {"type": ["array", "object", "string", "null"], "description": "names, or name: [members]"},
        "growpart": {"type": ["object", "null"], "description": "done in any case"},
        "locale": _text("C.UTF-8"),
        "merge_how": _MERGE,
        "merge_type": _MERGE,
        "mount_default_fields": {"type": "array"},
        "mounts": _list(
            {"type": "array", "items": {"type": ["string", "number", "null"]}}, "[device, place, type, options]"
        ),
        "ntp": _struct(
            {
                "enabled": _BOOL,
                "servers": _WORDS,
                "pools": _WORDS,
                "ntp_client": _TEXT,
                "peers": _WORDS,
                "allow": _WORDS,
            }
        ),
        "password": _text("of core: a hash"),
        "phone_home": _struct({"url": _TEXT, "tries": _NUMBER, "post": {"anyOf": [_TEXT, _WORDS]}}, ("url",)),
        "power_state": _struct(
            {
                "mode": {"enum": ["poweroff", "reboot", "halt"]},
                **dict.fromkeys(("delay", "message", "timeout"), _TEXT),
                "condition": {"type": ["boolean", "string", "array"]},
            },
            ("mode",),
        ),
        "prefer_fqdn_over_hostname": _BOOL,
        "preserve_hostname": _BOOL,
        "runcmd": _COMMANDS | {"description": "once for an instance, after the services, with a network"},
        "ssh_keys": _struct(dict.fromkeys(keys, _TEXT), (), "the host's own keys"),
        "ssh_pwauth": _text("true lets passwords in"),
        "swap": _struct({"filename": _TEXT, "size": _NUMBER, "maxsize": _NUMBER}),
        "timezone": _text("Etc/UTC"),
    }


def schema_of_user_data() -> dict[str, Any]:
    """The whole schema."""
    top = {
        **_others(),
        "coreos": _coreos(),
        "hostname": _text("the name of the machine"),
        "manage_etc_hosts": {
            "enum": [True, False, "localhost", "template"],
            "description": "true and localhost: /etc/hosts with the host name",
        },
        "ssh_authorized_keys": _WORDS | {"description": "who may log in as core: lines of .pub files"},
        "users": _list({"anyOf": [{"const": "default"}, _user()]}, "accounts"),
        "write_files": _list(_write_file(), "files below /etc, /home, /opt, /root, /run, /srv, /var"),
    }
    whole = _struct({name: top[name] for name in sorted(top)})
    for name, text in sorted(refused.INSTEAD.items()):
        whole["properties"][name] = {"deprecated": True, "description": text}
    # 'validate' reports everything, including unknown keys; so does an editor, also for keys that begin like other
    # keys.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "User-data of a Flotilla node",
        **whole,
    }


def text() -> str:
    """The file docs/user-data.schema.json."""
    return json.dumps(schema_of_user_data(), indent=1, sort_keys=False) + "\n"
