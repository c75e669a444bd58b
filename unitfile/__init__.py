"""Units as text: unit files and unit names, for systemd, fleet and user-data.

``text`` reads unit files (options by section, in order, with line numbers) and writes them canonically; ``name`` takes
names apart and expands the specifiers that depend on them; ``install`` reads ``[Install]`` and knows the links that it
stands for. ``lint`` finds what is wrong with a unit before any systemd reads it; it uses ``directives`` (systemd's own
list, as data), ``values``, ``command``, ``times`` and ``whole`` (the rules by which systemd refuses a unit).

All of it is pure: no file but the list is opened, no systemd is needed. Nodes import it, so it needs the standard
library and ``terminal`` only, and each module imports only what it uses.
"""
