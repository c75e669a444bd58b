"""Redis in a container of a node."""

from __future__ import annotations

from cluster.client.node import Node

from .conftest import until

IMAGE = "dockerfile/redis"
START_S = 120


def running(node: Node, name: str, options: str = "") -> None:
    """Start redis as the container ``name``; returns when it answers."""
    node.root(f"docker run --detach --name {name} {options} {IMAGE}", 300)
    until(f"{name} answers", lambda: answers(node, name), START_S)


def answers(node: Node, name: str) -> bool:
    """Whether redis in the container ``name`` says PONG."""
    return node.root(f"docker exec {name} redis-cli ping", 120).out.strip() == "PONG"
