"""A machine's presence in the cluster: its key, its lease, and other claims to the same id."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from etcd.errors import EtcdError
from etcd.protocol import Compare, KeyValue, Op
from fleet.model import codec
from fleet.model.entities import Machine
from fleet.model.registry import Registry
from terminal import Failure

_LOG = logging.getLogger(__name__)


class DuplicateMachine(Failure):
    """Another machine that is alive has this machine's id."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A valid registration: the lease to write under, and the create revision of the machine's key as a fence."""

    lease: int
    fence: int


class Registration:
    """Keeps ``machines/<id>`` alive under a lease of ``ttl_s`` seconds, renewed after each third of it.

    The key is only ever created, never taken over, with one exception: a key that this same boot of this machine made,
    so that a restarted daemon continues with the lease of the one before it, without any visible effect.
    """

    def __init__(self, registry: Registry, machine: Machine, *, ttl_s: int) -> None:
        self.presence: Presence | None = None
        self.renew_at = 0.0
        self._registry = registry
        self._client = registry.client
        self._machine = machine
        self._key = registry.key_machine(machine.id)
        self._ttl_s = ttl_s
        self._is_stale = False  # the key says what this machine was

    def become(self, machine: Machine) -> None:
        """This machine has another address or other metadata; the next :meth:`keep` says so."""
        self._is_stale = self._is_stale or machine != self._machine
        self._machine = machine

    def keep(self, now: float) -> Presence:
        """Renew or make the registration; returns the same object as before when it is still valid.

        Raises :class:`DuplicateMachine` while another machine has the id, and as the client does.
        """
        if self.presence is not None and now >= self.renew_at:
            if self._client.lease_keepalive(self.presence.lease) > 0:
                self.renew_at = now + self._ttl_s / 3
            else:
                _LOG.warning("this machine's lease has run out: it was out of touch for more than %d s", self._ttl_s)
                self.presence = None
        if self.presence is None:
            self.presence = self._make()
            self.renew_at = now + self._ttl_s / 3
        elif self._is_stale:
            self._rewrite(self.presence)
        self._is_stale = False
        return self.presence

    def drop(self) -> None:
        """The registration is gone; the next :meth:`keep` makes it again."""
        self.presence = None

    def leave(self) -> None:
        """End the lease, and with it all that this machine has said: the cluster need not wait for its end."""
        if self.presence is None:
            return
        try:
            self._client.lease_revoke(self.presence.lease)
        except EtcdError as error:
            _LOG.warning("this machine's lease runs out by itself: %s", error.on_one_line)
        self.presence = None

    def is_intact(self) -> bool:
        """Check that the key still exists, has the right value, and is under this registration's lease."""
        found = self._client.get(self._key)
        if self.presence is None or found is None:
            return False
        is_ours = found.create_revision == self.presence.fence and found.lease == self.presence.lease
        return is_ours and self._registry.decoded(found, codec.machine) == self._machine

    def _make(self) -> Presence:
        found = self._client.get(self._key)
        if found is None:
            return self._put(None)
        known = self._registry.decoded(found, codec.machine)
        is_mine = known is not None and known.boot == self._machine.boot
        if is_mine and found.lease and self._client.lease_keepalive(found.lease) > 0:
            return self._adopt(found, known)
        if is_mine or not found.lease:
            # Made by an earlier daemon whose lease has just run out, or by hand, and then it never expires.
            return self._put(found)
        other = (
            "a machine that cannot be read" if known is None else f"the machine at {known.ip or 'an unknown address'}"
        )
        raise DuplicateMachine(
            f"{other} is registered with this machine's id",
            where=self._key,
            hint=f"after a reboot this passes within {self._ttl_s} s; if it stays, give one of the two a new "
            "/etc/machine-id",
        )

    def _adopt(self, found: KeyValue, known: Machine | None) -> Presence:
        presence = Presence(found.lease, found.create_revision)
        if known != self._machine:
            self._rewrite(presence)
        _LOG.info("resuming the lease of the previous daemon")
        return presence

    def _rewrite(self, presence: Presence) -> None:
        """Write the key's value again, if it is still this registration's; if not, that is found out elsewhere."""
        guard = Compare.created(self._key, "==", presence.fence)
        self._client.txn([guard], [Op.put(self._key, codec.machine_bytes(self._machine), lease=presence.lease)])

    def _put(self, found: KeyValue | None) -> Presence:
        """Write the key under a new lease, if it still is as ``found``."""
        lease = self._client.lease_grant(self._ttl_s)
        value = codec.machine_bytes(self._machine)
        compare = Compare.modified(self._key, "==", 0 if found is None else found.mod_revision)
        done = self._client.txn([compare], [Op.put(self._key, value, lease=lease.id)])
        if not done.succeeded:
            self._client.lease_revoke(lease.id)
            raise DuplicateMachine("this machine's key was changed while it registered", where=self._key)
        _LOG.info("this machine is registered, with a lease of %d s", self._ttl_s)
        return Presence(lease.id, done.revision if found is None else found.create_revision)
