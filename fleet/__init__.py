"""Units over machines: what a user wants, which machine runs it, and what became of it.

Values: ``requirements`` (``[X-Fleet]``) and ``model``, over the room ``unitfile``. State in etcd: ``codec`` (values), ``registry`` (keys).
Deciding: ``schedule`` over ``index``, with ``reasons``; pure. Acting: ``engine`` with ``departures`` (the leader), ``agent`` with
``registration``, ``work`` and ``unitstore`` (each machine), ``systemd`` (D-Bus). Around them ``daemon`` (fleetd), ``feed`` and
``config``; ``api`` is the HTTP API, ``ctl`` is fleetctl. How it fits together: docs/fleet-internals.md.
"""
