"""A cluster of etcd that has lost its quorum for good starts again from one member: ``discovery restore``.

A *source* is what it starts from: the data of this node's own member, or a backup. :mod:`discovery.restore.facts` has
what is known and which source is best, pure; :mod:`discovery.restore.survey` looks; :mod:`discovery.restore.restoring`
does it. See docs/etcd.md.
"""
