"""How etcd members find each other: the discovery service, and the node's side of it.

Nouns: a *token* represents a cluster that is to be formed, of a *size*; machines *register* under it, and the first of
them, as many as the size, are its *members*. :mod:`discovery.registry` is the pure state of all tokens,
:mod:`discovery.server` serves it over HTTP to unmodified etcd, :mod:`discovery.client` reads one token,
:mod:`discovery.join` decides what a node's etcd becomes. See docs/discovery.md.
"""
