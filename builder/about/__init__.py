"""Descriptions of a build: manifest, software bill of materials, sizes, times, budget."""
