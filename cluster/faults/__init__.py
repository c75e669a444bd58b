"""Faults of nodes, their disks and clocks, as the supervisor applies them and keeps the book of them."""
