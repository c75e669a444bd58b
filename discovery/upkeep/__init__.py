"""etcd's membership looks after itself: every node runs it, and the member that leads the others changes the list.

``plan`` decides (pure), ``desired`` is what nodes and the leader say of themselves in etcd, ``look`` is what the leader
sees, ``daemon`` is a node's round, ``command`` the arguments.
"""
