"""Nodes without virtual machines: systemd of the image as PID 1 of namespaces of this computer's kernel. ``docs/namespaces.md`` says what that is good for."""
