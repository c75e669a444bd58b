"""The services of a node to the owner of its hypervisor, over a virtio port instead of a network.

They are a root shell, and reports on the progress of its start.

Five nouns. A *message* is one JSON object on a line (:mod:`guest.lines`). The *agent* (:mod:`guest.agent`) is the one
process that has the port open. It runs *commands* (:mod:`guest.command`), many at once, and *watches*
(:mod:`guest.watch`): lists of conditions that it reports when they come true. A *conversation*
(:mod:`guest.conversation`) is one request to a server of the node itself, made for a watch.

docs/guest.md has the messages. This package knows nothing of the other packages, and imports the standard library only,
and little of that: the agent starts on every boot of every emulated node, where an import is paid for tenfold.
"""
