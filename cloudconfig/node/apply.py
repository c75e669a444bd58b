"""Applies a node's user-data. Runs as root, early at boot, once at each boot.

In order: host name and SSH keys are applied independently of all errors; everything is checked and planned; accounts
are made; all files and links are staged and renamed together, and the rest of a former plan is removed with them;
systemd reloads if a unit changed; commands are queued, never waited for: apply runs before the services that they
start, so it would wait for itself.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from cloudconfig.check import validate
from cloudconfig.node import accounts, datasource, guard, manifest, merging, salvage, status
from cloudconfig.node.machine import Machine
from cloudconfig.node.manifest import Manifest
from cloudconfig.node.request import Request, instance_names, judge, network_files, placed, static_addresses, texts_of
from cloudconfig.node.rooted import Root, RootedError, Staging
from cloudconfig.node.status import Status, Trouble
from cloudconfig.plan import plan
from cloudconfig.text import addresses, refused, userdata
from cloudconfig.text.finding import errors
from cloudconfig.text.schema import CORE, CloudConfig, Need, User, WriteFile
from cloudconfig.text.userdata import Part
from terminal import Failure
from unitfile.name import is_network

T = TypeVar("T")

SCRIPTS = f"{manifest.FOLDER}/scripts"
ONLINE_UNIT = "cloudconfig-online.service"
SCRIPT_UNIT = "cloudconfig-script"
RAN = "/run/cloudconfig/ran"
"""Scripts of each boot that this boot has queued, by hash: an apply by hand does not run them again."""
_ONCE = "once:"
NETWORK = "network-config"
DPKG_STATUS = "/usr/share/flotilla/dpkg-status"
_UNIT_FOLDERS = ("/etc/systemd/system.conf.d/", "/etc/systemd/system/", "/run/systemd/system/")
_NETWORK_FOLDERS = ("/etc/systemd/network/", "/run/systemd/network/")
FIREWALL_UNIT = "firewall.service"
_FIREWALL_LOADED = "/run/firewall"  # its RuntimeDirectory: at boot it comes after us
_BEGIN = "# cloudconfig: begin (this part is rewritten at every boot)"
_END = "# cloudconfig: end"


def apply(
    source: str,
    root_path: str,
    machine: Machine,
    clock: Callable[[], float] = time.monotonic,
    *,
    online: bool = True,
) -> Status:
    """Apply the user-data of the datasource ``source`` (not auto) under ``root_path``; write and return its status.

    If it takes a network and we are not ``online`` yet, a unit is queued that does it all later; then there is no
    status file.

    Raises Failure only if not even the status could be written.
    """
    begin = clock()
    root = Root(root_path)
    try:
        troubles: list[Trouble] = []
        guard.attempt(partial(root.remove, status.PATH), troubles.append)
        outcome = guard.attempt(partial(_applied, source, root, machine, online), troubles.append)
        if outcome is None:
            outcome = Status(status.FAILED, source, errors=tuple(troubles))
        if outcome.result == status.DEFERRED:
            machine.run(("systemctl", "--no-block", "start", ONLINE_UNIT))
            return outcome
        outcome = outcome._replace(seconds=round(clock() - begin, 3))
        with Staging(root) as staging:
            staging.file(status.PATH, outcome.as_json().encode(), 0o644, *staging.own)
            staging.commit()
        return outcome
    finally:
        root.close()


def _applied(source: str, root: Root, machine: Machine, online: bool) -> Status:
    try:
        seed = datasource.fetch(source, online=online)
    except datasource.OfflineError:
        return Status(status.DEFERRED, source)
    return Status(status.NONE, source) if seed is None else _Apply(seed, root, machine, online=online).run()


class _Apply:
    """One run."""

    def __init__(self, seed: datasource.Seed, root: Root, machine: Machine, *, online: bool) -> None:
        self._online = online
        self._late_environment = False
        self._is_deferred = False
        self._addresses: dict[str, str] = {}
        self._seed = seed
        self._root = root
        self._machine = machine
        self._changed: list[str] = []
        self._troubles: list[Trouble] = []
        self._texts: tuple[str, ...] | None = None
        self._is_named = False
        self._keyed: set[str] = set()

    def run(self) -> Status:
        """Apply everything.

        After any error, foreseen or not, host name and keys of accounts that can repair the node."""
        seed, digest = self._seed, None
        request = self._attempt(self._read)
        if self._is_deferred:
            # Now what is needed for the network; everything once the addresses are known.
            if request is None or request.troubles:
                self._attempt(self._rescue)
            else:
                self._attempt(partial(self._essentials, request.config))
                self._attempt(partial(self._network, request))
            return Status(status.DEFERRED, seed.source)
        self._troubles.extend(seed.damage)
        if request is not None:
            self._troubles.extend(request.troubles)
            digest = self._attempt(partial(self._judged, request))
        if digest is None:
            self._attempt(self._rescue)
        elif request is not None and self._troubles:
            # Try the failed essentials once more: the memory of the rest is free again.
            self._attempt(partial(self._essentials, request.config))
        warnings = self._attempt(partial(self._warnings, request)) if request is not None else None
        result = status.DONE
        if self._troubles:
            result = status.DEGRADED if digest is not None or self._is_named or self._keyed else status.FAILED
        return Status(
            result,
            seed.source,
            seed.instance_id,
            digest or "",
            tuple(sorted(set(self._changed))),
            tuple(dict.fromkeys(self._troubles)),
            warnings=warnings or (),
        )

    def _read(self) -> Request:
        """The request in user-data. Raises Failure."""
        contents = userdata.read(self._seed.user_data, partial(instance_names, self._seed))
        self._texts = texts_of(contents)
        self._learn_addresses([part.text for part in contents.parts])
        replaced = (part._replace(text=addresses.substitute(part.text, self._addresses)) for part in contents.parts)
        contents = contents._replace(parts=tuple(replaced))
        self._texts = texts_of(contents)
        return judge(contents)

    def _judged(self, request: Request) -> str | None:
        """Apply the request; return the plan's hash, None if something is wrong with the request. Raises Failure."""
        seed = self._seed
        files, findings = guard.attempt(partial(network_files, seed.network), self._troubles.append) or ((), ())
        # A broken network-config does not affect the rest: cards then use DHCP.
        self._troubles.extend(Trouble(f"{NETWORK} {one.path}".strip(), placed(one)) for one in errors(findings))
        # A broken cloud-config has been reported already; meta-data is checked only here.
        for where, problem in (
            ("local-hostname", validate.hostname_problem(seed.hostname) if seed.hostname else ""),
            ("public-keys", next(filter(None, map(validate.ssh_key_problem, seed.keys)), "")),
        ):
            if problem:
                self._troubles.append(Trouble(f"meta-data {where}", problem))
        if request.troubles or seed.damage:
            return None
        self._essentials(request.config)
        return self._rest(
            request._replace(config=request.config._replace(write_files=(*request.config.write_files, *files)))
        )

    def _rescue(self) -> None:
        """Apply the essentials when the rest is not applied.

        These are host name, core's keys, and accounts that may sudo with their keys; each by itself, if it is not there
        yet."""
        texts = salvage.readable(self._seed.user_data) if self._texts is None else self._texts
        config = self._attempt(partial(salvage.essentials, texts)) or CloudConfig()
        self._essentials(config)
        for user in config.users:
            if user.name not in self._keyed:
                self._attempt(partial(self._admin, user))

    def _admin(self, user: User) -> None:
        keys = self._usable(user.ssh_authorized_keys)
        if not keys or validate.account_problem(user.name):
            return
        known = accounts.read(self._root)
        if user.name not in known.users:
            groups = tuple(group for group in user.groups if group in known.groups)
            shell = user.shell if user.shell and self._root.status(user.shell) else ""
            # As little of the rest of the entry as possible, since it may be wrong.
            plain = user._replace(groups=groups, shell=shell, gecos="", homedir="", primary_group="", passwd="", uid="")
            plain = plain._replace(system=False, no_create_home=False, no_user_group=False, expiredate="", inactive="")
            accounts.add(self._machine, plain, has_group=user.name in known.groups)
        self._keys(user.name, keys)

    def _warnings(self, request: Request) -> tuple[Trouble, ...]:
        notes = (Trouble("", note) for note in self._seed.notes)
        return (*notes, *request.warnings, *self._unmet(request.config.needs))

    def _unmet(self, needs: tuple[Need, ...]) -> list[Trouble]:
        """Those of ``needs`` that no node meets, with what to do instead."""
        found = [Trouble(need.at, refused.INSTEAD[need.name]) for need in needs if need.kind == "refused"]
        packages = [need for need in needs if need.kind == "package"]
        if packages:
            lines = frozenset((self._root.read(DPKG_STATUS) or b"").decode("utf-8", "replace").splitlines())
            missing = [need for need in packages if f"Package: {need.name}" not in lines]
            found += [Trouble(need.at, refused.INSTEAD["packages"]) for need in missing]
        return found

    def _learn_addresses(self, texts: list[str]) -> None:
        """Find the addresses that ``texts`` use, or note that they need a network, and that there is none yet.

        Raises Failure."""
        names = frozenset[str]().union(*map(addresses.used, texts))
        if not names and not any(map(addresses.wants_environment, texts)):
            return
        known = {**static_addresses(texts, self._seed.network), **dict(self._seed.addresses)}
        if self._online:
            self._addresses = self._machine.addresses(names, known)
        elif names <= known.keys() and (known or not any(map(addresses.mentions_environment, texts))):
            self._addresses = addresses.complete(known)
            self._late_environment = not known
        else:
            self._addresses = known
            self._is_deferred = True

    def _network(self, request: Request) -> None:
        """The files of networkd that are certain already, beside all that a former plan left."""
        units = tuple(
            unit for unit in request.config.units if is_network(unit.name) and not addresses.used(unit.content or "")
        )
        files = tuple(file for file in request.config.write_files if file.at == NETWORK)
        if request.troubles or not (units or files):
            return
        try:
            self._files(plan.make(CloudConfig(units=units, write_files=files)), "", is_part=True)
        except Failure:
            return  # everything is tried soon, and reports the error

    def _essentials(self, config: CloudConfig) -> None:
        """Set host name and keys of core, if they are not there. A failure of one does not affect the other."""
        if not self._is_named:
            self._attempt(partial(self._hostname, config.hostname))
        if CORE not in self._keyed:
            self._attempt(partial(self._core, config))

    def _usable(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Those that are keys; also those for which our own check fails, since a missing key locks users out."""
        judged = ((key, self._attempt(partial(validate.ssh_key_problem, key))) for key in dict.fromkeys(keys))
        return tuple(key for key, problem in judged if not problem)

    def _core(self, config: CloudConfig) -> None:
        own = (key for user in config.users if user.name == CORE for key in user.ssh_authorized_keys)
        usable = self._usable((*config.ssh_authorized_keys, *own, *self._seed.keys))
        # A damaged text without keys does not request to have none: those of the last boot stay, so that a user can log
        # in and repair it.
        if usable or not self._troubles:
            self._keys(CORE, usable)

    def _hostname(self, wanted: str) -> None:
        names = (name for name in (wanted, self._seed.hostname) if name and not validate.hostname_problem(name))
        name = next(names, "")
        if not name:
            return
        with Staging(self._root) as staging:
            staging.file("/etc/hostname", f"{name}\n".encode(), 0o644, *staging.own)
            self._commit(staging)
        self._machine.set_hostname(name)
        self._is_named = True

    def _keys(self, user: str, keys: tuple[str, ...]) -> None:
        self._write_keys(user, keys)
        self._keyed.add(user)

    def _write_keys(self, user: str, keys: tuple[str, ...]) -> None:
        """Our part of the user's authorized_keys; what the user wrote around it stays."""
        entry = accounts.read(self._root).users.get(user)
        if entry is None:
            if keys:
                raise Failure(f"no account is called {user}", where="ssh_authorized_keys")
            return
        folder = f"{entry.home}/.ssh"
        path = f"{folder}/authorized_keys"
        old = (self._root.read(path, uid=entry.uid) or b"").decode("utf-8", "replace")
        text = authorized_keys(old, keys)
        if not text and not old:
            return
        with Staging(self._root) as staging:
            staging.folder(entry.home, 0o700, entry.uid, entry.gid)
            staging.folder(folder, 0o700, entry.uid, entry.gid)
            staging.file(path, text.encode(), 0o600, entry.uid, entry.gid)
            self._commit(staging)

    def _rest(self, request: Request) -> str:
        """All but the essentials, all or nothing as far as files go. Returns the plan's hash. Raises Failure."""
        config = request.config
        if self._addresses and not any(file.path == addresses.ENVIRONMENT for file in config.write_files):
            text = addresses.environment(self._addresses).encode()
            file = WriteFile(addresses.ENVIRONMENT, text, None, "", addresses.ENVIRONMENT, merge=merging.ENVIRONMENT)
            config = config._replace(write_files=(*config.write_files, file))
        made = plan.make(config, plan.Facts(config.hostname or self._seed.hostname, self._installed))
        digest = made.sha256()
        self._accounts(made)
        former = manifest.read(self._root).users
        self._files(made, digest)
        for user, keys in (*((user, ()) for user in former if user not in dict(made.keys)), *made.keys):
            if user != CORE:
                self._attempt(partial(self._keys, user, keys))
        if any(path.startswith(_UNIT_FOLDERS) for path in self._changed):
            self._attempt(partial(self._machine.run, ("systemctl", "daemon-reload")))
        if any(path.startswith(_NETWORK_FOLDERS) for path in self._changed) and self._networkd_runs():
            self._attempt(partial(self._machine.run, ("networkctl", "reload")))
        if plan.FIREWALL in self._changed and self._root.status(_FIREWALL_LOADED):
            self._attempt(partial(self._machine.run, ("systemctl", "--no-block", "restart", FIREWALL_UNIT)))
        self._scripts(request.scripts, hooks=True)
        for verb, unit in made.commands:
            self._attempt(partial(self._machine.run, ("systemctl", "--no-block", verb, unit)))
        self._scripts(request.scripts, hooks=False)
        if made.final:
            from cloudconfig.text import stages

            part = Part(userdata.SCRIPT, made.final)
            properties = ("--property=Type=oneshot", f"--property=After={stages.FINAL_AFTER}")
            self._attempt(partial(self._script, part, "final", stages.FINAL_UNIT, properties))
        if self._late_environment:
            job = ("systemd-run", "--no-block", "--collect", "--unit=cloudconfig-environment")
            self._attempt(partial(self._machine.run, (*job, "/usr/bin/cloudconfig", "environment")))
        return digest

    def _accounts(self, made: plan.Plan) -> None:
        roster = accounts.Roster(made.accounts, made.groups, made.passwords)
        if roster == accounts.Roster(()):
            return
        written = {file.path for file in made.files}
        for path, _shell in roster.shell_problems(lambda shell: shell in written or self._there(shell)):
            raise Failure("there is no such shell; without a shell the account cannot log in", where=path)
        accounts.apply(self._root, roster, self._machine)

    def _there(self, path: str) -> bool:
        try:
            return self._root.status(path) is not None
        except RootedError:
            return False

    def _files(self, made: plan.Plan, digest: str, *, is_part: bool = False) -> None:
        """Write the files and links of ``made``.

        What a former plan wrote and this one does not is removed, unless it ``is_part`` of a plan."""
        known = accounts.read(self._root)
        old = manifest.read(self._root)
        entries: dict[str, manifest.Entry] = {}
        with Staging(self._root) as staging:
            staging.folder(manifest.FOLDER, 0o700, *staging.own)
            for planned in made.files:
                file, mode = self._whole(planned, old)
                try:
                    uid, gid = known.owner(file.owner)
                except Failure as failure:
                    where = file.key.removesuffix("path") + "owner"
                    raise Failure(failure.message, where=where, hint=failure.hint) from failure
                entries[file.path] = manifest.claim(self._root, staging, old, file)
                staging.file(file.path, file.content, mode, uid, gid)
            for link in made.links:
                entries[link.path] = manifest.claim(self._root, staging, old, link)
                staging.link(link.path, link.target)
            gone = [path for path in old.entries if path not in entries and not is_part]
            for path in gone:
                manifest.release(self._root, staging, path, old.entries[path])
            same = old.instance_id == self._seed.instance_id
            users = tuple(user for user, _keys in made.keys)
            ran = tuple(one for one in old.scripts if same or one.startswith(_ONCE))
            record = Manifest(digest, self._seed.instance_id, ran, users, entries)
            # First the record of both, then the change, then the record of the new: a power cut in between loses track
            # of nothing.
            if is_part:
                record = old._replace(entries={**old.entries, **entries})
            both = tuple(dict.fromkeys((*old.users, *users)))
            self._record(record._replace(users=both, entries={**old.entries, **entries}))
            self._commit(staging)
        self._record(record)

    def _whole(self, file: plan.File, old: Manifest) -> tuple[plan.File, int]:
        """``file`` with what it is appended to, if it is, and its mode."""
        found = manifest.original(self._root, old, file.path) if file.append or file.merge else None
        content, mode, owner = found or (b"", 0o644, "root:root")
        if file.merge:
            try:
                whole = merging.merge(file.merge, content, file.content)
            except Failure as failure:
                raise Failure(failure.message, where=file.path) from failure
        else:
            whole = content + file.content
        file = file._replace(content=whole, owner=file.owner or owner)
        return file, mode if file.mode is None else file.mode

    def _scripts(self, scripts: tuple[Part, ...], hooks: bool) -> None:
        """Queue each script of user-data as a unit of its own; nothing waits for it.

        Boothooks are queued before anything else."""
        for number, part in enumerate(scripts, 1):
            if (part.when == userdata.HOOK) == hooks:
                unit = SCRIPT_UNIT if number == 1 else f"{SCRIPT_UNIT}-{number}"
                self._attempt(partial(self._script, part, f"user-data-{number}", unit))

    def _script(self, part: Part, name: str, unit: str, properties: tuple[str, ...] = ()) -> None:
        record = manifest.read(self._root)
        digest = hashlib.sha256(part.text.encode()).hexdigest()
        each_boot = part.when in (userdata.HOOK, userdata.BOOT)
        mark = f"{RAN}/{digest}"
        if part.when == userdata.ONCE:
            digest = _ONCE + digest
        if self._root.status(mark) if each_boot else digest in record.scripts:
            return
        path = f"{SCRIPTS}/{name}"
        with Staging(self._root) as staging:
            staging.folder(SCRIPTS, 0o700, *staging.own)
            staging.file(path, part.text.encode(), 0o700, *staging.own)
            self._commit(staging)
        # A boothook does not wait until the system is up: it prepares it.
        early = ("--property=DefaultDependencies=no",) if part.when == userdata.HOOK else ()
        options = (*early, f"--unit={unit}", *properties)
        self._machine.run(("systemd-run", "--no-block", "--collect", *options, path))
        # Noted after it was queued: a power cut in between runs it again rather than never.
        if each_boot:
            with Staging(self._root) as staging:
                staging.folder(RAN, 0o700, *staging.own)
                staging.file(mark, b"", 0o600, *staging.own)
                staging.commit()
        else:
            self._record(record._replace(scripts=(*record.scripts, digest)))

    def _record(self, record: Manifest) -> None:
        with Staging(self._root) as staging:
            staging.folder(manifest.FOLDER, 0o700, *staging.own)
            staging.file(manifest.PATH, record.as_json(), 0o600, *staging.own)
            staging.commit()

    def _installed(self, name: str) -> str | None:
        content = self._root.read(f"{plan.IMAGE_UNITS}/{name}")
        return None if content is None else content.decode("utf-8", "replace")

    def _networkd_runs(self) -> bool:
        # At boot we come first, and networkd reads all files when it starts.
        return self._root.status("/run/systemd/netif/state") is not None

    def _commit(self, staging: Staging) -> None:
        paths = staging.paths
        staging.commit()
        self._changed.extend(path for path in paths if not path.startswith(manifest.FOLDER + "/"))

    def _attempt(self, step: Callable[[], T]) -> T | None:
        """Run one of several independent steps: an error is recorded, the next is tried."""
        return guard.attempt(step, self._troubles.append)


def environment(root_path: str, machine: Machine) -> None:
    """Put the machine's addresses into /etc/environment, once it has one. Raises Failure."""
    values = machine.addresses(("private_ipv4",), {})
    root = Root(root_path)
    try:
        old = root.read(addresses.ENVIRONMENT) or b""
        with Staging(root) as staging:
            text = merging.merge(merging.ENVIRONMENT, old, addresses.environment(values).encode())
            staging.file(addresses.ENVIRONMENT, text, 0o644, *staging.own)
            staging.commit()
    finally:
        root.close()


def authorized_keys(old: str, keys: tuple[str, ...]) -> str:
    """``old`` with our part replaced by ``keys``: between two marker lines, after what the user wrote."""
    kept: list[str] = []
    ours = False
    for line in old.splitlines():
        if line == _BEGIN:
            ours = True
        elif line == _END:
            ours = False
        elif not ours:
            kept.append(line)
    lines = [*kept, *((_BEGIN, *keys, _END) if keys else ())]
    return "\n".join(lines) + "\n" if lines else ""
