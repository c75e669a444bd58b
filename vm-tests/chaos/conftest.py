"""Here ``cluster`` is the plugin's: a fresh one for each test."""

from cluster.pytest import cluster

__all__ = ["cluster"]
