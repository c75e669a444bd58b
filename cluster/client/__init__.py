"""A cluster and its nodes as a command or a test holds them.

Every call becomes a request to the supervisor, or goes to the node by ssh.
"""
