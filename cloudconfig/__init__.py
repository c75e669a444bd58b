"""User-data: what makes one image many machines.

The nouns, in the order of the flow: *user-data* (bytes from a datasource) is one or more *parts*; a cloud-config part
is read into a *tree* with line marks, the tree into a *config* (frozen values) plus *findings*; a config becomes a
*plan* (every file, link, account and command, written out, hashed); the plan is *applied* under a root, all or nothing.

On the host: ``validate``, ``render``, ``seed``. On the node: ``datasource``, ``apply``, ``status``. The node's CPU may
be emulated, so what the node imports is the standard library and PyYAML, and each command imports only what it needs.
"""
