"""What a node does for itself while it runs: it sees to the room on its disk. docs/room.md.

:mod:`upkeep.space` decides what goes (pure), :mod:`upkeep.docker` asks docker, :mod:`upkeep.journal` tells, :mod:`upkeep.cli` is the command
``flotilla-room``, which a timer starts. Imports the standard library and ``terminal``.
"""
