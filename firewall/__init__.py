"""Who may come in at which door of a node, by nftables: a table of our own, beside docker's and whoever else has one.

Three nouns. A *door* is a port where the node's own services listen: etcd's, its peers', fleet's API. A *container* is whoever comes by a bridge or a veth
that is no card of the node's own; its address tells nothing, since it leaves the node with the node's. *Neighbours* are the networks of the node's own
cards. :mod:`firewall.ruleset` writes the whole table, which is loaded before anything listens; :mod:`firewall.neighbours` reads the kernel's links and
routes, and :mod:`firewall.keeper` keeps the table's sets of neighbours in step with them.

docs/firewall.md says what it protects against. The standard library only: it runs on every boot of every node.
"""
