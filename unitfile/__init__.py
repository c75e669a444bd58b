"""Units as text: what systemd, fleet and user-data mean by a unit file and by a unit's name.

``text`` reads unit files (options by section, in order, with line numbers) and writes them canonically; ``name`` takes names apart and
expands the specifiers that depend on them; ``install`` reads ``[Install]`` and knows the links that it stands for. All of it is pure:
no file is opened, no systemd is needed. Nodes import it, so it needs the standard library and ``terminal`` only, and each module
imports only what it uses.
"""
