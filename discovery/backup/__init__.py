"""Backups of etcd: taken by each member of its own data, and proven before they count.

A *snapshot* is a member's data in one file; a *backup* is a snapshot that a scratch etcd was started from, with the
hash, the revision and the number of keys of the member. The *shelf* is the folder that has the backups
(:mod:`discovery.backup.shelf`); :mod:`discovery.backup.scratch` is the proof, :mod:`discovery.backup.take` the whole.
See docs/etcd.md.
"""
