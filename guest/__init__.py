"""What a node does for whoever owns its hypervisor: a root shell, and word of how far it is, over a virtio port instead of a network.

Five nouns. A *message* is one JSON object on a line (:mod:`guest.lines`). The *agent* (:mod:`guest.agent`) is the one process that has the
port open. It runs *commands* (:mod:`guest.command`), many at once, and *watches* (:mod:`guest.watch`): lists of conditions of which it tells
when they come true. A *conversation* (:mod:`guest.conversation`) is one question to a server of the node itself, asked for a watch.

docs/guest.md has the messages. This room knows nothing of the rest of the house, and imports the standard library only, and little of
that: the agent starts on every boot of every emulated node, where an import is paid for tenfold.
"""
