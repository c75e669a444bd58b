"""Flotilla's version, defined only here.

pyproject.toml reads it from here; a node has no package metadata."""

VERSION = "0.1.0"
