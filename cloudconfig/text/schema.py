"""The keys of a cloud-config and the values that they become.

The keys are coreos-cloudinit's (``coreos.*``, write_files, users, hostname, ssh_authorized_keys, manage_etc_hosts) and
those of cloud-init's that make sense on an image, in their underscore spelling; the parser accepts hyphens too. etcd's
options are those of etcd 2 that etcd 3.5 still reads, plus what 3.5 added and a node may want.
"""

from __future__ import annotations

from typing import NamedTuple

WRITABLE = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/var")
"""The root of a node is read-only; these are the places that are not (/etc is an overlay, /home, /root, /opt and /srv
live under /var, /run is gone after a reboot)."""

CORE = "core"
"""The account that people log in with."""

# Kinds of plain values.
TEXT = "text"
BOOL = "true or false"
INT = "integer"
FLOAT = "number"

TOP = (
    "bootcmd",
    "ca_certs",
    "chpasswd",
    "coreos",
    "disk_setup",
    "docker",
    "final_message",
    "firewall",
    "flotilla",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "hostname",
    "locale",
    "manage_etc_hosts",
    "merge_how",
    "merge_type",
    "mount_default_fields",
    "mounts",
    "ntp",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_keys",
    "ssh_pwauth",
    "swap",
    "timezone",
    "users",
    "write_files",
)
# Keys of cloud-init that mean nothing here, or nothing yet.
_TOP_LATER = (
    "allow_public_ssh_keys apk_repos apt_pipelining byobu_by_default cc_ready_cmd cloud_config_modules "
    "cloud_final_modules cloud_init_modules "
    "datasource datasource_list device_aliases disable_ec2_metadata disable_root disable_root_opts drivers fan "
    "install_hotplug_kernel_modules "
    "keyboard landscape lxd manual_cache_clean mcollective no_ssh_fingerprints output random_seed reporting "
    "resize_rootfs "
    "resolv_conf rsyslog spacewalk ssh ssh_deletekeys ssh_fp_console_blacklist ssh_genkeytypes ssh_publish_hostkeys "
    "ssh_quiet_keygen "
    "ssh_redirect_user syslog_fix_perms system_info ubuntu_pro updates user vendor_data version wireguard"
)
TOP_LATER = frozenset(_TOP_LATER.split())
COREOS = ("etcd", "etcd2", "fleet", "units", "update")
COREOS_LATER = frozenset(("flannel", "locksmith", "oem"))
UNIT = ("name", "content", "enable", "runtime", "mask", "command", "drop_ins")
DROP_IN = ("name", "content")
WRITE_FILE = ("path", "content", "encoding", "permissions", "owner", "append", "defer", "source")
SOURCE = ("uri", "headers", "sha256")
USER = (
    "name",
    "expiredate",
    "gecos",
    "groups",
    "hashed_passwd",
    "homedir",
    "inactive",
    "lock_passwd",
    "no_create_home",
    "no_log_init",
    "no_user_group",
    "passwd",
    "plain_text_passwd",
    "primary_group",
    "shell",
    "ssh_authorized_keys",
    "sudo",
    "system",
    "uid",
)
_USER_LATER = (
    "coreos_ssh_import_github coreos_ssh_import_github_users coreos_ssh_import_url create_groups doas selinux_user "
    "snapuser ssh_redirect_user"
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
    "api_listen": TEXT,
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
    """One entry of write_files.

    ``content`` is decoded, ``mode`` are permission bits, ``owner`` is ``user`` or ``user:group``.

    With ``append``, mode None and owner "" are those of the file that is there. ``merge``: ``json`` and ``environment``
    (lines ``NAME=value``) put the content into what is there. Settings of other keys that become files are of this
    type, too.
    """

    path: str
    content: bytes
    mode: int | None
    owner: str
    at: str
    append: bool = False
    merge: str = ""


class Download(NamedTuple):
    """A file that comes from ``uri`` once there is a network, if its content has the hash ``sha256`` (hex)."""

    path: str
    uri: str
    sha256: str
    headers: tuple[tuple[str, str], ...]
    mode: int
    owner: str
    at: str


class User(NamedTuple):
    """One entry of users. Empty text and None: not set."""

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
    uid: str = ""
    expiredate: str = ""
    inactive: str = ""
    lock_passwd: bool = False


class Group(NamedTuple):
    """A group that must exist, and its members, in addition to existing ones."""

    name: str
    members: tuple[str, ...]
    at: str


class Password(NamedTuple):
    """A password of an account: a ``hash``, or ``plain`` text. ``expire``: it must be changed at the first login."""

    user: str
    hash: str
    plain: str
    expire: bool
    at: str


class Symlink(NamedTuple):
    """A symbolic link that a setting becomes."""

    path: str
    target: str
    at: str


class Command(NamedTuple):
    """A piece of shell text: an entry of bootcmd or runcmd."""

    text: str
    at: str


class Disk(NamedTuple):
    """What disk_setup or fs_setup does with a ``device``, as shell text, and its input ``files`` (path, content)."""

    device: str
    text: str
    at: str
    files: tuple[tuple[str, str], ...] = ()


class Need(NamedTuple):
    """Something that an image has or has not: a ``program`` (by name), a ``filesystem``, a ``zone`` of time, a
    ``locale``, a ``mountpoint``, a ``package``; or a key that is ``refused``. The host calls a missing one an error; a
    node skips it and reports that."""

    kind: str
    name: str
    at: str


class Firewall(NamedTuple):
    """The key firewall.

    ``cluster`` and ``nodes_only`` are addresses and networks, ``allow`` ports (``80``, ``53/udp``, ``8000-8100``)."""

    strict: bool = False
    cluster: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    nodes_only: tuple[str, ...] = ()


class Enrolment(NamedTuple):
    """The key flotilla.trust: which issuer gives the node its certificates, and the join secret for that.

    ``addresses`` are the node's own, none if it names none."""

    issuer: str
    fingerprint: str
    secret: str
    addresses: tuple[str, ...] = ()


class CloudConfig(NamedTuple):
    """A whole cloud-config. ``etcd`` and ``fleet`` hold (option, value as text) in the order of the text;
    ``phone_home`` is JSON, ``power_state`` shell text."""

    hostname: str = ""
    fqdn: str = ""
    ssh_authorized_keys: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    passwords: tuple[Password, ...] = ()
    write_files: tuple[WriteFile, ...] = ()
    links: tuple[Symlink, ...] = ()
    downloads: tuple[Download, ...] = ()
    manage_etc_hosts: str = ""
    etcd: tuple[tuple[str, str], ...] = ()
    fleet: tuple[tuple[str, str], ...] = ()
    units: tuple[Unit, ...] = ()
    reboot_strategy: str = ""
    bootcmd: tuple[Command, ...] = ()
    runcmd: tuple[Command, ...] = ()
    disks: tuple[Disk, ...] = ()
    phone_home: str = ""
    final_message: str = ""
    power_state: str = ""
    firewall: tuple[Firewall, ...] = ()
    enrolment: tuple[Enrolment, ...] = ()
    needs: tuple[Need, ...] = ()
