"""Which Flotilla this is: the one place that says it (pyproject.toml reads it from here; a node has no package metadata)."""

VERSION = "0.1.0"
