"""A node's maintenance of itself: it keeps room on its disk. See docs/room.md.

:mod:`upkeep.space` decides what goes (pure), :mod:`upkeep.docker` talks to docker, :mod:`upkeep.journal` writes the
journal, :mod:`upkeep.cli` is the command ``flotilla-room``, which a timer starts. Imports the standard library,
``terminal`` and :mod:`webserver.unix`.
"""
