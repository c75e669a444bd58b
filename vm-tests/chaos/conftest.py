"""Here ``cluster`` is the plugin's: a fresh one for each test."""

from cluster.testing.plugin import cluster

__all__ = ["cluster"]
