"""Units over machines: what a user wants, which machine runs it, and what became of it.

From the ground up: ``model`` (machines, units, states; how etcd keeps them), ``scheduler`` (pure), then side by side
``engine`` (the leader), ``agent`` (every machine), ``api`` (the HTTP API) and ``ctl`` (fleetctl); ``daemon`` (fleetd)
runs the first three. How it fits together: docs/fleet-internals.md.
"""
