"""Access to a node's ports, by nftables: a table of our own, beside those of docker and of others.

Three nouns. A *door* is a port where the node's own services listen: etcd's, its peers', fleet's API. A *container* is
any source behind a bridge or a veth that is no card of the node's own; its address does not identify it, since its
traffic leaves the node with the node's address. *Neighbours* are the networks of the node's own cards.
:mod:`firewall.ruleset` writes the whole table, which is loaded before anything listens; :mod:`firewall.neighbours`
reads the kernel's links and routes, and :mod:`firewall.keeper` keeps the table's sets of neighbours in step with them.

docs/firewall.md says what it protects against. The standard library only: it runs on every boot of every node.
"""
