"""Clusters for tests: the pytest plugin, faults at random, and what consoles and journals report."""
