"""Nodes without virtual machines: the image's systemd as PID 1 of namespaces of this computer's kernel.

``docs/namespaces.md`` describes their uses.
"""
