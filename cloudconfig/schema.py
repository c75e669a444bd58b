"""The keys of a cloud-config and the values that they become.

The keys are coreos-cloudinit's (``coreos.*``, write_files, users, hostname, ssh_authorized_keys, manage_etc_hosts), in their
underscore spelling; the parser accepts hyphens too. etcd's options are those of etcd 2 that etcd 3.5 still reads, plus what
3.5 added and a node may want.
"""

from __future__ import annotations

from typing import NamedTuple

# Kinds of plain values.
TEXT = "text"
BOOL = "true or false"
INT = "integer"
FLOAT = "number"

TOP = (
    "coreos",
    "hostname",
    "manage_etc_hosts",
    "merge_how",
    "merge_type",
    "ssh_authorized_keys",
    "users",
    "write_files",
)
# Keys of cloud-init and coreos-cloudinit that exist, but not (yet) on this image.
_TOP_LATER = (
    "apt bootcmd ca_certs chpasswd disk_setup final_message fqdn fs_setup groups growpart locale mounts ntp package_update "
    "package_upgrade packages password phone_home power_state preserve_hostname runcmd snap ssh_import_id ssh_keys "
    "ssh_pwauth swap timezone yum_repos"
)
TOP_LATER = frozenset(_TOP_LATER.split())
COREOS = ("etcd", "etcd2", "fleet", "units", "update")
COREOS_LATER = frozenset(("flannel", "locksmith", "oem"))
UNIT = ("name", "content", "enable", "runtime", "mask", "command", "drop_ins")
DROP_IN = ("name", "content")
WRITE_FILE = ("path", "content", "encoding", "permissions", "owner", "append")
USER = (
    "name",
    "gecos",
    "groups",
    "homedir",
    "no_create_home",
    "no_log_init",
    "no_user_group",
    "passwd",
    "primary_group",
    "shell",
    "ssh_authorized_keys",
    "system",
)
_USER_LATER = (
    "coreos_ssh_import_github coreos_ssh_import_github_users coreos_ssh_import_url doas expiredate hashed_passwd inactive "
    "lock_passwd plain_text_passwd selinux_user ssh_import_id sudo uid"
)
USER_LATER = frozenset(_USER_LATER.split())
UPDATE = ("group", "reboot_strategy", "server")
REBOOT_STRATEGIES = ("best-effort", "etcd-lock", "off", "reboot")
COMMANDS = (
    "start",
    "stop",
    "restart",
    "reload",
    "try-restart",
    "reload-or-restart",
    "reload-or-try-restart",
)
ENCODINGS = {
    "": (),
    "text/plain": (),
    "b64": ("b64",),
    "base64": ("b64",),
    "gz": ("gz",),
    "gzip": ("gz",),
    "gz+b64": ("b64", "gz"),
    "gz+base64": ("b64", "gz"),
    "gzip+b64": ("b64", "gz"),
    "gzip+base64": ("b64", "gz"),
}

ETCD = {
    "advertise_client_urls": TEXT,
    "auto_compaction_mode": TEXT,
    "auto_compaction_retention": TEXT,
    "ca_file": TEXT,
    "cert_file": TEXT,
    "client_cert_auth": BOOL,
    "cors": TEXT,
    "data_dir": TEXT,
    "debug": BOOL,
    "discovery": TEXT,
    "discovery_fallback": TEXT,
    "discovery_proxy": TEXT,
    "discovery_srv": TEXT,
    "election_timeout": INT,
    "enable_pprof": BOOL,
    "force_new_cluster": BOOL,
    "heartbeat_interval": INT,
    "initial_advertise_peer_urls": TEXT,
    "initial_cluster": TEXT,
    "initial_cluster_state": TEXT,
    "initial_cluster_token": TEXT,
    "key_file": TEXT,
    "listen_client_urls": TEXT,
    "listen_metrics_urls": TEXT,
    "listen_peer_urls": TEXT,
    "log_level": TEXT,
    "log_package_levels": TEXT,
    "max_request_bytes": INT,
    "max_snapshots": INT,
    "max_wals": INT,
    "metrics": TEXT,
    "name": TEXT,
    "peer_ca_file": TEXT,
    "peer_cert_file": TEXT,
    "peer_client_cert_auth": BOOL,
    "peer_key_file": TEXT,
    "peer_trusted_ca_file": TEXT,
    "proxy": TEXT,
    "proxy_dial_timeout": INT,
    "proxy_failure_wait": INT,
    "proxy_read_timeout": INT,
    "proxy_refresh_interval": INT,
    "proxy_write_timeout": INT,
    "quota_backend_bytes": INT,
    "snapshot_count": INT,
    "strict_reconfig_check": BOOL,
    "trusted_ca_file": TEXT,
    "wal_dir": TEXT,
}
# Still written out, but etcd 3.5 knows them no more: it logs "unrecognized environment variable".
ETCD_GONE = {
    "ca_file": "trusted_ca_file",
    "debug": "log_level: debug",
    "log_package_levels": "log_level",
    "peer_ca_file": "peer_trusted_ca_file",
}
# Options of etcd 0.4 that the section `etcd` once had, and what took their place.
ETCD_0_4 = {
    "addr": "advertise_client_urls",
    "bind_addr": "listen_client_urls",
    "cluster_active_size": "",
    "cluster_remove_delay": "",
    "cluster_sync_interval": "",
    "graphite_host": "",
    "http_read_timeout": "",
    "http_write_timeout": "",
    "max_result_buffer": "",
    "max_retry_attempts": "",
    "peer_addr": "initial_advertise_peer_urls",
    "peer_bind_addr": "listen_peer_urls",
    "peer_election_timeout": "election_timeout",
    "peer_heartbeat_interval": "heartbeat_interval",
    "peers": "initial_cluster",
    "peers_file": "initial_cluster",
    "retry_interval": "",
    "snapshot": "",
    "trace": "",
    "verbose": "log_level: debug",
    "very_verbose": "log_level: debug",
    "very_very_verbose": "log_level: debug",
}
FLEET = {
    "agent_ttl": TEXT,
    "authorized_keys_file": TEXT,
    "disable_engine": BOOL,
    "engine_reconcile_interval": FLOAT,
    "etcd_cafile": TEXT,
    "etcd_certfile": TEXT,
    "etcd_key_prefix": TEXT,
    "etcd_keyfile": TEXT,
    "etcd_password": TEXT,
    "etcd_request_timeout": FLOAT,
    "etcd_servers": TEXT,
    "etcd_username": TEXT,
    "metadata": TEXT,
    "public_ip": TEXT,
    "token_limit": INT,
    "verbosity": INT,
    "verify_units": BOOL,
}


class DropIn(NamedTuple):
    """A fragment ``name`` (ends in .conf) of a unit; ``at`` is its key path."""

    name: str
    content: str
    at: str


class Unit(NamedTuple):
    """One entry of coreos.units. ``content`` None: the image has the unit. ``command`` "" : nothing is started."""

    name: str
    content: str | None
    enable: bool
    runtime: bool
    mask: bool
    command: str
    drop_ins: tuple[DropIn, ...]
    at: str


class WriteFile(NamedTuple):
    """One entry of write_files; ``content`` is decoded, ``mode`` are permission bits, ``owner`` is ``user`` or ``user:group``.

    With ``append``, mode None and owner "" are those of the file that is there.
    """

    path: str
    content: bytes
    mode: int | None
    owner: str
    at: str
    append: bool = False


class User(NamedTuple):
    """One entry of users. Empty text and None: not said."""

    name: str
    passwd: str
    groups: tuple[str, ...]
    primary_group: str
    shell: str
    homedir: str
    gecos: str
    system: bool
    no_create_home: bool
    no_user_group: bool
    no_log_init: bool
    ssh_authorized_keys: tuple[str, ...]
    at: str


class CloudConfig(NamedTuple):
    """A whole cloud-config. ``etcd`` and ``fleet`` hold (option, value as text) in the order of the text."""

    hostname: str = ""
    ssh_authorized_keys: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    write_files: tuple[WriteFile, ...] = ()
    manage_etc_hosts: str = ""
    etcd: tuple[tuple[str, str], ...] = ()
    fleet: tuple[tuple[str, str], ...] = ()
    units: tuple[Unit, ...] = ()
    reboot_strategy: str = ""
